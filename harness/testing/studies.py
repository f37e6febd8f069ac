"""The contract of a study: `harness.core.study.Study`. Subclass `StudyContract` in a test file of yours."""

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.core.artifacts import ArtifactStore
from harness.core.config import parse
from harness.core.registry import load_attribute
from harness.core.stages import Context, Stage, Trial, run
from harness.core.storage import Storage
from harness.core.study import Study
from harness.core.tables import CORRECTNESS, Role, Table
from harness.data.config import DataConfig
from harness.data.dataset import Images
from harness.sweep.experiment import BaseExperiment
from harness.sweep.studies import STUDIES

DATA = {"max_train": 100, "max_validation": 30, "max_test": 40}


class StudyContract:
    """The requirements of `harness.core.study.Study`, as tests. A subclass sets `where` and `section`."""

    where: ClassVar[str]  # "module:attribute" of the study
    section: ClassVar[dict[str, Any]]  # a minimal section of an experiment, with a few trials
    data: ClassVar[dict[str, Any]] = DATA  # the `data:` section: handwritten digits by default
    refused: ClassVar[dict[str, Any]] = {}  # invalid values of the section, to be refused with one line

    @pytest.fixture
    def study(self) -> Study:
        """The study."""
        found: Study = load_attribute(self.where)
        return found

    @pytest.fixture
    def images(self) -> Images:
        """The data set for which trials are planned."""
        return Images.read(parse(DataConfig, self.data, "data"), seed=0)

    @pytest.fixture
    def trials(self, study: Study, images: Images) -> list[Trial]:
        """The trials of the minimal experiment."""
        return study.trials(parse(study.Config, self.section, study.name), images, 0)

    def test_it_has_a_name_a_question_and_tables(self, study: Study) -> None:
        """Its name is that of its section, its docstring is the question, its tables are declared."""
        assert study.name.isidentifier()
        assert study.name == study.name.lower(), "the name must be lower case"
        assert study.name not in BaseExperiment.model_fields, (
            f"every experiment has a key {study.name!r}: choose another name"
        )
        assert (study.__doc__ or "").strip(), (
            "the class needs a docstring with its question, which `describe` shows"
        )
        assert study.tables, "a study needs at least one table for its rows"
        for table in study.tables:
            assert table.title or table.detail, f"{table.name}: a table of results needs a title for the page"

    def test_it_is_registered_under_its_name(self, study: Study) -> None:
        """Experiments find it by an entry point, or by a line in `harness.sweep.studies`."""
        assert study.name in STUDIES.names(), f"there is no entry point study.{study.name} = {self.where!r}"
        assert STUDIES.load(study.name) is study, f"study.{study.name} is another object than {self.where!r}"

    def test_every_column_says_what_it_is(self, study: Study) -> None:
        """Names are unique, and meanings are one line."""
        for table in study.tables:
            names = table.schema.names
            assert len(set(names)) == len(names), (
                f"{table.name}: a duplicate column, or one that all tables have"
            )
            for column in table.columns:
                assert column.meaning, f"{table.name}.{column.name} has no meaning"
                assert "\n" not in column.meaning, f"{table.name}.{column.name}: the meaning must be one line"
            assert Table.of(table.schema) == table, "the declaration must be readable from a file's schema"

    def test_trials_are_planned_the_same_way_twice(
        self, study: Study, images: Images, trials: list[Trial]
    ) -> None:
        """The same arguments give the same trials, each with its own key."""
        again = study.trials(parse(study.Config, self.section, study.name), images, 0)
        keys = [trial.key for trial in trials]
        assert keys == [trial.key for trial in again], "keys must depend on the arguments alone"
        assert len(set(keys)) == len(keys), "two trials have the same key: they need different axes"
        assert trials, "the minimal section must have trials"

    def test_what_trials_sweep_are_columns_of_their_table(self, study: Study, trials: list[Trial]) -> None:
        """Axes are declared, and so is the objective."""
        tables = {table.name: table for table in study.tables}
        for trial in trials:
            assert trial.study == study.name
            table = tables[trial.table]
            strange = set(trial.axes) - {column.name for column in table.columns}
            assert not strange, f"axes {sorted(strange)} are not columns of {table.name}"
            assert trial.objective in table.names(Role.METRIC), "the objective must be a metric of that table"

    def test_stages_and_trials_name_existing_functions(self, trials: list[Trial]) -> None:
        """Otherwise only a worker would notice a wrong name."""
        codes = {trial.code for trial in trials}
        codes |= {stage.code for trial in trials for stage in _below(trial.stages)}
        for code in codes:
            assert callable(load_attribute(code.function)), code.function

    def test_planning_imports_neither_torch_nor_ray(self) -> None:
        """Planning happens on laptops, at every start."""
        program = f"import sys; from harness.core.registry import load_attribute as load; load({self.where!r}).Config"
        program += "; print([name for name in ('torch', 'ray', 'diffusers') if name in sys.modules])"
        command = [sys.executable, "-c", program]
        environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "[]", "import them in the functions that do the work"

    def test_a_trial_ends_in_rows_of_the_declared_tables(
        self, study: Study, trials: list[Trial], tmp_path: Path
    ) -> None:
        """Every trial has one row in its table; all rows fit the declared columns."""
        context = Context(
            ArtifactStore(Storage(str(tmp_path))), {"run": "test"}, ray=False, accelerators=False
        )
        tables = {table.name: table for table in (*study.tables, CORRECTNESS)}
        for trial in trials:
            outcome = run(trial, context, "cpu")
            rows = outcome.tables[trial.table]
            assert not outcome.failed, rows[0]["error"]
            detail = tables[trial.table].detail
            assert not detail, f"{trial.table} is a detail table: trials need a table of their own"
            for name, found in outcome.tables.items():
                tables[name].filled(found)
            metrics = {column.name for column in tables[trial.table].columns if column.expected}
            for row in rows:
                gaps = [name for name in metrics if row.get(name) is None]
                assert not gaps, f"{gaps} must be set for every successful trial"

    def test_invalid_values_are_refused_in_one_line(self, study: Study, images: Images) -> None:
        """Invalid values raise a `UserError` that names them."""
        from harness.core.errors import UserError

        for name, value in self.refused.items():
            with pytest.raises(UserError, match=name) as caught:
                study.trials(parse(study.Config, {**self.section, name: value}, study.name), images, 0)
            assert "\n" not in str(caught.value)


def _below(stages: list[Stage]) -> list[Stage]:
    return [stage for one in stages for stage in (one, *_below(one.before))]
