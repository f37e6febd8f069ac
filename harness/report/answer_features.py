"""Study 1 in words: the best setting, what matters most, how it compares with the controls."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd
from markupsafe import Markup

from harness.report.correctness import Correctness, Paired, Who, compare, judged_together
from harness.report.figures.figure import levels, split, succeeded, varied
from harness.report.figures.probes import Columns, columns
from harness.report.importance import MOST, importances
from harness.report.published import same_blocks
from harness.report.rendering import render
from harness.report.tables import Tables, best_row, measure_of
from harness.report.words import (
    NOISE_LEVEL,
    Estimate,
    estimate,
    number,
    p_value,
    percent,
    plain,
    points,
    size,
    with_interval,
)

RIVALS = {"combined": "several blocks and timesteps together", "finetuned": "the fine-tuned backbones"}
CONTROLS = {"untrained": "the same network untrained", "pixels": "raw pixels"}
UNTESTED = {
    "accuracy": "because per-sample predictions are missing",
    "mAP": "since an mAP is no mean over images: compare the intervals",
}
TOP = 10
FROZEN = "the best probe of one frozen block"
COMPLETE = 0.95  # share of a grid above which means over an axis are comparable


class Best(NamedTuple):
    """The setting with the highest accuracy, or mAP, on validation, and what it reaches on test."""

    setting: dict[str, Any]  # axes of the setting; those without a value are omitted
    validation: Estimate
    test: Estimate
    candidates: int  # how many settings it was selected from


class Effect(NamedTuple):
    """How much the mean score on validation changes along one axis, and the axis's share of what all axes explain."""

    axis: str
    low_level: Any
    low: float
    high_level: Any
    high: float
    share: float | None  # importance, 0 to 1 and 1 over all axes; None where there is nothing to rank


class Control(NamedTuple):
    """The best of a control, selected on validation, and by how much the best setting beats it."""

    kind: str
    best: Best
    paired: Paired | None


class Answer(NamedTuple):
    """What study 1 found on one data set."""

    data: Any
    best: Best | None
    effects: list[Effect]  # the most important first
    combinations: int  # of the levels that occur; effects are exact if all were measured
    controls: list[Control]
    rivals: list[Control]  # costlier kinds of features; `paired` is how much the best frozen probe is ahead
    regularisers: list[Control]  # by name, each compared with training without one
    measure: str = "accuracy"  # or mAP, of which there are no paired tests


def answers(tables: Tables, correctness: Correctness) -> list[Answer]:
    """Returns one answer for each data set with a success."""
    frame, own = succeeded(tables.features), columns(tables)
    return [_answer(rows, own, correctness) for _, rows in split(frame, ["data"])] if len(frame) else []


def _answer(frame: pd.DataFrame, own: Columns, correctness: Correctness) -> Answer:
    trained = frame[frame["features"] == "trained"]
    row = best_row(trained, "validation_score")
    best = None if row is None else _best(row, trained, own)

    def beside(kinds: Iterable[str]) -> list[Control]:
        groups = ((kind, frame[frame["features"] == kind]) for kind in kinds)
        return [found for kind, rows in groups if (found := _control(kind, rows, row, own, correctness))]

    known = trained.dropna(subset=["validation_score"])
    groups = beside(CONTROLS), beside(RIVALS), _regularisers(trained, own, correctness)
    controls, rivals, regularisers = _together(*groups)
    return Answer(
        data=frame["data"].iloc[0],
        best=best,
        effects=effects(known, own),
        combinations=combinations(known, own),
        controls=controls,
        rivals=rivals,
        regularisers=regularisers,
        measure=measure_of(frame),
    )


def _together(*groups: list[Control]) -> list[list[Control]]:
    """Returns the groups with p-values adjusted for all of their comparisons; the page lists them together."""
    pairs = iter(judged_together([control.paired for group in groups for control in group]))
    return [[control._replace(paired=next(pairs)) for control in group] for group in groups]


def _control(
    name: str, rows: pd.DataFrame, row: Any, own: Columns, correctness: Correctness
) -> Control | None:
    """Returns the best of `rows` compared with `row`; None if they have no score."""
    other = best_row(rows, "validation_score")
    if other is None:
        return None
    pair = None if row is None else compare(_vector(row, correctness), _vector(other, correctness))
    return Control(name, _best(other, rows, own), pair)


def _regularisers(trained: pd.DataFrame, own: Columns, correctness: Correctness) -> list[Control]:
    """Returns the best setting with each regulariser, compared with the best without; nothing if none was swept."""
    by_name = {str(name): rows for name, rows in trained.groupby("regulariser")}
    plain_training = by_name.pop("none", trained.iloc[:0])
    row = best_row(plain_training, "validation_score")
    if not by_name or row is None:
        return []
    found = (_control(name, rows, row, own, correctness) for name, rows in by_name.items())
    return [control for control in found if control is not None]


def _best(row: Any, frame: pd.DataFrame, own: Columns) -> Best:
    alone = row["features"] != "combined"  # else its block name says which blocks and timesteps
    combined = ["block_name", *(name for name in own.axes if name not in ("block", "timestep"))]
    adapted = ["tuning"] if plain(row["tuning"]) not in ("all", plain(None)) else []
    names = [*adapted, *varied(frame, own.setup), *(own.axes if alone else combined)]
    setting = {name.replace("_name", "s"): row[name] for name in names if not pd.isna(row[name])}
    measured = int(frame["validation_score"].notna().sum())
    return Best(setting, estimate(row, "validation_score"), estimate(row, "test_score"), measured)


def _vector(row: Any, correctness: Correctness) -> Any:
    return correctness.find(Who(row["key"]), number(row["test_score"]))


def effects(frame: pd.DataFrame, own: Columns) -> list[Effect]:
    """Returns the effect of each axis with two levels or more on the validation score, most important first."""
    value = frame["validation_score"]
    axes = [axis for axis in own.setting if frame[axis].nunique() > 1]
    shares = importances(frame[axes], value)
    found = []
    for axis in axes:
        ordered = value.groupby(frame[axis]).mean().sort_values(kind="stable")
        low, high = ordered.index[0], ordered.index[-1]
        found.append(
            Effect(axis, low, float(ordered.iloc[0]), high, float(ordered.iloc[-1]), shares.get(axis))
        )
    return sorted(found, key=lambda effect: (-(effect.share or 0.0), effect.low - effect.high))


def combinations(frame: pd.DataFrame, own: Columns) -> int:
    """Returns how many combinations the levels that occur have."""
    return math.prod(len(levels(frame[axis])) for axis in varied(frame, own.setting))


def describe(setting: dict[str, Any]) -> str:
    """Returns "block 24, timestep 90, pool 2, head linear"."""
    return ", ".join(f"{name} {plain(value)}" for name, value in setting.items())


def to_html(answer: Answer, named: bool) -> Markup:
    """Returns the answer as paragraphs; `named` adds the data set's name."""
    best = answer.best
    if best is None:
        alone = [_control_alone(control) for control in (*answer.controls, *answer.rivals)]
        return render("answer_features.html", answer=answer, named=named, sentences=alone)
    return render(
        "answer_features.html",
        answer=answer,
        named=named,
        at=describe(best.setting),
        weaker=[_weaker(effect) for effect in answer.effects[1:]],
        incomplete=best.candidates < COMPLETE * answer.combinations,
        sampled=MOST if best.candidates > MOST else None,
        sentences=_sentences(answer),
        tests=sum(one.paired is not None for one in (*answer.controls, *answer.rivals, *answer.regularisers)),
    )


def _weaker(effect: Effect) -> str:
    share = "" if effect.share is None else f", {percent(effect.share, 0)}"
    return f"{effect.axis} ({size(effect.high - effect.low)}{share})"


def _sentences(answer: Answer) -> list[str]:
    untested = UNTESTED[answer.measure]
    found = [_control_sentence(control, untested) for control in answer.controls]
    if not answer.controls:
        found.append(
            "No control was measured, so it is unknown how well pixels or an untrained network would do."
        )
    found += [
        _rival_sentence(rival, f"the best of {RIVALS[rival.kind]}", FROZEN, untested)
        for rival in answer.rivals
    ]
    return found + [
        _rival_sentence(
            one, f"trained with {one.kind}, the best setting", "that of training without", untested
        )
        for one in answer.regularisers
    ]


def _control_sentence(control: Control, untested: str) -> str:
    name = CONTROLS[control.kind]
    at = describe(control.best.setting)
    text = f"The best of {name} ({at}) reaches {percent(control.best.test.value)} on test: "
    if control.paired is None:
        return text + f"no paired test, {untested}."
    difference, _, n, p = control.paired
    test = f"({p_value(p)}, exact McNemar test on {n:,} paired samples)"
    if p >= NOISE_LEVEL:
        return text + f"no difference larger than noise ({points(difference)}) {test}."
    word = "better" if difference > 0 else "worse"
    return text + f"the best setting is {size(difference)} {word}, more than noise {test}."


def _rival_sentence(rival: Control, name: str, reference: str, untested: str) -> str:
    """Returns whether a rival is better than its reference, by a paired test."""
    text = f"{name[0].upper()}{name[1:]} ({describe(rival.best.setting)}) reaches "
    text += f"{percent(rival.best.test.value)} on test: "
    if rival.paired is None:
        return text + f"no paired test, {untested}."
    difference, _, n, p = rival.paired
    test = f"({p_value(p)}, exact McNemar test on {n:,} paired samples)"
    if p >= NOISE_LEVEL:
        return text + f"no difference from {reference} larger than noise ({points(-difference)}) {test}."
    word = "worse" if difference > 0 else "better"
    return text + f"{size(difference)} {word} than {reference}, more than noise {test}."


def _control_alone(control: Control) -> str:
    return (
        f"The best of {(CONTROLS | RIVALS)[control.kind]} ({describe(control.best.setting)}) reaches "
        f"{with_interval(control.best.test)} on test."
    )


class Row(NamedTuple):
    """One of the best settings: its values as columns show them, the score (0 to 1), the features' dimensions."""

    setting: list[Any]
    validation: float | None
    dimensions: Any


class Top(NamedTuple):
    """The best settings of one data set, which is named where there are several."""

    data: str | None
    titles: list[str]
    rows: list[Row]


def top_tables(tables: Tables) -> Markup:
    """Returns each data set's best settings on validation; test scores are reported only for what was selected."""
    known = succeeded(tables.features).dropna(subset=["validation_score"])
    known = known[known["features"] != "screen"]  # a screening probe saw a part of the images
    known["block"] = known["block"].astype(object).mask(known["features"] == "combined", known["block_name"])
    named = known["data"].nunique() > 1
    parts, own = split(known, ["data"]) if len(known) else (), columns(tables)
    found = [_top(rows, own, choice["data"] if named else None) for choice, rows in parts]
    return render("top_settings.html", found=found)


def _top(known: pd.DataFrame, own: Columns, data: str | None) -> Top:
    best = known.sort_values("validation_score", ascending=False, kind="stable").head(TOP)
    names = [*varied(known[known["features"] == "trained"], own.setup), "features", *own.axes]
    rows = [
        Row([row[name] for name in names], number(row["validation_score"]), row["dimensions"])
        for row in best.to_dict("records")
    ]
    return Top(
        data, [*(name.capitalize() for name in names), f"Validation {measure_of(known)}", "Dimensions"], rows
    )


def published_note(tables: Tables) -> Markup:
    """Returns what the published numbers are, and whether they are comparable with the measured ones."""
    frame = tables.features
    here = [value for column in ("data", "backbone") for value in levels(frame[column])]
    return render("published_features.html", here=[] if _as_published(frame) else here)


def _as_published(frame: pd.DataFrame) -> bool:
    """Returns whether everything was measured with the paper's backbone on the paper's data set."""
    data = all("imagenet" in value.lower() for value in levels(frame["data"]))
    return data and levels(frame["backbone"]) == ["adm"] and same_blocks(frame)
