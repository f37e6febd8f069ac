"""Checks that several parts of an experiment share."""

from collections.abc import Hashable, Iterable

from harness.core.errors import UserError


def refuse_duplicates(values: Iterable[Hashable], where: str, advice: str = "") -> None:
    """Raises `UserError` naming the first value that occurs twice; `advice` ends the sentence."""
    seen = set()
    for value in values:
        if value in seen:
            raise UserError(f"{where}: {'none' if value is None else repr(value)} is given twice{advice}")
        seen.add(value)
