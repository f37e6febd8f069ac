"""Checks that several parts of an experiment share."""

from collections.abc import Iterable
from typing import Any

from harness.core.errors import UserError


def duplicates(values: Iterable[Any]) -> list[Any]:
    """Returns the values that occur again, as first written; they need not be hashable."""
    seen: list[Any] = []
    repeated: list[Any] = []
    for value in values:
        if value in seen:
            repeated.append(seen[seen.index(value)])
        else:
            seen.append(value)
    return repeated


def refuse_duplicates(values: Iterable[Any], where: str, advice: str = "") -> None:
    """Raises `UserError` naming the first value that occurs twice; `advice` ends the sentence."""
    for value in duplicates(values):
        raise UserError(f"{where}: {'none' if value is None else repr(value)} is given twice{advice}")
