"""Typed configuration: each component has its own `Config`; YAML in, one-line errors out."""

import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from harness.core.errors import UserError, did_you_mean
from harness.core.registry import Registry

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base class of all configuration: unknown keys and wrong types are errors, values are immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _keep_other_defaults(cls, values: Any) -> Any:
        """Lets a partly given section keep its other defaults: `train: {steps: 5}`."""
        if not isinstance(values, dict):
            return values
        merged = dict(values)
        for name, field in cls.model_fields.items():
            default, given = field.default, values.get(name)
            if isinstance(default, Config) and field.annotation is type(default) and isinstance(given, dict):
                merged[name] = {**default.model_dump(), **given}
        return merged

    version: ClassVar[int | None] = None  # of a part with its own code: increase it when results change

    def keyed(self) -> dict[str, Any]:
        """Returns the values that results depend on, as JSON-like data: all fields except `unkeyed` ones.

        For a part with its own code they include its `version`.
        """
        values: dict[str, Any] = {} if self.version is None else {"version": self.version}
        for name, field in type(self).model_fields.items():
            if (field.json_schema_extra or {}) == _UNKEYED:
                continue
            values[name] = _plain(getattr(self, name))
        return values


_UNKEYED: Any = {"keyed": False}


def part_of(registry: Registry, keyed: Mapping[str, Any]) -> Any:
    """Returns the registered part from what `Config.keyed` returned, as stages and trials carry it."""
    values = {name: value for name, value in keyed.items() if name != "version"}
    return registry.load(values["name"]).model_validate(values)


def unkeyed(default: Any, **constraints: Any) -> Any:
    """Declares a field that affects speed but never results, such as workers or batch."""
    return Field(default, json_schema_extra=_UNKEYED, **constraints)


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.keyed()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


MOST_BYTES = 1_000_000  # of a file: experiments hold settings, not data
MOST_VALUES = 10_000  # in one document with aliases expanded: a few lines of YAML can expand to billions
MOST_DIGITS = 100
DEEPEST = 30
_PLAIN = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")
)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; raises `UserError` if the file does not hold one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object")
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping from `path`; raises `UserError` if it is not one."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(
                f"{path}: file too large: {path.stat().st_size:,} bytes; an experiment has at most {MOST_BYTES:,}"
            )
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: cannot be read: not UTF-8 text: {error.reason} at byte {error.start}"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        values = _plain_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {_problem(error)}") from None
    if not isinstance(values, dict):
        empty = "; the file is empty" if values is None else ""
        raise UserError(f"{path}: expected a mapping of keys to values, got {type(values).__name__}{empty}")
    return values


def _problem(error: yaml.YAMLError) -> str:
    """Returns the message of a YAML error, with its context where the problem alone is half a sentence."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return f"{getattr(error, 'context', None) or ''} {problem}".strip()


class _Loader(yaml.SafeLoader):
    """Reads 1e20 and 1.0e20 as numbers, as JSON and YAML 1.2 do; YAML 1.1 wants 1.0e+20."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _plain_yaml(text: str) -> Any:
    """Returns mappings, lists, strings and numbers; raises `YAMLError` for anything else in YAML."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, [], {})
        return loader.construct_document(node)
    except RecursionError:
        raise _refusal("lists and mappings are nested too deeply") from None
    except ValueError as error:
        raise _refusal(str(error)) from None
    finally:
        loader.dispose()


def _refusal(problem: str, node: yaml.Node | None = None) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark if node else None)


def _count(node: yaml.Node, above: list[yaml.Node], counted: dict[yaml.Node, int]) -> int:
    """Returns how many values `node` expands to, and checks that JSON can represent all of them."""
    if node in counted:
        return counted[node]
    if node in above:
        raise _refusal("a value that contains itself", node)
    if len(above) > DEEPEST:
        raise _refusal("lists and mappings are nested too deeply", node)
    parts = _parts(node) if isinstance(node, yaml.CollectionNode) else []
    counted[node] = 1 + sum(_count(part, [*above, node], counted) for part in parts)
    if counted[node] > MOST_VALUES:
        raise _refusal(f"a value that expands to more than {MOST_VALUES:,} values", node)
    _check_scalar(node)
    return counted[node]


def _parts(node: yaml.CollectionNode) -> list[yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        return list(node.value)
    seen = set()
    for key, _ in node.value:
        if key.tag.endswith(":merge"):
            continue
        if key.tag.endswith(":timestamp"):
            raise _refusal(f"YAML reads the key {key.value} as a date; put it in quotes", key)
        if not isinstance(key, yaml.ScalarNode):
            raise _refusal("a key must be a plain string", key)
        key.tag = "tag:yaml.org,2002:str"  # `off` and `1` stay as written
        if key.value in seen:
            raise _refusal(f"key {key.value!r} is given twice", key)
        seen.add(key.value)
    merged = [key for key, _ in node.value if key.tag.endswith(":merge")]
    return [part for pair in node.value for part in pair if part not in merged]


def _check_scalar(node: yaml.Node) -> None:
    if isinstance(node, yaml.ScalarNode) and any("\ud800" <= letter <= "\udfff" for letter in node.value):
        raise _refusal("unpaired surrogate", node)
    if node.tag.endswith(":timestamp"):
        raise _refusal(f"YAML reads {node.value} as a date; put it in quotes", node)
    if node.tag not in _PLAIN:
        raise _refusal(f"the tag {node.tag} is not allowed", node)
    if node.tag.endswith(":int") and len(node.value) > MOST_DIGITS:
        raise _refusal(f"the integer {node.value[:20]}... has {len(node.value)} digits", node)


def with_values(values: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns `values` with those of `given` set at their paths, such as `path.to.key`. Raises `UserError`."""
    merged = json.loads(json.dumps(values, default=str))
    for path, value in given.items():
        _assign(merged, path.split("."), json.loads(json.dumps(value)), f"{where}: {path}")
    return merged


def with_settings(values: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Returns `values` with each "path.to.key=value" of `settings` applied; values are read as YAML."""
    merged = json.loads(json.dumps(values, default=str))
    for setting in settings:
        path, equals, text = setting.partition("=")
        steps = path.strip().split(".")
        if not equals or not all(steps):
            raise UserError(f"--set {setting!r}: expected path=value, such as seed=1")
        try:
            value = _plain_yaml(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {setting!r}: the value is not valid YAML: {_problem(error)}") from None
        _assign(merged, steps, json.loads(json.dumps(value)), f"--set {setting!r}")
    return merged


def _assign(values: Any, path: list[str], value: Any, where: str) -> None:
    for depth, step in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(values, list):
            if not step.isdecimal() or int(step) >= len(values):
                raise UserError(f"{where}: {step!r} is not an index in a list of {len(values)}")
            place: Any = int(step)
        elif isinstance(values, dict):
            place = step
            if not last and values.get(step) is None:
                values[step] = {}
        else:
            raise UserError(f"{where}: {'.'.join(path[:depth])!r} holds {values!r}, not a mapping")
        if last:
            values[place] = value
        else:
            values = values[place]


def parse(model: type[C], values: Any, where: str) -> C:
    """Makes a `model` from plain `values`; raises `UserError` naming the key, its value and what is allowed."""
    try:
        _check_integers(values, "")
        return model.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(model, error, values)}") from None
    except (TypeError, ValueError, RecursionError) as error:  # keys that JSON cannot represent
        raise UserError(f"{where}: {error}") from None


def _check_integers(values: Any, place: str) -> None:
    """Raises `ValueError` for an integer too large for tables and libraries."""
    if isinstance(values, dict | list):
        for step, value in values.items() if isinstance(values, dict) else enumerate(values):
            _check_integers(value, f"{place}.{step}" if place else str(step))
    elif isinstance(values, int) and not -(2**63) <= values < 2**63:
        raise ValueError(f"{place} = {values}: does not fit in 64 bits")


def _explain(model: type[BaseModel], error: ValidationError, values: Any) -> str:
    problems = error.errors(include_url=False)
    places = [_place(problem["loc"], values) for problem in problems]
    more = len(set(places)) - 1
    # Every option of a union reports an error; the one that got deepest is the one that was meant.
    about = [n for n, place in enumerate(places) if place[: len(places[0])] == places[0]]
    deepest = max((places[n] for n in about), key=len)
    more -= len({places[n] for n in about}) - 1
    alike = [problems[n] for n in about if places[n] == deepest]
    return _sentence(model, deepest, alike) + (f" (and {more} more)" if more else "")


def _place(location: tuple[Any, ...], values: Any) -> tuple[Any, ...]:
    """Returns a location without the steps that name options of a union, which do not occur in files."""
    place: list[Any] = []
    for number, step in enumerate(location):
        if isinstance(values, dict) and (step in values or number == len(location) - 1):
            values = values.get(step)
        elif isinstance(values, list) and isinstance(step, int) and step < len(values):
            values = values[step]
        else:
            continue
        place.append(step)
    return tuple(place)


def _sentence(model: type[BaseModel], place: tuple[Any, ...], problems: list[Any]) -> str:
    """Returns what is wrong at `place`, and what is allowed there."""
    first = problems[0]
    path = ".".join(str(step) for step in place)
    if first["type"] == "extra_forbidden":
        return f"unknown key {_short(path, 80)!r}; {did_you_mean(place[-1], _fields_at(model, place[:-1]))}"
    if first["type"] == "missing":
        return f"{path!r} is missing"
    if isinstance(first.get("ctx", {}).get("error"), _PartError) or _about_a_whole_section(first):
        message = first["msg"].removeprefix("Value error, ")
        if not path:  # inside a part, whose location is prepended
            return message
        return f"{path}.{message}" if re.match(r"[\w.]+ = ", message) else f"{path}: {message}"
    wanted = [_wanted(model, place, problem) for problem in problems]
    joined = " or ".join([wanted[0], *(text.removeprefix("Input should be ") for text in wanted[1:])])
    given = json.dumps(first["input"], default=str, ensure_ascii=False)
    return f"{path} = {_short(given, 60)}: {joined}" if path else joined


def _about_a_whole_section(problem: Any) -> bool:
    """Returns whether a section's own check failed: its message then begins with "KEY = VALUE"."""
    return problem["type"] == "value_error" and isinstance(problem["input"], dict)


def _wanted(model: type[BaseModel], place: tuple[Any, ...], problem: Any) -> str:
    """Returns pydantic's message on what is allowed, or a clearer one where it speaks of JSON."""
    kind, given, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"])
        near = get_close_matches(str(given), known, n=1, cutoff=0.5)
        return problem["msg"] + (f"; did you mean {near[0]!r}?" if near and len(known) > 1 else "")
    if kind == "too_short":
        return f"expected at least {context['min_length']} items"
    if kind == "list_type":
        return "Input should be a list" + ("" if isinstance(given, dict | list) else f", such as [{given}]")
    if kind == "model_type":
        return f"expected a mapping of keys to values; known: {', '.join(_fields_at(model, place))}"
    return problem["msg"].removeprefix("Value error, ")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


class _PartError(ValueError):
    """An error inside a registered part."""


def _fields_at(model: Any, path: tuple[Any, ...]) -> list[str]:
    """Returns the keys allowed at `path` in `model`, looking through lists and unions."""
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


def part(registry: Registry) -> PlainValidator:
    """Returns the validator of a field that holds a registered part: its name, or {name: NAME, **options}.

    The registry must lead to a subclass of `Config` with a field `name`, which checks the value.
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
            raise _PartError(_explain(model, error, options)) from None

    return PlainValidator(choose)
