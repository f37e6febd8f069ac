"""The published numbers of study 2 (arXiv 2402.13144), found for the data set and the network that were measured.

`parameter_diffusion.csv` holds them: figure, edition of the paper, data set, model, setting, metric, statistic, value
(top-1 in percent, similarities from 0 to 1) and source. The published code chooses the best on the test split.
"""

import re
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import pandas as pd

EDITIONS = {"first": "2024-02", "third": "2024-12"}  # the CSV's names, and those of the presets
DEFAULT_K = {"first": "K=200", "third": "K=300"}
ABLATED = ("cifar100", "resnet18")  # where the paper's ablations and similarities were measured
NETWORK_BEGINNINGS = {"vitt": "vit-tiny", "vitb": "vit-base"}
NETWORK_BEGINNINGS |= {"convnextt": "convnext-tiny", "convnextb": "convnext-base"}
DATA_ALIASES = {
    "imagenet": "imagenet-1k",
    "ilsvrc2012": "imagenet-1k",
    "oxfordflowers102": "flowers102",
    "oxfordflowers": "flowers102",
    "oxfordiiitpet": "pets",
    "oxfordpets": "pets",
}
LOCATIONS = {  # the paper's names, and what the parameters of each begin with
    "layer3": ("bn-10-14", "layer3"),
    "layer4.0": ("bn-14-16", "layer4.0"),
    "layer4.1": ("bn-16-18", "layer4.1"),
    "conv1": ("conv1",),
    "fc": ("fc",),
}


class Beside(NamedTuple):
    """Published accuracies in percent; None is not known."""

    edition: str  # "2024-02" or "2024-12"
    source: str
    original: float | None
    original_mean: float | None
    ensemble: float | None
    generated: float | None
    generated_mean: float | None
    generated_median: float | None


@cache
def published() -> pd.DataFrame:
    """Returns all rows of the CSV."""
    file = files("harness.report").joinpath("published/parameter_diffusion.csv")
    with file.open(encoding="utf-8") as opened:
        return pd.read_csv(opened)


def of_figure(figure: str, **values: object) -> pd.DataFrame:
    """Returns the rows of one published figure that have these values."""
    frame = published()
    frame = frame[frame["figure"] == figure]
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def _parts(name: Any) -> list[str]:
    """Returns the parts of a path or an identifier, in small letters and digits alone."""
    return [re.sub(r"[^a-z0-9]", "", part) for part in re.split(r"[/:\s]+", str(name).lower())]


def same_data(name: Any) -> str | None:
    """Returns the published name of a data set such as "CIFAR-10" or "uoft-cs/cifar100"; None if there is none."""
    known = {_parts(data)[0]: data for data in published()["dataset"].unique()} | DATA_ALIASES
    return next((known[part] for part in _parts(name) if part in known), None)


def same_network(name: Any) -> str | None:
    """Returns the published name of a network such as "ResNet-18" or "vit-tiny-patch16-224"; None if none is."""
    known = {_parts(model)[0]: model for model in published()["model"].unique()} | NETWORK_BEGINNINGS
    for part in _parts(name):
        begins = [start for start in known if re.match(rf"{start}(?!\d)", part)]
        if begins:
            return str(known[max(begins, key=len)])
    return None


def is_ablated(data: Any, network: Any) -> bool:
    """Returns whether the paper's ablations were measured on this data set and network."""
    return (same_data(data), same_network(network)) == ABLATED


def same_location(parameters: Any) -> str | None:
    """Returns which published location patterns such as "bn-16-18" or "layer4.1.bn1 layer4.1.bn2" are, if one."""
    words = re.split(r"[,\s]+", str(parameters).strip().lower())
    for location, beginnings in LOCATIONS.items():
        if all(any(re.match(rf"{re.escape(start)}(?![0-9])", w) for start in beginnings) for w in words):
            return location
    return None


def beside(data: Any, network: Any) -> list[Beside]:
    """Returns what each edition reports for this data set and network, nothing where it reports none."""
    where = {"dataset": same_data(data), "model": same_network(network)}
    found = []
    for edition, preset in EDITIONS.items():
        main = of_figure("main", edition=edition, **where)
        grid = of_figure("K", edition=edition, **where)
        originals, generated = (grid[grid["setting"] == s] for s in ("originals", DEFAULT_K[edition]))
        sources = [*main["source"], *generated["source"]]
        if not sources:
            continue
        numbers = (
            _value(main, "original", _value(originals, "best")),
            _value(originals, "mean"),
            _value(main, "ensemble"),
            _value(main, "generated", _value(generated, "best")),
            _value(generated, "mean"),
            _value(generated, "median"),
        )
        found.append(Beside(preset, str(sources[0]), *numbers))
    return found


def _value(rows: pd.DataFrame, statistic: str, other: float | None = None) -> float | None:
    values = rows[rows["statistic"] == statistic]["value"]
    return float(values.iloc[0]) if len(values) else other
