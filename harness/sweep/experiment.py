"""An experiment: one YAML file of values, checked as a whole."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, create_model

import harness
from harness.core.config import Config, parse, read_yaml, with_settings
from harness.core.errors import UserError, unknown
from harness.core.registry import Registry
from harness.data.config import DataConfig

STUDIES = Registry(
    "study",
    {
        "features": "harness.features.study:STUDY",
        "weights": "harness.weights.study:STUDY",
    },
)
RESERVED = ("artifacts", "rows", "training")  # folders of the results that are no experiments

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class SearchConfig(Config):
    """The `search:` section: how many trials of a study's grid are looked at, and which."""

    name: Literal["grid", "optuna"] = "grid"
    trials: int = Field(100, ge=1)  # optuna: different settings a study


class _Base(Config):
    """What every experiment has; each study adds the section of its name."""

    name: Name
    seed: int = Field(0, ge=0, lt=2**63)
    data: DataConfig = DataConfig()
    search: SearchConfig = SearchConfig()


_sections: dict[str, Any] = {name: (STUDIES.load(name).Config | None, None) for name in STUDIES.names()}
Experiment = create_model("Experiment", __base__=_Base, **_sections)


def load_experiment(name: str, settings: list[str]) -> _Base:
    """Reads an experiment by path or name, applies `--set` and checks everything that needs no data.

    Raises `UserError`.
    """
    path = find_experiment(name)
    values = with_settings({"name": path.stem, **read_yaml(path)}, settings)
    experiment = parse(Experiment, values, str(path))
    if experiment.name in RESERVED:
        raise UserError(f"{path}: name {experiment.name!r} is taken by a folder of the results; choose another")
    if all(getattr(experiment, study) is None for study in STUDIES.names()):
        raise UserError(f"{path}: no study; add a section: {', '.join(STUDIES.names())}")
    return experiment


def find_experiment(name: str) -> Path:
    """Returns the file of an experiment: a path, or a name in ./experiments or beside the package."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise UserError(f"experiment {name}: no such file; known: {', '.join(sorted(known_experiments()))}")
        return path
    known = known_experiments()
    if name not in known:
        raise unknown("experiment", name, known)
    return known[name]


def known_experiments() -> dict[str, Path]:
    """Returns the experiments that can be named without a path."""
    folders = [Path(harness.__file__).parents[1] / "experiments", Path("experiments")]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
