"""What tells the trials of study 2 apart, and their numbers over several runs of the same setup."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from harness.metrics.inference import student_interval
from harness.report.words import number

ALWAYS = ("data", "network")
SETUP = (
    *ALWAYS,
    "parameters",
    "buffers",
    "preset",
    "optimizer",
    "noise",  # parameter_noise and latent_noise as one of four cases
    "latent",
    "diffusion_steps",
    "sampler",
    "sampling_steps",
    "varied",
)
RUNS = ("seed", "generator")  # repetitions: what differs in these alone may be averaged
# Paths of `vary` that have a column of their own.
SAID = (
    *("autoencoder.parameter_noise", "autoencoder.latent_noise", "autoencoder.latent", "diffusion.timesteps"),
    *(
        "checkpoints.optimizer",
        "sampler",
        "sampling_steps",
        "parameters",
        "buffers",
        "preset",
        "network.name",
    ),
)
NOISES = ("none", "parameters", "latents", "both")


class Mean(NamedTuple):
    """A number over several runs with its 95 % interval; None is missing."""

    value: float | None
    low: float | None
    high: float | None
    runs: int


Column = list[float | None]


def columns_of(means: Iterable[Mean]) -> tuple[Column, Column, Column]:
    """Returns the values, the low and the high ends of several means."""
    rows = list(means)
    return [row.value for row in rows], [row.low for row in rows], [row.high for row in rows]


def complete(weights: pd.DataFrame, networks: pd.DataFrame) -> None:
    """Adds the column `noise`, takes what has its own column out of `varied`, gives networks their trial's setup."""
    weights["noise"] = noise_cases(weights["parameter_noise"], weights["latent_noise"])
    weights["varied"] = weights["varied"].map(unsaid).astype(object)
    setup = weights.drop_duplicates("key").set_index("key")
    for column in SETUP:
        if column != "data":
            networks[column] = networks["key"].map(setup[column])


def noise_cases(parameters: pd.Series, latents: pd.Series) -> pd.Series:
    """Returns where noise was added: none, parameters, latents or both; with the scales if a case has several."""
    pairs = [(number(p), number(z)) for p, z in zip(parameters, latents, strict=True)]
    cases = [None if p is None or z is None else NOISES[(p > 0) + 2 * (z > 0)] for p, z in pairs]
    scales: dict[str | None, set[Any]] = {}
    for case, pair in zip(cases, pairs, strict=True):
        scales.setdefault(case, set()).add(pair)
    texts = [
        f"{case} ({' and '.join(f'{scale:g}' for scale in pair if scale)})"
        if case and len(scales[case]) > 1
        else case
        for case, pair in zip(cases, pairs, strict=True)
    ]
    return pd.Series(texts, parameters.index, object)


def unsaid(varied: Any) -> str | None:
    """Returns "path = value, ..." for the settings in a JSON object that have no column; None if there are none."""
    if not isinstance(varied, str):
        return None
    settings = {path: value for path, value in json.loads(varied).items() if path not in SAID}
    return ", ".join(f"{path} = {_short(value)}" for path, value in settings.items()) or None


def _short(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else json.dumps(value).strip('"')


def in_order(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Returns the rows sorted by `names`: noise from none to both, locations from the fewest numbers to the most."""
    keys = frame[list(names)].copy()
    if "noise" in keys:
        keys["noise"] = [
            f"{NOISES.index(case.split(' ')[0])} {case}" if isinstance(case, str) else None
            for case in keys["noise"]
        ]
    if "parameters" in keys:
        least = frame.groupby("parameters")["parameter_count"].transform("min").fillna(0)
        keys["parameters"] = [
            f"{int(length):012} {name}" if isinstance(name, str) else None
            for name, length in zip(keys["parameters"], least, strict=True)
        ]
    return frame.loc[keys.sort_values(list(names), kind="stable").index]


def telling(frame: pd.DataFrame, columns: Iterable[str], given: Sequence[str] = ()) -> list[str]:
    """Returns those of `columns` that vary while `given` and the ones before do not; always data and network."""
    kept = list(given)
    for column in columns:
        if frame[column].nunique(dropna=False) < 2:
            continue
        known = not kept or column in ALWAYS
        if known or frame.groupby(kept, dropna=False)[column].nunique(dropna=False).max() > 1:
            kept.append(column)
    return kept[len(given) :]


def measured(rows: pd.DataFrame, column: str) -> Mean:
    """Returns a column's mean over runs of one setup.

    The interval is Student's over runs: over seeds where there are several, for the generator's runs on one seed
    share their originals. Where there is one value, such as the originals' for every run of the generator, it is
    the value's own (`column_low`, `column_high`), if it has one.
    """
    columns = [name for name in (column, f"{column}_low", f"{column}_high", "seed") if name in rows]
    known = rows[columns].dropna(subset=[column])
    if known.empty:
        return Mean(None, None, None, 0)
    if known[column].nunique() == 1:
        row = known.iloc[0]
        low, high = (
            number(row[f"{column}_{end}"]) if f"{column}_low" in row else None for end in ("low", "high")
        )
        return Mean(float(row[column]), low, high, len(known))
    mean = mean_over_runs(known[column], known["seed"])
    if not column.endswith("_accuracy"):
        return mean
    low, high = (None if end is None else min(1.0, max(0.0, end)) for end in (mean.low, mean.high))
    return mean._replace(low=low, high=high)


def mean_over_runs(values: pd.Series, seeds: pd.Series) -> Mean:
    """Returns the mean with Student's interval over seeds, or over runs of the generator where there is one seed."""
    values = values.astype(float)
    apart = values.groupby(seeds, dropna=False).mean() if seeds.nunique(dropna=False) > 1 else values
    low, high = student_interval(apart)
    return Mean(float(apart.mean()), low, high, len(values))
