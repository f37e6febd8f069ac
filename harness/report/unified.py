"""The table of unified learners: how well networks recognise and how well they generate, with the published ones."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
from markupsafe import Markup

from harness.report.figures.figure import succeeded, varied
from harness.report.figures.probes import columns, known
from harness.report.published import published
from harness.report.rendering import render
from harness.report.tables import Tables, best_row, measure_of
from harness.report.words import Estimate, estimate, number, plain

NETWORK = ("data", "backbone", "regulariser")  # what distinguishes networks in both tables
KINDS = ("trained", "combined", "finetuned")


class Distance(NamedTuple):
    """A Fréchet distance of samples from real images, as one encoder sees them."""

    encoder: str
    samples: int | None
    frechet: float | None
    real: float | None  # the same for as many real images: the effect of sampling alone


class Classifier(NamedTuple):
    """What reads a network's features: the head, and its input in words."""

    head: str
    where: str


class Learner(NamedTuple):
    """One network as classifier and as generator; None where the experiment did not measure it."""

    network: dict[str, Any]
    classifier: Classifier | None  # the setting that was best on validation
    accuracy: Estimate  # or mAP, as `measure` says
    distances: list[Distance]
    measure: str = "accuracy"


def learners(tables: Tables) -> list[Learner]:
    """Returns every network that was sampled from, with the best classifier on its features."""
    generation = succeeded(tables.generation)
    probes = known(tables, *KINDS)
    told = [name for name in varied(probes, columns(tables).setup) if name not in (*NETWORK, "caching")]
    found = []
    for values, rows in generation.groupby(list(NETWORK), dropna=False, sort=True):
        same = probes
        for column, value in zip(NETWORK, values, strict=True):
            same = same[same[column].map(plain) == plain(value)]
        row = best_row(same, "validation_score") if len(same) else None
        found.append(
            Learner(
                dict(zip(NETWORK, values, strict=True)),
                None if row is None else _classifier(row, told),
                Estimate(None, None, None, None) if row is None else estimate(row, "test_score"),
                [_distance(one) for one in rows.to_dict("records")],
                "accuracy" if row is None else measure_of(same),
            )
        )
    return found


def _classifier(row: Any, told: Sequence[str]) -> Classifier:
    """Returns what reads the features of a row; the set-up columns `told` are said, where they have a value."""
    setup = [f"{name} {plain(row[name])}" for name in told if plain(row[name]) != plain(None)]
    if row["features"] == "combined":
        return Classifier(plain(row["head"]), ", ".join([*setup, plain(row["block_name"])]))
    where = [*setup, *(f"{name} {plain(row[name])}" for name in ("block", "timestep", "pool"))]
    if row["features"] == "finetuned":
        tuning = plain(row["tuning"])
        where.append("fine-tuned" if tuning in ("all", plain(None)) else f"fine-tuned ({tuning})")
    return Classifier(plain(row["head"]), ", ".join(where))


def _distance(row: dict[Any, Any]) -> Distance:
    samples = number(row["samples"])
    count = None if samples is None else int(samples)
    return Distance(plain(row["encoder"]), count, number(row["frechet"]), number(row["frechet_real"]))


def published_learners() -> pd.DataFrame:
    """Returns the published learners that have both sides: backbone, head, accuracy in percent and FID."""
    main = published().query("figure == 'main'")
    wide = main.pivot(index=["dataset", "backbone", "head"], columns="metric", values="value")
    return wide.dropna().reset_index().sort_values("top1", kind="stable")


def to_html(tables: Tables) -> Markup:
    """Returns the table, measured networks first; nothing where nothing was sampled."""
    found = learners(tables)
    if not found:
        return Markup()
    return render(
        "unified.html",
        measured=found,
        marked=any(one.measure != "accuracy" for one in found),
        told=varied(pd.DataFrame([one.network for one in found]), ["regulariser"]),
        published=published_learners().to_dict("records"),
    )
