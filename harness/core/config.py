"""Typed configuration: every component owns a `Config`; YAML in, one-line errors out."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, SerializeAsAny, ValidationError

from harness.core.errors import UserError, did_you_mean
from harness.core.registry import Registry

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of all configuration: unknown keys and wrong types are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    def keyed(self) -> dict[str, Any]:
        """Returns the values on which results depend, as JSON-like data: all but those made by `unkeyed`."""
        values: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if (field.json_schema_extra or {}) == _UNKEYED:
                continue
            values[name] = _plain(getattr(self, name))
        return values


_UNKEYED = {"keyed": False}


def unkeyed(default: Any, **constraints: Any) -> Any:
    """Declares a field that changes how fast a result comes, never what it is (workers, batch of a forward pass)."""
    return Field(default, json_schema_extra=_UNKEYED, **constraints)  # type: ignore[call-overload]


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.keyed()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping from `path`; raises `UserError` if it is not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    try:
        values = yaml.safe_load(text)
        json.dumps(values, default=str)  # refuses keys and references that only YAML has
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise UserError(f"{path}{line}: not valid YAML: {problem}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, got {type(values).__name__}")
    return values


def with_settings(values: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Returns `values` with each "path.to.key=value" of `settings` applied; values are read as YAML."""
    merged = json.loads(json.dumps(values, default=str))
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise UserError(f"--set {setting!r}: expected path=value, such as seed=1")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise UserError(f"--set {setting!r}: the value is not valid YAML") from None
        _assign(merged, path.strip().split("."), value, setting)
    return merged


def _assign(values: Any, path: list[str], value: Any, setting: str) -> None:
    for depth, step in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(values, list):
            if not step.isdecimal() or int(step) >= len(values):
                raise UserError(f"--set {setting!r}: {step!r} is no place in a list of {len(values)}")
            place: Any = int(step)
        elif isinstance(values, dict):
            place = step
            if not last and values.get(step) is None:
                values[step] = {}
        else:
            raise UserError(f"--set {setting!r}: {'.'.join(path[:depth])!r} holds {values!r}, not a mapping")
        if last:
            values[place] = value
        else:
            values = values[place]


def parse(model: type[C], values: Any, where: str) -> C:
    """Makes a `model` of plain `values`; raises `UserError` naming the place, the value and what is allowed."""
    try:
        return model.model_validate_json(json.dumps(values, default=str))
    except (TypeError, RecursionError) as error:  # keys that JSON has no word for
        raise UserError(f"{where}: {error}") from None
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(model, error)}") from None


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    place = ".".join(str(step) for step in first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, first["loc"][:-1])
        return f"unknown key {place!r}; {did_you_mean(first['loc'][-1], known)}{more}"
    if first["type"] == "missing":
        return f"{place!r} is missing{more}"
    message = first["msg"].removeprefix("Value error, ")
    shown = json.dumps(first["input"], default=str, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    prefix = f"{place} = {shown}: " if place else ""
    return f"{prefix}{message}{more}"


def _fields_at(model: Any, path: tuple[Any, ...]) -> list[str]:
    """Returns the keys allowed at `path` below `model`, looking through lists and unions."""
    models = [model]
    for step in path:
        found: list[Any] = []
        for candidate in models:
            field = candidate.model_fields.get(step)
            found += _models_in(field.annotation) if field is not None else []
            if isinstance(step, int) or field is None:
                found += [candidate]
        models = found
    return sorted({name for candidate in models for name in candidate.model_fields})


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def part(registry: Registry) -> Any:
    """Returns the type of a field that holds a registered part: its name, or {name: NAME, **options}.

    The registry leads to a subclass of `Config` with a field `name`; the value is checked by that class.
    """

    def choose(value: Any) -> Config:
        if isinstance(value, Config):
            return value
        options = {"name": value} if isinstance(value, str) else value
        if not isinstance(options, dict) or not isinstance(options.get("name"), str):
            raise ValueError(f"expected a {registry.kind} by name; known: {', '.join(registry.names())}")
        try:
            model = registry.load(options["name"])
            return model.model_validate_json(json.dumps(options))
        except UserError as error:
            raise ValueError(str(error)) from None
        except ValidationError as error:
            raise ValueError(_explain(model, error)) from None

    return Annotated[Config, PlainValidator(choose), SerializeAsAny()]
