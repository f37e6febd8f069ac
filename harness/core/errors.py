"""Errors meant for people: one line that says what was given, what is allowed and what to do next."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input. The command line prints it as one line and ends with status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns "did you mean 'linear'? known: linear, mlp", without the question where nothing is near."""
    names = sorted(known)
    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    question = f"did you mean {near[0]!r}? " if near else ""
    return f"{question}known: {', '.join(names) or 'none'}"


def unknown(what: str, name: object, known: Iterable[str]) -> UserError:
    """Returns the error for a name that is not among the `known` ones."""
    return UserError(f"unknown {what} {str(name)!r}; {did_you_mean(name, known)}")
