"""What distinguishes the trials of study 2, and their numbers over several runs of the same set-up."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from harness.core.tables import Role, Table
from harness.metrics.inference import student_interval
from harness.report.words import number

ALWAYS = ("data", "network")
RUNS = ("seed", "generator")  # repetitions: results that differ only in these may be averaged
SCALES = ("parameter_noise", "latent_noise")  # shown as one column, `noise`: see `noise_names`
# Paths of `vary` that have their own column.
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


def setup(declared: Table) -> list[str]:
    """Returns the columns that distinguish trials, as the table `weights` declares them: the data set first.

    `noise` replaces the two scales of noise. Repetitions are not part of the set-up.
    """
    names = [name for name in declared.names(Role.SETUP) if name not in RUNS]
    return ["data", *dict.fromkeys("noise" if name in SCALES else name for name in names)]


def axes(declared: Table) -> list[str]:
    """Returns the axes beside k, as the table `weights` declares them: how a trial's originals were chosen."""
    return [name for name in declared.names(Role.AXIS) if name != "k"]


def complete(weights: pd.DataFrame, networks: pd.DataFrame, names: Sequence[str]) -> None:
    """Adds `noise` and `noise_case`; drops from `varied` what has a column; copies the set-up `names` to networks."""
    scales = weights["parameter_noise"], weights["latent_noise"]
    weights["noise_case"], weights["noise"] = noise_cases(*scales), noise_names(*scales)
    weights["varied"] = weights["varied"].map(unsaid).astype(object)
    trials = weights.drop_duplicates("key").set_index("key")
    for column in names:
        if column != "data":
            networks[column] = networks["key"].map(trials[column])


def noise_cases(parameters: pd.Series, latents: pd.Series) -> pd.Series:
    """Returns where noise was added, as one of `NOISES`; None if a scale is missing."""
    pairs = [(number(p), number(z)) for p, z in zip(parameters, latents, strict=True)]
    cases = [None if p is None or z is None else NOISES[(p > 0) + 2 * (z > 0)] for p, z in pairs]
    return pd.Series(cases, parameters.index, object)


def noise_names(parameters: pd.Series, latents: pd.Series) -> pd.Series:
    """Returns names for the noise: its case, with the scales if they differ within a case."""
    cases = noise_cases(parameters, latents)
    rows = list(zip(cases, zip(parameters, latents, strict=True), strict=True))
    several = {case for case in NOISES if len({scales for other, scales in rows if other == case}) > 1}
    names = [
        f"{case} ({' and '.join(f'{scale:g}' for scale in scales if scale)})" if case in several else case
        for case, scales in rows
    ]
    return pd.Series(names, parameters.index, object)


def unsaid(varied: Any) -> str | None:
    """Returns "path = value, ..." for the settings in a JSON object without a column of their own, else None."""
    if not isinstance(varied, str):
        return None
    settings = {path: value for path, value in json.loads(varied).items() if path not in SAID}
    return ", ".join(f"{path} = {_short(value)}" for path, value in settings.items()) or None


def _short(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else json.dumps(value).strip('"')


def rank(frame: pd.DataFrame, column: str) -> pd.Series | None:
    """Returns the sort keys of a column; None for a column that is sorted by its values.

    Noise goes from none to both, locations from the fewest numbers to the most.
    """
    if column == "noise":
        return frame["noise_case"].map({case: place for place, case in enumerate(NOISES)})
    if column == "parameters":
        least = frame.groupby("parameters")["parameter_count"].transform("min")
        return least.fillna(0).where(frame["parameters"].notna())
    return None


def in_order(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Returns the rows sorted by `names`, each by its `rank` if it has one; missing values come last."""
    keys: dict[int, pd.Series] = {}
    for name in names:
        for key in (rank(frame, name), frame[name]):
            if key is not None:
                keys[len(keys)] = key
    return frame.loc[pd.DataFrame(keys, frame.index).sort_values(list(keys), kind="stable").index]


def telling(frame: pd.DataFrame, columns: Iterable[str], given: Sequence[str] = ()) -> list[str]:
    """Returns those of `columns` that vary while `given` and the columns before them are fixed.

    Data and network are kept whenever they vary.
    """
    kept = list(given)
    for column in columns:
        if frame[column].nunique(dropna=False) < 2:
            continue
        known = not kept or column in ALWAYS
        if known or frame.groupby(kept, dropna=False)[column].nunique(dropna=False).max() > 1:
            kept.append(column)
    return kept[len(given) :]


def measured(rows: pd.DataFrame, column: str) -> Mean:
    """Returns a column's mean over runs of one set-up.

    The interval is Student's t over runs: over seeds if there are several, because runs of the generator with the
    same seed share their originals. If all runs have the same value, such as the accuracy of shared originals, the
    interval is that value's own (`column_low`, `column_high`), if there is one.
    """
    known = rows[column].notna().to_numpy()
    if not known.any():
        return Mean(None, None, None, 0)
    values = rows[column][known]
    if values.nunique() == 1:
        first = int(known.argmax())
        bounds = [f"{column}_{end}" for end in ("low", "high")]
        low, high = (number(rows[bound].iloc[first]) if bound in rows else None for bound in bounds)
        return Mean(float(values.iloc[0]), low, high, len(values))
    mean = mean_over_runs(values, rows["seed"][known])
    if not column.endswith("_accuracy"):
        return mean
    low, high = (None if end is None else min(1.0, max(0.0, end)) for end in (mean.low, mean.high))
    return mean._replace(low=low, high=high)


def mean_over_runs(values: pd.Series, seeds: pd.Series) -> Mean:
    """Returns the mean with Student's t interval over seeds, or over runs of the generator for a single seed."""
    values = values.astype(float)
    apart = values.groupby(seeds, dropna=False).mean() if seeds.nunique(dropna=False) > 1 else values
    low, high = student_interval(apart)
    return Mean(float(apart.mean()), low, high, len(values))
