"""Study 1 in words: the best setting, what matters most, how far it is from the controls."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

from harness.report.correctness import Correctness, Paired, Who, compare, judged_together
from harness.report.figures.figure import levels, split, succeeded, varied
from harness.report.figures.probes import AXES, WHAT
from harness.report.importance import MOST, importances
from harness.report.tables import Tables, best_row
from harness.report.words import (
    NOISE_LEVEL,
    Estimate,
    escape,
    estimate,
    heads,
    listed,
    number,
    p_value,
    percent,
    points,
    several,
    table,
    value_cell,
    with_interval,
)

RIVALS = {"combined": "several blocks and timesteps together", "finetuned": "the fine-tuned backbones"}
CONTROLS = {"untrained": "the same network untrained", "pixels": "raw pixels"}
TOP = 10
FROZEN = "the best probe of one frozen block"
COMPLETE = 0.95  # share of a grid from which the means over an axis compare like with like


class Best(NamedTuple):
    """The setting with the highest validation accuracy, and what it reaches on test."""

    setting: dict[str, Any]  # axes of the setting, those without a value left out
    validation: Estimate
    test: Estimate
    candidates: int  # how many settings it was selected from


class Effect(NamedTuple):
    """How far the mean validation accuracy moves along one axis, and how much of what axes explain it explains."""

    axis: str
    low_level: Any
    low: float
    high_level: Any
    high: float
    share: float | None  # importance, 0 to 1 and 1 over all axes; None where there is nothing to rank


class Control(NamedTuple):
    """The best of a control, selected on validation, and the best setting's advantage over it."""

    kind: str
    best: Best
    paired: Paired | None


class Answer(NamedTuple):
    """What study 1 found on one data set."""

    data: Any
    best: Best | None
    effects: list[Effect]  # the most important first
    combinations: int  # of the levels that occur; effects are clean where all were measured
    controls: list[Control]
    rivals: list[Control]  # more costly ways to features; `paired` is the best frozen probe's advantage
    regularisers: list[Control]  # by name, each beside training without one


def answers(tables: Tables, correctness: Correctness) -> list[Answer]:
    """Returns one answer for each data set with a success."""
    frame = succeeded(tables.features)
    return [_answer(rows, correctness) for _, rows in split(frame, ["data"])] if len(frame) else []


def _answer(frame: pd.DataFrame, correctness: Correctness) -> Answer:
    trained = frame[frame["features"] == "trained"]
    row = best_row(trained, "validation_accuracy")
    best = None if row is None else _best(row, trained)

    def beside(kinds: Iterable[str]) -> list[Control]:
        groups = ((kind, frame[frame["features"] == kind]) for kind in kinds)
        return [found for kind, rows in groups if (found := _control(kind, rows, row, correctness))]

    known = trained.dropna(subset=["validation_accuracy"])
    groups = beside(CONTROLS), beside(RIVALS), _regularisers(trained, correctness)
    controls, rivals, regularisers = _together(*groups)
    return Answer(
        data=frame["data"].iloc[0],
        best=best,
        effects=effects(known),
        combinations=combinations(known),
        controls=controls,
        rivals=rivals,
        regularisers=regularisers,
    )


def _together(*groups: list[Control]) -> list[list[Control]]:
    """Returns the groups with p-values adjusted for all of their comparisons, which the page shows in one list."""
    pairs = iter(judged_together([control.paired for group in groups for control in group]))
    return [[control._replace(paired=next(pairs)) for control in group] for group in groups]


def _control(name: str, rows: pd.DataFrame, row: Any, correctness: Correctness) -> Control | None:
    """Returns the best of `rows` beside `row`, None where they have no accuracy."""
    other = best_row(rows, "validation_accuracy")
    if other is None:
        return None
    pair = None if row is None else compare(_vector(row, correctness), _vector(other, correctness))
    return Control(name, _best(other, rows), pair)


def _regularisers(trained: pd.DataFrame, correctness: Correctness) -> list[Control]:
    """Returns the best setting with each regulariser, beside the best without; nothing if none was swept."""
    by_name = {str(name): rows for name, rows in trained.groupby("regulariser")}
    plain_training = by_name.pop("none", trained.iloc[:0])
    row = best_row(plain_training, "validation_accuracy")
    if not by_name or row is None:
        return []
    found = (_control(name, rows, row, correctness) for name, rows in by_name.items())
    return [control for control in found if control is not None]


def _best(row: Any, frame: pd.DataFrame) -> Best:
    alone = row["features"] != "combined"  # else its block name says which blocks and timesteps
    names = [*varied(frame, WHAT[1:]), *(AXES if alone else ("block_name", "pool", "head"))]
    setting = {name.replace("_name", "s"): row[name] for name in names if not pd.isna(row[name])}
    measured = int(frame["validation_accuracy"].notna().sum())
    return Best(setting, estimate(row, "validation_accuracy"), estimate(row, "test_accuracy"), measured)


def _vector(row: Any, correctness: Correctness) -> Any:
    return correctness.find(Who(row["key"]), number(row["test_accuracy"]))


def effects(frame: pd.DataFrame) -> list[Effect]:
    """Returns the effect of each axis with two levels or more on validation accuracy, most important first."""
    value = frame["validation_accuracy"]
    axes = [axis for axis in (*WHAT[1:], *AXES) if frame[axis].nunique() > 1]
    shares = importances(frame[axes], value)
    found = []
    for axis in axes:
        ordered = value.groupby(frame[axis]).mean().sort_values(kind="stable")
        low, high = ordered.index[0], ordered.index[-1]
        found.append(
            Effect(axis, low, float(ordered.iloc[0]), high, float(ordered.iloc[-1]), shares.get(axis))
        )
    return sorted(found, key=lambda effect: (-(effect.share or 0.0), effect.low - effect.high))


def combinations(frame: pd.DataFrame) -> int:
    """Returns how many combinations the levels that occur have."""
    return math.prod(len(levels(frame[axis])) for axis in varied(frame, [*WHAT[1:], *AXES]))


def describe(setting: dict[str, Any]) -> str:
    """Returns "block 24, timestep 90, pool 2, head linear", escaped."""
    return ", ".join(f"{name} {escape(value)}" for name, value in setting.items())


def to_html(answer: Answer, named: bool) -> str:
    """Returns the answer as paragraphs; `named` adds the data set's name."""
    title = f"<h4>{escape(answer.data)}</h4>" if named else ""
    if answer.best is None:
        text = "No probe of the trained backbone has a validation accuracy, so there is no best setting."
        return f"{title}<p>{text}</p>" + "".join(
            f"<p>{_control_alone(control)}</p>" for control in (*answer.controls, *answer.rivals)
        )
    best = answer.best
    lead = (
        f"The best setting is <strong>{describe(best.setting)}</strong>: "
        f"<strong>{percent(best.test.value)}</strong> on test{_rest(best.test)}. It was selected from "
        f"{several(best.candidates, 'setting')} by validation accuracy ({percent(best.validation.value)})."
    )
    sentences = [_effects_sentence(answer), *(_control_sentence(control) for control in answer.controls)]
    if not answer.controls:
        sentences.append(
            "No control was measured: how much of this pixels or an untrained network give is open."
        )
    sentences += [
        _rival_sentence(rival, f"the best of {RIVALS[rival.kind]}", FROZEN) for rival in answer.rivals
    ]
    sentences += [
        _rival_sentence(one, f"trained with {escape(one.kind)}, the best setting", "that of training without")
        for one in answer.regularisers
    ]
    items = "".join(f"<li>{sentence}</li>" for sentence in sentences)
    return f'{title}<p class="lead">{lead}</p><ul>{items}</ul>{_correction(answer)}'


def _correction(answer: Answer) -> str:
    compared = [*answer.controls, *answer.rivals, *answer.regularisers]
    tests = sum(one.paired is not None for one in compared)
    if tests < 2:
        return ""
    return f'<p class="note">The p-values are corrected for there being {tests} comparisons, by Holm\'s method.</p>'


def _rest(accuracy: Estimate) -> str:
    return "" if accuracy.value is None else " " + with_interval(accuracy).split(" ", 1)[1]


def _effects_sentence(answer: Answer) -> str:
    found = answer.effects
    if not found:
        return "Only one setting was measured, so nothing can be said about what matters."
    first = found[0]
    share = "" if first.share is None else f" and has {100 * first.share:.0f}\u202f% of the importance"
    text = (
        f"<strong>{first.axis.capitalize()} matters most</strong>: the mean validation accuracy moves "
        f"{points(first.high - first.low)[1:]} between {first.axis} {escape(first.low_level)} "
        f"({percent(first.low)}) and {first.axis} {escape(first.high_level)} ({percent(first.high)}){share}."
    )
    if found[1:]:
        rest = (
            f"{effect.axis} ({points(effect.high - effect.low)[1:]}"
            + ("" if effect.share is None else f", {100 * effect.share:.0f}\u202f%")
            + ")"
            for effect in found[1:]
        )
        text += f" Then {listed(rest)}."
    if first.share is not None and answer.best is not None and answer.best.candidates > MOST:
        text += f" The importance is that of {MOST:,} settings, drawn at random."
    if answer.best is not None and answer.best.candidates < COMPLETE * answer.combinations:
        text += (
            f" Only {answer.best.candidates:,} of {several(answer.combinations, 'combination')} were "
            "measured, so these means compare unlike settings; take them as a hint."
        )
    return text


def _control_sentence(control: Control) -> str:
    name = CONTROLS[control.kind]
    at = describe(control.best.setting)
    text = f"The best of {name} ({at}) reaches {percent(control.best.test.value)} on test: "
    if control.paired is None:
        return text + "no paired test, because per-sample predictions are missing."
    difference, _, n, p = control.paired
    test = f"({p_value(p)}, exact McNemar test on {n:,} paired samples)"
    if p >= NOISE_LEVEL:
        return text + f"no difference larger than noise ({points(difference)}) {test}."
    word = "better" if difference > 0 else "worse"
    return text + f"the best setting is {points(abs(difference))[1:]} {word}, more than noise {test}."


def _rival_sentence(rival: Control, name: str, reference: str) -> str:
    """Returns whether a rival is better than what it is compared with, by a paired test."""
    text = f"{name[0].upper()}{name[1:]} ({describe(rival.best.setting)}) reaches "
    text += f"{percent(rival.best.test.value)} on test: "
    if rival.paired is None:
        return text + "no paired test, because per-sample predictions are missing."
    difference, _, n, p = rival.paired
    test = f"({p_value(p)}, exact McNemar test on {n:,} paired samples)"
    if p >= NOISE_LEVEL:
        return text + f"no difference larger than noise to {reference} ({points(-difference)}) {test}."
    word = "worse" if difference > 0 else "better"
    return text + f"{points(abs(difference))[1:]} {word} than {reference}, more than noise {test}."


def _control_alone(control: Control) -> str:
    return (
        f"The best of {(CONTROLS | RIVALS)[control.kind]} ({describe(control.best.setting)}) reaches "
        f"{with_interval(control.best.test)} on test."
    )


def top_tables(tables: Tables) -> str:
    """Returns each data set's best settings on validation; test is told only of what was selected."""
    known = succeeded(tables.features).dropna(subset=["validation_accuracy"])
    known = known[known["features"] != "screen"]  # a quick look at a part of the images
    known["block"] = known["block"].astype(object).mask(known["features"] == "combined", known["block_name"])
    if known.empty:
        return ""
    named = known["data"].nunique() > 1
    return "".join(
        _top_table(rows, choice["data"] if named else None) for choice, rows in split(known, ["data"])
    )


def _top_table(known: pd.DataFrame, data: str | None) -> str:
    best = known.sort_values("validation_accuracy", ascending=False, kind="stable").head(TOP)
    names = [*varied(known[known["features"] == "trained"], WHAT[1:]), "features", *AXES]
    rows = [
        "".join(value_cell(row[name]) for name in names)
        + f"<td>{percent(number(row['validation_accuracy']))}</td>{value_cell(row['dimensions'])}"
        for row in best.to_dict("records")
    ]
    titles = [*(name.capitalize() for name in names), "Validation accuracy", "Dimensions"]
    caption = f"The {several(len(rows), 'best setting')} on validation{f', {escape(data)}' if data else ''}"
    return table(caption, heads(titles, words=("Backbone", "Regulariser", "Way", "Features", "Head")), rows)
