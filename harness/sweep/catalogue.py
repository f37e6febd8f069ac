"""What an experiment can name, and which options each part has."""

import inspect
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from harness.core.config import Config
from harness.core.errors import UserError, unknown
from harness.core.registry import Registry
from harness.data.config import SOURCES, DataConfig
from harness.data.dataset import SPLITS, load
from harness.sweep.experiment import STUDIES, find_experiment, known_experiments, load_experiment


def registries() -> list[Registry]:
    """Returns the registries of everything that an experiment names; studies may share one."""
    parts = [registry for name in STUDIES.names() for registry in STUDIES.load(name).registries]
    return [STUDIES, SOURCES, *dict.fromkeys(parts)]


def catalogue() -> dict[str, list[str]]:
    """Returns names by kind."""
    return {"experiment": sorted(known_experiments()), **{one.kind: one.names() for one in registries()}}


def describe(name: str) -> str:
    """Returns what the part called `name` is, and its options with their defaults. Raises `UserError`."""
    texts = [_text(registry, name) for registry in registries() if name in registry.names()]
    if name in known_experiments() or Path(name).suffix in (".yaml", ".yml"):
        texts += _experiment(name)
    if not texts:
        raise unknown("part", name, [known for names in catalogue().values() for known in names])
    return "\n\n".join(texts)


def _experiment(name: str) -> list[str]:
    """Returns an experiment's file, and what its studies say of it (a backbone's blocks), or why they cannot."""
    texts = [find_experiment(name).read_text(encoding="utf-8").rstrip()]
    try:
        experiment = load_experiment(name, [])
        for study in STUDIES.names():
            config, tell = getattr(experiment, study), getattr(STUDIES.load(study), "describe", None)
            if config is not None and tell is not None:
                texts.append("\n".join(tell(config, *_images(experiment.data, experiment.seed))))
    except UserError as error:
        texts.append(f"no more can be said of it here: {error}")
    return texts


def _images(data: DataConfig, seed: int) -> tuple[int, int]:
    """Returns size and channels of an experiment's images: as it sets them, or else as those of its data set are."""
    if data.size and data.channels:
        return data.size, data.channels
    few = data.model_copy(update={f"max_{split}": 1 for split in SPLITS})
    _, channels, size, _ = load(few, seed).images.shape
    return size, channels


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
    return "(needed)" if field.default is PydanticUndefined else repr(field.default)
