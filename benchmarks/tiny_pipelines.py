"""Makes tiny pipelines of large models, with random weights, for the `_small` twins of their experiments.

python benchmarks/tiny_pipelines.py tiny       # tiny/sdxl, tiny/sd35, tiny/flux, tiny/sana
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))

from tiny_conditional_unets import save_sdxl
from tiny_joint import save_flux
from tiny_language import save_sana
from tiny_models import save_sd3

SAVERS = {"sdxl": save_sdxl, "sd35": save_sd3, "flux": save_flux, "sana": save_sana}


def main() -> None:
    """Writes the pipelines that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, save in SAVERS.items():
        if not (folder / name).exists():
            (folder / name).mkdir(parents=True)
            save(folder / name)
        print(folder / name)


if __name__ == "__main__":
    main()
