"""What an experiment can name, and which options each part has."""

import inspect
from typing import Any

from pydantic_core import PydanticUndefined

from harness.core.config import Config
from harness.core.errors import unknown
from harness.core.registry import Registry
from harness.data.config import SOURCES, DataConfig
from harness.sweep.experiment import STUDIES, known_experiments


def registries() -> list[Registry]:
    """Returns the registries of everything that an experiment names."""
    return [
        STUDIES,
        SOURCES,
        *(registry for name in STUDIES.names() for registry in STUDIES.load(name).registries),
    ]


def catalogue() -> dict[str, list[str]]:
    """Returns names by kind."""
    return {"experiment": sorted(known_experiments()), **{one.kind: one.names() for one in registries()}}


def describe(name: str) -> str:
    """Returns what the part called `name` is, and its options with their defaults. Raises `UserError`."""
    texts = [_text(registry, name) for registry in registries() if name in registry.names()]
    if name in known_experiments():
        texts.append(known_experiments()[name].read_text(encoding="utf-8").rstrip())
    if not texts:
        raise unknown("part", name, [known for names in catalogue().values() for known in names])
    return "\n\n".join(texts)


def _text(registry: Registry, name: str) -> str:
    part = registry.load(name)
    about = inspect.getdoc(part) or ""
    if registry is SOURCES:
        about = f"{inspect.getdoc(inspect.getmodule(part))}\n\nOptions of every data set:"
        options = _options(DataConfig)
    else:
        options = _options(part if hasattr(part, "model_fields") else part.Config)
    return "\n".join([f"{registry.kind} {name} ({registry.where(name)})", about, *options])


def _options(model: type[Config]) -> list[str]:
    return [f"  {name}: {_default(field)}" for name, field in model.model_fields.items() if name != "name"]


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return repr(field.default_factory())
    return "(needed)" if field.default is PydanticUndefined else repr(field.default)
