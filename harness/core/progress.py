"""How far work on a stage is: reported by workers as numbers, formatted by the display."""

from typing import NamedTuple


class Progress(NamedTuple):
    """How far a piece of work is. None for what is unknown or does not apply."""

    done: int
    total: int
    unit: str = "step"  # what `done` and `total` count
    networks: int | None = None  # how many networks are worked on together
    workers: int = 1
    loss: float | None = None
    rate: float | None = None  # examples per second
    examples: str = "images"  # what `rate` counts
    seconds_left: float | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.done >= self.total
