"""The page's sections: one for each table of results, with its HTML tables and figures."""

from collections.abc import Callable
from typing import NamedTuple

from markupsafe import Markup

from harness.report import answer_features, answer_weights, honest_panel, result_table, transfer, unified
from harness.report.tables import Tables
from harness.report.trial_results import Trial, settings

PUBLISHED = Markup("are grey and hollow.")


class Section(NamedTuple):
    """One study's section; it appears if its table has rows. Its heading is the table's title."""

    table: str
    above: Callable[[Tables, list[Trial]], Markup] | None = None  # HTML before the figures
    below: Callable[[Tables, list[Trial]], Markup] | None = None  # HTML after them
    published: Callable[[Tables], Markup] | None = None  # a note on the published numbers
    also: tuple[str, ...] = ()  # other tables that it reads; without them the section is a generic one
    generic: bool = False  # shows the results by their declaration alone

    def title(self, tables: Tables) -> str:
        """Returns the heading."""
        return tables.declared[self.table].title or self.table.replace("_", " ").capitalize()


def _weights(tables: Tables, results: list[Trial]) -> Markup:
    if not results:
        return Markup()
    return answer_weights.accuracy_table(settings(tables)) + honest_panel.to_html(results)


def _features(tables: Tables, results: list[Trial]) -> Markup:
    return answer_features.top_tables(tables) + transfer.to_html(tables)


def _generation(tables: Tables, results: list[Trial]) -> Markup:
    return unified.to_html(tables)


SECTIONS = {
    "features": Section("features", below=_features, published=answer_features.published_note),
    "cka": Section("similarity"),
    "generation": Section("generation", above=_generation, also=("features",)),
    "weights": Section(
        "weights", above=_weights, published=answer_weights.published_note, also=("networks",)
    ),
}


def sections(tables: Tables) -> dict[str, Section]:
    """Returns the sections of these tables by name: those in `SECTIONS`, then a generic one for each other table.

    A section in `SECTIONS` is left out where a table that it reads is not declared.
    """
    own = {
        name: section
        for name, section in SECTIONS.items()
        if {section.table, *section.also} <= tables.frames.keys()
    }
    shown = {section.table for section in own.values()}
    return own | {name: _generic(name) for name in tables.results if name not in shown}


def _generic(name: str) -> Section:
    return Section(
        name,
        above=lambda tables, _: result_table.to_html(tables, name),
        generic=True,
    )
