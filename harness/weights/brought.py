"""Users' own checkpoints: a folder of files as a pool, and the network that they belong to.

All files are read, and checked, while the sweep is planned; the stages read them again on the same machine, and name
their content by checksums. What reads them is `harness.weights.checkpoint_files`; no torch here.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.core.errors import UserError
from harness.core.fingerprint import checksum, fingerprint
from harness.core.paths import existing_file, existing_path
from harness.core.registry import load_attribute
from harness.core.stages import Code, Stage
from harness.models.classifiers.networks import Outline
from harness.weights.config import PoolConfig
from harness.weights.layout import Layout

BROUGHT_NETWORK = Code("brought network", 1, "harness.weights.checkpoint_files:make_network")
BROUGHT_TRAJECTORY = Code("brought trajectory", 1, "harness.weights.checkpoint_files:make_trajectory")
ENDINGS = (".safetensors", ".pt", ".pth", ".bin")


def brought(
    pool: PoolConfig, settings: Mapping[str, Any], outline: Outline, layout: Layout, least: int
) -> tuple[Stage, Stage]:
    """Returns the stage with the network, and that with the trajectory, of the checkpoints in `pool.path`.

    The files in the natural order of their names are the trajectory; `pool.base`, else the last of them, is the
    network. A base that lies in the folder is no checkpoint. Each file holds the varied parameters of `layout`, or
    all parameters, those beside the varied ones equal to the base's; running statistics that are not in the layout
    may differ, and the base's are used. Raises `UserError` naming the first file that is otherwise, and for fewer
    than `least` checkpoints.
    """
    files = _checkpoints(pool, least)
    base = _file(pool.base) if pool.base is not None else files[-1]
    states = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in (base, *files)]
    key = fingerprint([states, settings, layout.names, pool.base is not None])
    if key not in _checked:
        load_attribute("harness.weights.checkpoint_files:check")(files, base, outline, layout)
        _checked[key] = _stages(files, base, settings, layout)
    return _checked[key]


_checked: dict[str, tuple[Stage, Stage]] = {}  # a plan asks for the same files for every seed and variation


def _stages(
    files: Sequence[Path], base: Path, settings: Mapping[str, Any], layout: Layout
) -> tuple[Stage, Stage]:
    network = Stage(
        kind="network",
        code=BROUGHT_NETWORK,
        config={"network": dict(settings), "brought": checksum(base)},
        options={"path": str(base)},
        here=True,
    )
    trajectory = Stage(
        kind="trajectory",
        code=BROUGHT_TRAJECTORY,
        config={
            "brought": [checksum(file) for file in files],
            "steps": steps_of([file.stem for file in files]),
            "names": list(layout.names),
            "shapes": [list(shape) for shape in layout.shapes],
        },
        needs={"network": network},
        options={"paths": [str(file) for file in files]},
        here=True,
    )
    return network, trajectory


def steps_of(names: Sequence[str]) -> list[int]:
    """Returns the first number in each name that grows from name to name; else 0, 1, 2, ..."""
    for column in zip(*(re.findall(r"\d+", name) for name in names), strict=False):
        steps = [int(number) for number in column]
        if all(before < after for before, after in pairwise(steps)) and steps[-1] < 2**63:
            return steps
    return list(range(len(names)))


def _checkpoints(pool: PoolConfig, least: int) -> list[Path]:
    """Returns the files of the folder but for the base, 2 before 10."""
    folder = existing_path(pool.path or "")
    if folder is None or not folder.is_dir():
        raise UserError(f"weights.pool.path {_short(pool.path)!r}: no such folder; give one with checkpoints")
    base = _file(pool.base) if pool.base is not None else None
    found = [file for file in _listed(folder) if file.suffix.lower() in ENDINGS and file.is_file()]
    files = sorted((file for file in found if base is None or not file.samefile(base)), key=_natural)
    if not files:
        raise UserError(f"weights.pool.path {pool.path!r}: has no checkpoints, *{', *'.join(ENDINGS)}")
    if len(files) < least:
        raise UserError(
            f"weights.pool.path {pool.path!r}: has {len(files)} checkpoints, but weights.k and weights.pool.held_out "
            f"ask for {least}; add checkpoints, or ask for fewer"
        )
    return files


def _listed(folder: Path) -> list[Path]:
    """Returns what a folder holds, but for hidden files, as machines and editors leave them."""
    try:
        return [file for file in folder.iterdir() if not file.name.startswith(".")]
    except OSError as error:
        raise UserError(
            f"weights.pool.path {_short(str(folder))!r}: cannot be read: {error.strerror}"
        ) from None


def _natural(file: Path) -> list[Any]:
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)]


def _short(text: str | None) -> str:
    return (text or "")[:200]


def _file(text: str) -> Path:
    path = existing_file(text)
    if path is None:
        raise UserError(f"weights.pool.base {_short(text)!r}: no such file; give one with all parameters")
    return path
