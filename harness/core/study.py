"""What a study is: a question whose trials fill tables. Found by name, open to other packages.

A study is a section of an experiment (`Study.Config`), trials and the stages that these need (`Study.trials`), and
the tables that they fill (`Study.tables`). Subclass `Study`, make one object of it, and register that: in
`harness.sweep.studies`, or as an entry point `study.NAME` of the group `harness.plugins`. Everything here is called
while a sweep is planned, so import neither torch nor ray at module level; stages and trials name the functions that
do the work. `harness.testing.studies` has the tests that a study must pass.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from harness.core.config import Config
from harness.core.registry import Registry
from harness.core.stages import Trial
from harness.core.tables import Table


class Chooser(Protocol):
    """Chooses which trials of a grid are run, as it learns how others did."""

    def next(self, known: Mapping[str, float | None]) -> list[str]:
        """Returns keys of trials to run now, given objectives by key (None: failed); nothing when it is done.

        Called whenever a trial has ended; what is under way may be returned again. Must depend on `known` alone, so
        that a search continues after an interruption.
        """

    def longest(self) -> list[str]:
        """Returns keys of as many trials, and of as much work, as the search takes at most."""


class AutoSearch(Protocol):
    """How a study chooses its own settings, where an experiment says `search: auto`.

    A grid is the searchable trials on one data set, with one seed and one set-up.
    """

    def screens(self, grid: Sequence[Trial]) -> list[Trial]:
        """Returns trials beside the grid that the chooser may ask for; raises `UserError` where that cannot be."""

    def chooser(self, grid: Sequence[Trial], screens: Sequence[Trial], trials: int) -> Chooser:
        """Returns what chooses at most `trials` of `grid`."""


class Shared(NamedTuple):
    """Fields of a section that an experiment need not repeat where another section has them."""

    section: str
    fields: tuple[str, ...]


class Study(Protocol):
    """A question that sweeps answer. Subclass it; what has a default here may be left out."""

    name: ClassVar[str]  # of the section in an experiment; lower case
    Config: ClassVar[type[Config]]  # the section's values
    tables: ClassVar[tuple[Table, ...]]  # that its trials fill; two studies may fill one
    registries: ClassVar[
        tuple[Registry, ...]
    ] = ()  # of the parts that its section names, for `list`, `describe`
    shared: ClassVar[Shared | None] = None  # what it takes over from another study's section
    auto: ClassVar[AutoSearch | None] = (
        None  # how it chooses settings itself; None: `auto` runs its whole grid
    )
    loaders: ClassVar[Mapping[str, str]] = {}  # "module:function" that reads an export, by a file of it

    @abstractmethod
    def trials(self, config: Any, images: Any, seed: int) -> list[Trial]:
        """Returns all trials of an experiment; called once a plan, so it must be quick and write nothing.

        `config` is a `Config`, `images` a `harness.data.dataset.Images`: the experiment's data set. Every axis and
        set-up column that a trial knows beforehand is in its `axes`. The same arguments give the same keys. Raises
        `UserError` for what the data does not allow, naming the value.
        """

    def describe(self, config: Any, size: int, channels: int) -> list[str]:
        """Returns lines for `harness describe EXPERIMENT` about such a section, for square images; none by default.

        Raises `UserError` as `trials` does.
        """
        return []

    def exporter(self, trial: Trial, kind: str) -> str | None:
        """Returns "module:function" that exports what a trial made, None (the default) where nothing can be.

        `kind` is "classifier", "networks" or "more networks". The function gets (trial, row, correct_N, origin,
        folder, context) and returns lines to print.
        """
        return None
