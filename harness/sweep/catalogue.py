"""What experiments can use, which options each part has, and what the columns of tables mean."""

import inspect
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from harness.core.config import Config
from harness.core.errors import UserError, unknown
from harness.core.registry import GROUP, Registry
from harness.core.tables import COMMON, Column, Table
from harness.data.config import SOURCES, DataConfig
from harness.data.dataset import Images
from harness.models.autoencoders.autoencoder import AUTOENCODERS
from harness.models.backbones.family import FAMILIES
from harness.models.noise_processes.process import NOISE_PROCESSES
from harness.sweep.experiment import find_experiment, known_experiments, load_experiment
from harness.sweep.studies import STUDIES, studies, tables


def registries() -> list[Registry]:
    """Returns the registries of everything that experiments can use; studies may share one."""
    parts = [registry for study in studies() for registry in study.registries]
    return [STUDIES, SOURCES, *dict.fromkeys(parts), FAMILIES, AUTOENCODERS, NOISE_PROCESSES]


def catalogue() -> dict[str, list[str]]:
    """Returns names by kind."""
    parts = {one.kind: one.names() for one in registries()}
    strange = [
        entry.name
        for entry in entry_points(group=GROUP)
        if not entry.name.startswith((*(one.prefix for one in registries()), "figure."))
    ]
    found = {"experiment": sorted(known_experiments()), **parts, "table": list(tables())}
    return {**found, "entry points of no known kind": strange} if strange else found


def describe(name: str) -> str:
    """Returns a description of `name`: a part and its options, an experiment, a table, or all "tables".

    Raises `UserError`.
    """
    if name == "tables":
        return dictionary()
    texts = [_text(registry, name) for registry in registries() if name in registry.names()]
    texts += [_table(table) for table in tables().values() if table.name == name]
    if name in known_experiments() or Path(name).suffix in (".yaml", ".yml"):
        texts += _experiment(name)
    if not texts:
        raise unknown("part", name, [known for names in catalogue().values() for known in names])
    return "\n\n".join(texts)


def dictionary() -> str:
    """Returns the data dictionary in Markdown: the columns of all tables first, then each table's own."""
    common = "Columns of all tables:\n\n" + _columns(COMMON)
    return "\n\n".join(["# Data dictionary", common, *(_table(table, "## ") for table in tables().values())])


def _table(table: Table, heading: str = "table ") -> str:
    return f"{heading}{table.name}.parquet: each row is {table.row}.\n\n{_columns(table.columns)}"


def _columns(columns: Sequence[Column]) -> str:
    lines = ["| column | type | role | unit | meaning |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| `{c.name}` | {c.type} | {c.role} | {c.unit} | {c.meaning} |" for c in columns]
    return "\n".join(lines)


def _experiment(name: str) -> list[str]:
    """Returns an experiment's file, and what its studies add (such as a backbone's blocks), or why they cannot."""
    texts = [find_experiment(name).read_text(encoding="utf-8").rstrip()]
    try:
        experiment = load_experiment(name, [])
        size, channels, about = _images(experiment.data, experiment.seed)
        texts.append("\n".join(about))
        for study in studies():
            config = getattr(experiment, study.name)
            if config is not None:
                texts.append("\n".join(study.describe(config, size, channels)))
    except UserError as error:
        texts.append(f"further details are not available here: {error}")
    return texts


def _images(data: DataConfig, seed: int) -> tuple[int, int, list[str]]:
    """Returns size and channels of an experiment's images, and what was read of them.

    Images that cannot be read here need not be if both are configured.
    """
    try:
        images = Images.read(data, seed)
    except UserError as error:
        if data.size and data.channels:
            return data.size, data.channels, [f"images: {error}"]
        raise
    return images.dataset.size, images.dataset.channels, images.stage.options["about"]


def _text(registry: Registry, name: str) -> str:
    part = registry.load(name)
    about = inspect.getdoc(part) or ""
    if registry is SOURCES:
        about = f"{inspect.getdoc(inspect.getmodule(part))}\n\nOptions of every data set:"
        options = _options(DataConfig)
    else:
        model = part if hasattr(part, "model_fields") else getattr(part, "Config", None)
        options = _options(model) if model else []
    return "\n".join([f"{registry.kind} {name} ({registry.where(name)})", about, *options])


def _options(model: type[Config]) -> list[str]:
    return [f"  {name}: {_default(field)}" for name, field in model.model_fields.items() if name != "name"]


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return repr(field.default_factory())
    return "(required)" if field.default is PydanticUndefined else repr(field.default)
