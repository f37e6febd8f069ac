"""Registries of the parts that other packages can add: data sources, backbones, heads, controls, figures, studies.

A registry maps a name to "module:attribute", imported on first use. Other packages add parts through the entry point
group `harness.plugins`, with entry names such as `head.my_head`; a space in a kind is written as an underscore, as in
`data_set.my_images`.
"""

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from harness.core.errors import UserError, unknown

GROUP = "harness.plugins"


def load_attribute(where: str) -> Any:
    """Imports "module:attribute" and returns the attribute."""
    module, _, attribute = where.partition(":")
    return getattr(import_module(module), attribute)


class Registry:
    """Finds the parts of one kind by name."""

    def __init__(self, kind: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self._builtin = dict(builtin)

    @property
    def prefix(self) -> str:
        """The prefix of this kind's entry point names."""
        return f"{self.kind.replace(' ', '_')}."

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        """The entry points of this kind by name; raises `UserError` for a name that is already taken."""
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=GROUP):
            name = entry.name.removeprefix(self.prefix)
            if name == entry.name:
                continue
            taken = found[name].value if name in found else self._builtin.get(name)
            if name in self._builtin or taken not in (None, entry.value):
                raise UserError(
                    f"{_described(entry)}: {self.kind} {name!r} is already registered as {taken}; rename the "
                    "entry point or uninstall the package"
                )
            found[name] = entry
        return found

    @cached_property
    def _known(self) -> dict[str, str]:
        return {**self._builtin, **{name: entry.value for name, entry in self._plugins.items()}}

    def names(self) -> list[str]:
        """Returns all names in the order of registration, those of other packages last."""
        return list(self._known)

    def where(self, name: str) -> str:
        """Returns "module:attribute" for `name`; raises `UserError` with the closest name if it is unknown."""
        if name not in self._known:
            raise unknown(self.kind, name, self._known)
        return self._known[name]

    def load(self, name: str) -> Any:
        """Imports and returns the part called `name`; raises `UserError` if a plugin cannot be imported."""
        where = self.where(name)
        if name not in self._plugins:
            return load_attribute(where)
        try:
            return load_attribute(where)
        except Exception as error:  # a plugin's module may raise anything on import
            raise UserError(
                f"{_described(self._plugins[name])}: cannot be imported: {type(error).__name__}: {error}"
            ) from error


def _described(entry: EntryPoint) -> str:
    """Returns the name and value of an entry point, and the package that declares it."""
    package = f" of package {entry.dist.name}" if entry.dist is not None else ""
    return f"entry point {entry.name} = {entry.value}{package}"
