"""Writes the page: reads an experiment's tables, renders every section, and embeds everything in one file."""

import base64
import hashlib
import json
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
import plotly.offline
from markupsafe import Markup

from harness.core.storage import Storage
from harness.core.tables import Table
from harness.report import answer_features, answer_weights, failures, provenance, transfer, trust
from harness.report.correctness import Correctness
from harness.report.figures import FIGURES
from harness.report.figures.figure import Absent, Figure, View, choice_title, levels, succeeded, worded
from harness.report.rendering import asset, render
from harness.report.sections import PUBLISHED, SECTIONS, Section, sections
from harness.report.tables import Tables, best_row, measure_of, read_tables
from harness.report.trial_results import Trial, trials
from harness.report.words import MISSING, moment, plain, printable, several

OPENS_WITH = {"axis": "timestep", "cost": "image passes"}  # choices that are not columns


class OfFeatures(NamedTuple):
    """The answer of study 1."""

    title: str
    by_data: list[Markup]  # a part for each data set
    transfer: Markup


class OfWeights(NamedTuple):
    """The answer of study 2."""

    title: str
    content: Markup


class Answer(NamedTuple):
    """What the page opens with; None for a study without rows."""

    features: OfFeatures | None
    weights: OfWeights | None
    others: bool  # whether there are rows without an answer in words


class Control(NamedTuple):
    """One choice of a figure, and the value that the page opens with."""

    name: str
    title: str
    values: list[str]
    picked: str


class Frame(NamedTuple):
    """A figure without its plot, which is embedded as data."""

    name: str
    title: str
    reading: str
    published: bool  # whether it shows published numbers
    controls: list[Control]


class Study(NamedTuple):
    """One study's section."""

    name: str
    title: str
    above: Markup
    published: Markup | None  # a note on the published numbers; None if no figure shows any
    figures: list[Frame]
    undrawn: list[tuple[str, str]]  # titles of figures, and why there is nothing to draw
    below: Markup


def write_report(storage: Storage, experiment: str, declared: Mapping[str, Table]) -> str:
    """Writes `EXPERIMENT/report.html` from the experiment's tables; returns its path or URL for display.

    `declared` are the tables of the installed studies; other tables are read by the declarations in their files.

    Raises `UserError` if the experiment has no tables, or if one is unreadable or has a newer schema version.
    """
    path = f"{experiment}/report.html"
    storage.write(path, page(read_tables(storage, experiment, declared), experiment).encode())
    return storage.describe(path)


def page(tables: Tables, experiment: str) -> str:
    """Returns the page as one self-contained HTML text."""
    drawings: dict[str, Any] = {}
    correctness = Correctness(tables.correctness)
    shown = {name: one for name, one in sections(tables).items() if len(tables.frames[one.table])}
    own = {name for name, one in shown.items() if not one.generic}
    results = trials(tables, correctness) if "weights" in own else []
    studies = [_study(name, section, tables, results, drawings) for name, section in shown.items()]
    plotly_js, page_js = plotly.offline.get_plotlyjs(), asset("page.js")
    return render(
        "page.html",
        title=experiment,
        policy=_policy(plotly_js, page_js),
        style=asset("style.css"),
        summary=_summary(tables),
        answer=_answer(own, tables, results, correctness),
        trust=trust.to_html(tables),
        studies=studies,
        failures=failures.to_html(tables),
        provenance=provenance.to_html(tables),
        data=embedded({"figures": drawings}),
        plotly=plotly_js,
        script=page_js,
        written=time.time(),
    )


def embedded(value: Any) -> str:
    """Returns JSON that cannot close its script element; numbers that are not finite become null."""
    try:
        text = _json(value)
    except ValueError:
        text = _json(_finite(value))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    """Returns nested lists and dictionaries with None for every number that is not finite."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _policy(*scripts: str) -> str:
    """Returns a Content-Security-Policy: only these scripts, and no network access.

    Plotly compiles WebGL code for parallel coordinates, hence 'unsafe-eval', and sets inline styles.
    """
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _summary(tables: Tables) -> list[str]:
    frame = provenance.rows_of_trials(tables)
    failed = int((frame["status"] == "failed").sum())
    parts = [several(len(frame) - failed, "result"), f"{failed:,} failed"]
    for column in ("data", "device"):
        values = levels(frame[column])
        parts += [", ".join(map(plain, values[:3])) + ("…" if len(values) > 3 else "")] if values else []
    began = frame["began_at"].dropna()
    return [*parts, *([moment(float(began.min()))] if len(began) else [])]


def _answer(own: set[str], tables: Tables, results: list[Trial], correctness: Correctness) -> Answer:
    """Returns what the studies with answers in words say, `own` being the sections shown that are not generic."""
    of_features, of_weights = None, None
    if "features" in own:
        found = answer_features.answers(tables, correctness)
        parts = [answer_features.to_html(answer, named=len(found) > 1) for answer in found]
        of_features = OfFeatures(SECTIONS["features"].title(tables), parts, transfer.sentence(tables))
    if "weights" in own:
        of_weights = OfWeights(SECTIONS["weights"].title(tables), answer_weights.to_html(results))
    return Answer(of_features, of_weights, any(len(tables.frames[name]) for name in tables.results))


def _study(
    name: str, section: Section, tables: Tables, results: list[Trial], drawings: dict[str, Any]
) -> Study:
    """Returns a study's section; adds what its figures draw to `drawings`."""
    chosen = first_choice(name, tables.frames[section.table])
    lacking = section.generic and name in SECTIONS  # its figures read tables that are not declared
    frames, undrawn = [], []
    measure = measure_of(succeeded(tables.features)) if "features" in tables.frames else "accuracy"
    for title in FIGURES.names():
        figure: Figure = FIGURES.load(title)
        if figure.study != name or lacking:
            continue
        views = figure.views(tables)
        if isinstance(views, Absent):
            undrawn.append((worded(figure.title, measure), views.why))
        else:
            drawings[title] = _drawing(views)
            frames.append(_frame(title, figure, views, chosen, drawings[title], measure))
    return Study(
        name=name,
        title=section.title(tables),
        above=section.above(tables, results) if section.above else Markup(),
        published=_published_note(section, tables) if any(frame.published for frame in frames) else None,
        figures=frames,
        undrawn=undrawn,
        below=section.below(tables, results) if section.below else Markup(),
    )


def _published_note(section: Section, tables: Tables) -> Markup:
    return section.published(tables) if section.published else PUBLISHED


def first_choice(study: str, frame: pd.DataFrame) -> dict[str, str]:
    """Returns the choices that the page opens with: the best setting on validation, or the largest K."""
    frame = succeeded(frame)
    if study == "features":
        trained = frame[frame["features"] == "trained"]
        row = best_row(trained if len(trained) else frame, "validation_score")
    else:
        row = best_row(frame, "k") if study == "weights" else None
    return OPENS_WITH | ({} if row is None else {name: plain(value) for name, value in row.items()})


def _frame(
    name: str,
    figure: Figure,
    views: list[View],
    chosen: dict[str, str],
    drawing: dict[str, Any],
    measure: str,
) -> Frame:
    traces = (trace for view in drawing["views"] for trace in view["data"])
    published = any((trace.get("meta") or {}).get("published") for trace in traces)
    controls = [_control(choice, views, chosen) for choice in drawing["choices"]]
    title, reading = (worded(text, measure) for text in (figure.title, figure.reading))
    return Frame(name, title, reading, published, controls)


def _drawing(views: list[View]) -> dict[str, Any]:
    """Returns a figure in the form that the page's script expects."""
    choices = list(views[0].choice)
    return {"choices": choices, "views": [_view(view, choices) for view in views]}


def _view(view: View, choices: list[str]) -> dict[str, Any]:
    drawing = view.figure.to_plotly_json()
    drawing["layout"].pop("template", None)  # the page has its own, one for light and one for dark
    picked = (view.choice[choice] for choice in choices)
    return {"choice": [None if value is None else printable(value) for value in picked], **drawing}


def _control(choice: str, views: list[View], chosen: dict[str, str]) -> Control:
    """Returns one choice with its values in order."""
    found = (view.choice[choice] for view in views)
    values = sorted(dict.fromkeys(value for value in found if value is not None), key=_natural)
    picked = chosen.get(choice)
    return Control(choice, choice_title(choice), values, picked if picked in values else values[0])


def _natural(value: str) -> tuple[bool, float, str]:
    """Sorts numbers by value, then text; missing values come last."""
    try:
        return False, float(value), value
    except ValueError:
        return True, float(value == MISSING), value
