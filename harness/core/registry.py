"""Names for the parts people add: data sources, backbones, heads, controls, figures, studies.

A registry maps a name to "module:attribute", imported on first use. Other packages add theirs through the
entry point group `harness.plugins`, with entry names such as `head.my_head`.
"""

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from harness.core.errors import unknown


def load_attribute(where: str) -> Any:
    """Imports "module:attribute" and returns the attribute."""
    module, _, attribute = where.partition(":")
    return getattr(import_module(module), attribute)


class Registry:
    """Finds the parts of one kind by name."""

    def __init__(self, kind: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self._builtin = dict(builtin)

    @cached_property
    def _known(self) -> dict[str, str]:
        prefix = f"{self.kind}."
        plugins = {
            entry.name.removeprefix(prefix): entry.value
            for entry in entry_points(group="harness.plugins")
            if entry.name.startswith(prefix)
        }
        return {**plugins, **self._builtin}

    def names(self) -> list[str]:
        """Returns all known names, in the order in which they were registered."""
        return list(self._known)

    def where(self, name: str) -> str:
        """Returns "module:attribute" for `name`; raises `UserError` with the nearest name if there is none."""
        if name not in self._known:
            raise unknown(self.kind, name, self._known)
        return self._known[name]

    def load(self, name: str) -> Any:
        """Imports and returns the part called `name`."""
        return load_attribute(self.where(name))
