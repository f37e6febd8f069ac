"""The page's sections: a study each, the table whose rows make it appear, and the tables of HTML that it shows."""

from collections.abc import Callable
from typing import NamedTuple

from markupsafe import Markup

from harness.report import answer_features, answer_weights, honest_panel, transfer, unified
from harness.report.tables import Tables
from harness.report.trial_results import Trial, settings


class Section(NamedTuple):
    """One study's section; it appears if its table has rows."""

    title: str
    table: str  # of `harness.core.rows.TABLES`
    above: Callable[[Tables, list[Trial]], Markup] | None = None  # HTML before the figures
    below: Callable[[Tables, list[Trial]], Markup] | None = None  # HTML after them


def _weights(tables: Tables, results: list[Trial]) -> Markup:
    if not results:
        return Markup()
    return answer_weights.accuracy_table(settings(tables)) + honest_panel.to_html(results)


def _features(tables: Tables, results: list[Trial]) -> Markup:
    return answer_features.top_tables(tables) + transfer.to_html(tables)


def _generation(tables: Tables, results: list[Trial]) -> Markup:
    return unified.to_html(tables)


SECTIONS = {
    "features": Section("Study 1: what the features know", "features", below=_features),
    "cka": Section("Study 1: which representations are alike", "similarity"),
    "generation": Section("Study 1: generation beside recognition", "generation", above=_generation),
    "weights": Section("Study 2: weights written by diffusion", "weights", above=_weights),
}
