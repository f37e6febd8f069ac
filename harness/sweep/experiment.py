"""An experiment: one YAML file of values, checked as a whole."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, create_model, model_validator

import harness
from harness.core.config import Config, parse, read_yaml, with_settings
from harness.core.errors import UserError, did_you_mean, unknown
from harness.data.config import DataConfig
from harness.sweep.studies import STUDIES, studies

RESERVED = ("artifacts", "rows")  # folders of the results that are not experiments


def _names_a_folder(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise ValueError("use at most 100 letters, digits, '.', '_' and '-', starting with a letter or digit")
    if name.lower() in RESERVED:
        raise ValueError("reserved for a folder of the results; choose another name")
    return name


Name = Annotated[str, AfterValidator(_names_a_folder)]


class SearchConfig(Config):
    """The `search:` section: how many trials of a study's grid are run, and which.

    "auto" lets the study choose, from what is known about its axes; a study that cannot choose runs its whole grid.
    """

    name: Literal["grid", "random", "tpe", "auto"] = "grid"
    trials: int = Field(
        100, ge=1
    )  # settings per data set and network; auto: at most, counting heads and screens
    method: str | None = None  # auto: how the study chooses, None for its own best; others are for comparison

    @model_validator(mode="after")
    def _method_is_read(self) -> Self:
        if self.method is not None and self.name != "auto":
            raise ValueError(
                f"method = {self.method!r} is for name = 'auto' only; leave it out, or set name=auto"
            )
        return self


def _by_name(search: Any) -> Any:
    return {"name": search} if isinstance(search, str) else search


class BaseExperiment(Config):
    """The sections of every experiment; each study adds the section of its name."""

    name: Name
    seed: int = Field(0, ge=0, lt=2**63)
    data: DataConfig = DataConfig()
    search: Annotated[SearchConfig, BeforeValidator(_by_name)] = SearchConfig()


def _sections() -> dict[str, Any]:
    """Returns the optional section of each study; raises `UserError` for a name that experiments use otherwise."""
    for study in studies():
        if study.name in BaseExperiment.model_fields:
            raise UserError(
                f"study {study.name!r}: every experiment has a key of that name; rename the study"
            )
    return {study.name: (study.Config | None, None) for study in studies()}


Experiment = create_model("Experiment", __base__=BaseExperiment, **_sections())


def load_experiment(name: str, settings: list[str]) -> BaseExperiment:
    """Reads an experiment by path or name, applies `--set` and checks everything that does not need data.

    Raises `UserError`.
    """
    path = find_experiment(name)
    values = _with_shared(with_settings({"name": path.stem, **read_yaml(path)}, settings))
    experiment = parse(Experiment, values, str(path))
    if all(getattr(experiment, study) is None for study in STUDIES.names()):
        raise UserError(f"{path}: no study; add a section, one of: {', '.join(STUDIES.names())}")
    return experiment


def _with_shared(values: dict[str, Any]) -> dict[str, Any]:
    """Completes the sections of studies that share settings with another, such as the backbone."""
    shared = dict(values)
    for study in studies():
        if study.shared is None:
            continue
        own, source = values.get(study.name), values.get(study.shared.section)
        if isinstance(own, dict) and isinstance(source, dict):
            given = {field: source[field] for field in study.shared.fields if field in source}
            shared[study.name] = {**given, **own}
    return shared


def find_experiment(name: str) -> Path:
    """Returns the file of an experiment: a path, or a name in ./experiments or next to the package."""
    path, known = Path(name), known_experiments()
    try:
        there = path.is_file()
    except OSError as error:  # the name is too long
        raise UserError(f"experiment {name[:60]}...: {error.strerror}") from None
    if there:
        return path
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f"experiment {name}: no such file; {did_you_mean(path.stem, known)}")
    if name not in known:
        nearby = path.parent / f"{path.name}.yaml"
        if nearby.is_file():
            raise UserError(f"experiment {name}: not in ./experiments; to use the file here, write {nearby}")
        raise unknown("experiment", name, known)
    return known[name]


def known_experiments() -> dict[str, Path]:
    """Returns the experiments that can be named without a path."""
    folders = [Path(harness.__file__).parents[1] / "experiments", Path("experiments")]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
