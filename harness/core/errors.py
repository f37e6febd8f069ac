"""Errors meant for people: one line that says what was given, what is allowed and what to do next."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches

SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY|API_KEY", re.IGNORECASE)
SHORTEST_SECRET = 8  # characters: shorter values are words


class UserError(Exception):
    """Bad input. The command line prints it as one line and ends with status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(" ".join(str(message).split())))


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns "did you mean 'linear'? known: linear, mlp", without the question where nothing is near."""
    names = sorted(known)
    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    question = f"did you mean {near[0]!r}? " if near else ""
    return f"{question}known: {', '.join(names) or 'none'}"


def unknown(what: str, name: object, known: Iterable[str]) -> UserError:
    """Returns the error for a name that is not among the `known` ones."""
    return UserError(f"unknown {what} {str(name)!r}; {did_you_mean(name, known)}")


def without_secrets(text: str) -> str:
    """Returns a text that is kept or shown, such as a traceback, without what the environment holds as secrets."""
    hidden = {
        value
        for name, value in os.environ.items()
        if SECRET.search(name) and len(value) >= SHORTEST_SECRET and not value.startswith(("/", "~"))
    }
    for value in sorted(hidden, key=len, reverse=True):
        text = text.replace(value, "***")
    return text
