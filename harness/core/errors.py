"""Errors for users: one line that says what was given, what is allowed and what to do next."""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY|API_KEY", re.IGNORECASE)
SHORTEST_SECRET = 8  # characters: shorter values are likely ordinary words


class UserError(Exception):
    """Bad input. The command line prints it as one line and exits with `status`."""

    status = 2

    def __init__(self, message: str) -> None:
        super().__init__(without_secrets(" ".join(str(message).split())))


class Terminated(KeyboardInterrupt):
    """The process was asked to terminate, as clusters and job queues do."""


MOST_NAMED = 20  # faults in one message


class BadData(UserError):
    """Images cannot be read, or have changed since the sweep was planned; `faults` says each."""

    def __init__(self, *faults: str) -> None:
        super().__init__(named(faults))
        self.faults = faults


def named(faults: Sequence[str]) -> str:
    """Returns faults as one line, at most `MOST_NAMED` of them."""
    more = f"; and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
    return "; ".join(faults[:MOST_NAMED]) + more


class FullDisk(UserError):
    """The disk is full: not a fault of the input, and the same command resumes once there is space."""

    status = 1


@contextmanager
def full_disk_explained(where: str) -> Iterator[None]:
    """Turns the error of a full disk into one line of advice."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f" ({error.filename})" if error.filename else ""
        raise FullDisk(
            f"{where}: {error.strerror}{place}; recorded results are kept: free some space and run the same command "
            "to resume"
        ) from None


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns "did you mean 'linear'? known: linear, mlp", without the question if no name is close."""
    names = sorted(set(known))
    near = get_close_matches(str(name), names, n=1, cutoff=0.5)
    question = f"did you mean {near[0]!r}? " if near else ""
    return f"{question}known: {', '.join(names) or 'none'}"


def unknown(what: str, name: object, known: Iterable[str]) -> UserError:
    """Returns the error for a name that is not among the `known` ones."""
    return UserError(f"unknown {what} {str(name)!r}; {did_you_mean(name, known)}")


def without_secrets(text: str) -> str:
    """Returns a text to be stored or shown, such as a traceback, with secrets from the environment masked."""
    hidden = {
        value
        for name, value in os.environ.items()
        if SECRET.search(name) and len(value) >= SHORTEST_SECRET and not value.startswith(("/", "~"))
    }
    for value in sorted(hidden, key=len, reverse=True):
        text = text.replace(value, "***")
    return text
