"""Writes the page: reads an experiment's tables, lets every part say its piece, embeds all in one file."""

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

import pandas as pd
import plotly.offline

from harness.core.storage import Storage
from harness.core.tables import Table
from harness.report import answer_features, answer_weights, failures, provenance, transfer
from harness.report.correctness import Correctness
from harness.report.figures import FIGURES
from harness.report.figures.figure import Absent, Figure, View, choice_title, levels, succeeded
from harness.report.sections import SECTIONS
from harness.report.tables import Tables, best_row, read_tables
from harness.report.trials import Trial, trials
from harness.report.words import MISSING, escape, plain, several

PUBLISHED_MARK = 'data-beside="published"'
OPENS_WITH = {"axis": "timestep", "cost": "image passes"}  # choices that are no column of the rows


def write_report(storage: Storage, experiment: str, declared: Mapping[str, Table]) -> str:
    """Writes `EXPERIMENT/report.html` from the experiment's tables; returns where it is, as people write it.

    `declared` are the tables of the studies that are installed; those of others speak for themselves.

    Raises `UserError` if the experiment has no tables, or one is not readable or of a newer schema version.
    """
    path = f"{experiment}/report.html"
    storage.write(path, render(read_tables(storage, experiment, declared), experiment).encode())
    return storage.describe(path)


def render(tables: Tables, experiment: str) -> str:
    """Returns the page: one HTML text that needs nothing beside it."""
    figures: dict[str, Any] = {}
    correctness = Correctness(tables.correctness)
    results = trials(tables, correctness)
    sections = [_study(study, tables, results, figures) for study in SECTIONS]
    plotly_js, page_js = plotly.offline.get_plotlyjs(), _file("page.js")
    return Template(_file("page.html")).substitute(
        title=escape(experiment),
        policy=_policy(plotly_js, page_js),
        style=_file("style.css"),
        summary=_summary(tables),
        answer=_answers(tables, results, correctness),
        studies="".join(sections),
        failures=failures.to_html(tables),
        provenance=provenance.to_html(tables),
        data=embedded({"figures": figures}),
        plotly=plotly_js,
        script=page_js,
        written=provenance.moment(time.time()),
    )


def embedded(value: Any) -> str:
    """Returns JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _file(name: str) -> str:
    return files("harness.report").joinpath(name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Returns a Content-Security-Policy: these scripts and no others, no network at all.

    Plotly compiles its WebGL drawing code for parallel coordinates, hence 'unsafe-eval', and sets styles.
    """
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _summary(tables: Tables) -> str:
    frame = provenance.rows_of_trials(tables)
    failed = int((frame["status"] == "failed").sum())
    parts = [several(len(frame) - failed, "result"), f"{failed:,} failed"]
    for column in ("data", "device"):
        values = [escape(value) for value in levels(frame[column])]
        parts += [", ".join(values[:3]) + ("…" if len(values) > 3 else "")] if values else []
    began = frame["began_at"].dropna()
    return " · ".join([*parts, *([provenance.moment(float(began.min()))] if len(began) else [])])


def _answers(tables: Tables, results: list[Trial], correctness: Correctness) -> str:
    text = ""
    if len(tables.features):
        found = answer_features.answers(tables, correctness)
        text += f"<h3>{SECTIONS['features'].title}</h3>"
        text += "".join(answer_features.to_html(answer, named=len(found) > 1) for answer in found)
        text += transfer.sentence(tables)
        text += "" if found else "<p>No probe succeeded, so there is no answer.</p>"
    if len(tables.weights):
        text += f"<h3>{SECTIONS['weights'].title}</h3>{answer_weights.to_html(results)}"
    others = [name for name in ("similarity", "generation") if len(getattr(tables, name))]
    if others and not text:
        return "<p>The figures below have what was measured; there is no setting to choose.</p>"
    return text or "<p>The tables have no rows yet, so there is no answer.</p>"


def _study(study: str, tables: Tables, results: list[Trial], figures: dict[str, Any]) -> str:
    """Returns a study's section, nothing if it has no rows; adds its figures to `figures`."""
    section = SECTIONS[study]
    if not len(getattr(tables, section.table)):
        return ""
    chosen = first_choice(study, tables)
    drawn, undrawn = "", []
    for name in FIGURES.names():
        figure: Figure = FIGURES.load(name)
        if figure.study != study:
            continue
        views = figure.views(tables)
        if isinstance(views, Absent):
            undrawn.append(f"{escape(figure.title)}: {escape(views.why)}")
        else:
            drawn += _figure(name, figure, views, chosen, figures)
    parts = (
        section.above(tables, results) if section.above else "",
        _published_switch(study, tables) if PUBLISHED_MARK in drawn else "",
        drawn,
        _undrawn(undrawn),
        section.below(tables, results) if section.below else "",
    )
    start = (
        f'<section id="{study}" aria-labelledby="{study}-title"><h2 id="{study}-title">{section.title}</h2>'
    )
    return f"{start}{''.join(parts)}</section>"


def _undrawn(reasons: list[str]) -> str:
    if not reasons:
        return ""
    items = "".join(f"<li>{reason}</li>" for reason in reasons)
    return (
        f"<details><summary>{several(len(reasons), 'figure')} not drawn</summary><ul>{items}</ul></details>"
    )


def _published_switch(study: str, tables: Tables) -> str:
    """Returns the switch that shows or hides a study's published numbers, and what they may be compared with."""
    note = answer_weights.published_note(tables) if study == "weights" else _published_note(tables)
    return (
        f'<p class="note"><label for="{study}-published"><input type="checkbox" id="{study}-published" '
        f"data-published checked> Published numbers</label> {note}</p>"
    )


def _published_note(tables: Tables) -> str:
    frame = tables.features
    here = [escape(value) for column in ("data", "backbone") for value in levels(frame[column])]
    other = (
        ""
        if _as_published(frame)
        else (
            f" They come from <strong>another data set or backbone</strong> than what was measured here "
            f"({', '.join(here)}): compare the shapes, not the heights."
        )
    )
    return (
        "are grey and hollow: arXiv 2307.08702, ADM (256 px, unconditional), ImageNet-1k unless another set is "
        "named; test accuracies of settings that were chosen on test, where ours are chosen on validation."
        f"{other}"
    )


def _as_published(frame: pd.DataFrame) -> bool:
    """Returns whether everything was measured with the paper's backbone on the paper's data set."""
    data = all("imagenet" in value.lower() for value in levels(frame["data"]))
    return data and levels(frame["backbone"]) == ["adm"]


def first_choice(study: str, tables: Tables) -> dict[str, str]:
    """Returns the choices that the page opens with: the best setting on validation, or the largest K."""
    frame = succeeded(getattr(tables, SECTIONS[study].table))
    if study == "features":
        trained = frame[frame["features"] == "trained"]
        row = best_row(trained if len(trained) else frame, "validation_accuracy")
    else:
        row = best_row(frame, "k") if study == "weights" else None
    return OPENS_WITH | ({} if row is None else {name: plain(value) for name, value in row.items()})


def _figure(
    name: str, figure: Figure, views: list[View], chosen: dict[str, str], figures: dict[str, Any]
) -> str:
    """Returns the HTML of one figure and adds its data to `figures`."""
    choices = list(views[0].choice)
    figures[name] = {"choices": choices, "views": [_view(view, choices) for view in views]}
    controls = "".join(_control(name, choice, views, chosen) for choice in choices)
    beside = any(
        (trace.get("meta") or {}).get("published")
        for view in figures[name]["views"]
        for trace in view["data"]
    )
    return (
        f'<figure id="figure-{escape(name)}" class="plot"{f" {PUBLISHED_MARK}" if beside else ""}><figcaption>'
        f"<h3>{escape(figure.title)}</h3><p>{escape(figure.reading)}</p></figcaption>"
        f'<div class="controls">{controls}</div>'
        f'<div class="box" tabindex="0" role="group" aria-label="{escape(figure.title)}">'
        '<div class="canvas"></div></div>'
        '<p class="absent" role="status" hidden></p></figure>'
    )


def _view(view: View, choices: list[str]) -> dict[str, Any]:
    drawing = view.figure.to_plotly_json()
    drawing["layout"].pop("template", None)  # the page has its own, one for light and one for dark
    return {"choice": [view.choice[choice] for choice in choices], **drawing}


def _control(name: str, choice: str, views: list[View], chosen: dict[str, str]) -> str:
    """Returns a select for one choice, or its only value as text."""
    found = (view.choice[choice] for view in views)
    values = list(dict.fromkeys(value for value in found if value is not None))
    title = choice_title(choice)
    if len(values) == 1:
        return (
            f'<span class="only">{title} <b data-value="{escape(values[0])}">{escape(values[0])}</b></span>'
        )
    values.sort(key=_natural)
    picked = chosen.get(choice) if chosen.get(choice) in values else values[0]
    options = "".join(
        f'<option value="{escape(value)}"{" selected" if value == picked else ""}>{escape(value)}</option>'
        for value in values
    )
    control = escape(f"{name}-{choice}")
    select = f'<select id="{control}" data-choice="{escape(choice)}">{options}</select>'
    return f'<label for="{control}">{title} {select}</label>'


def _natural(value: str) -> tuple[bool, float, str]:
    """Sorts numbers by value, before words; what is missing last."""
    try:
        return False, float(value), value
    except ValueError:
        return True, float(value == MISSING), value
