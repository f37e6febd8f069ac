"""The contract of a study: a question whose trials fill tables. Found by name, open to other packages.

A study has a section in experiments (`Study.Config`), trials with the stages that they need (`Study.trials`), and the
tables that they fill (`Study.tables`). Subclass `Study`, create one object, and register it: in
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
    """Chooses which trials of a grid to run, based on the results of others."""

    def next(self, known: Mapping[str, float | None]) -> list[str]:
        """Returns keys of trials to run now, given objectives by key (None: failed); empty when the search is done.

        Called whenever a trial ends; running trials may be returned again. Must depend on `known` alone, so that an
        interrupted search can resume.
        """

    def longest(self) -> list[str]:
        """Returns keys of trials that stand for the most trials, and the most work, that the search can take."""


class AutoSearch(Protocol):
    """How a study chooses its settings itself, for experiments with `search: auto`.

    A grid consists of the searchable trials on one data set, with one seed and one set-up.
    """

    methods: ClassVar[tuple[str, ...]]  # ways to choose, for `search.method`; the first is the default

    def screens(self, method: str, grid: Sequence[Trial]) -> list[Trial]:
        """Returns trials outside the grid that the chooser may ask for; raises `UserError` if it cannot search it."""

    def chooser(self, method: str, grid: Sequence[Trial], screens: Sequence[Trial], trials: int) -> Chooser:
        """Returns a chooser of at most `trials` trials, fits that it takes outside `grid` included."""


class Shared(NamedTuple):
    """Fields of a section that an experiment need not repeat if another section has them."""

    section: str
    fields: tuple[str, ...]


class Study(Protocol):
    """A question that sweeps answer. Subclass it; members with a default are optional."""

    name: ClassVar[str]  # of its section in experiments; lower case
    Config: ClassVar[type[Config]]  # the values of its section
    tables: ClassVar[tuple[Table, ...]]  # filled by its trials; studies may share a table
    # of the parts that its section can name, for `list` and `describe`
    registries: ClassVar[tuple[Registry, ...]] = ()
    shared: ClassVar[Shared | None] = None  # what it inherits from another study's section
    # how it chooses settings itself; None: `search: auto` runs its whole grid
    auto: ClassVar[AutoSearch | None] = None
    # "module:function" that reads an export, by the name of a file in it
    loaders: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def trials(self, config: Any, images: Any, seed: int) -> list[Trial]:
        """Returns all trials of an experiment; called once per plan, so it must be fast and write nothing.

        `config` is a `Config`, `images` a `harness.data.dataset.Images`: the experiment's data set. A trial's
        `axes` must hold every axis and set-up column known in advance. The same arguments must give the same keys.
        Raises `UserError` for values that the data does not allow, naming the value.
        """

    def describe(self, config: Any, size: int, channels: int) -> list[str]:
        """Returns lines for `harness describe EXPERIMENT` about this section, for square images; none by default.

        Raises `UserError` as `trials` does.
        """
        return []

    def exporter(self, trial: Trial, kind: str) -> str | None:
        """Returns "module:function" that exports what a trial made; None (the default) if it cannot be exported.

        `kind` is "classifier", "networks" or "more networks". The function gets (trial, row, correct_N, origin,
        folder, context) and returns lines to print.
        """
        return None
