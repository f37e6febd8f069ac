"""A CKA trial: reads representations of the same images and compares them pairwise."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import load_file

from harness.core.stages import Context, Stage, Trial
from harness.data.dataset import open_dataset
from harness.features.cka.study import SIDE
from harness.features.extract import FILE, batches
from harness.metrics.cka import cka
from harness.models.encoders.encoder import open_encoder, select
from harness.training.device import pick_device

LAYERS = "layers.safetensors"


class Representation(NamedTuple):
    """One block's features, or one encoder layer's, of the images."""

    columns: Mapping[str, Any]  # of one side of a row
    x_ND: np.ndarray


def run(trial: Trial, context: Context) -> dict[str, list[dict[str, Any]]]:
    """Returns one row of `similarity` per pair."""
    rows = []
    for group in trial.config["groups"]:
        a, b = (
            [one for place in group[side] for one in read(place, trial.reads[place["reads"]], context)]
            for side in ("a", "b")
        )
        rows += compared(a, b)
    return {"similarity": rows}


def compared(a: Sequence[Representation], b: Sequence[Representation]) -> list[dict[str, Any]]:
    """Returns one row per pair of an `a` and a `b`; if `b` is empty, per pair within `a`.

    The rows of a representation that is not finite are failed ones; those of a constant one have no value.
    """
    everything = [*a, *b]
    errors = [_error(one) for one in everything]
    sound = [place for place, error in enumerate(errors) if error is None]
    cka_KK = np.full((len(everything), len(everything)), np.nan)
    if sound:
        cka_KK[np.ix_(sound, sound)] = cka([everything[place].x_ND for place in sound])
    pairs = product(range(len(a)), range(len(a), len(everything))) if b else combinations(range(len(a)), 2)
    return [
        {
            **{f"a_{name}": value for name, value in everything[first].columns.items()},
            **{f"b_{name}": value for name, value in everything[second].columns.items()},
            **_value(float(cka_KK[first, second]), errors[first] or errors[second]),
            "images": len(everything[first].x_ND),
        }
        for first, second in pairs
    ]


def _value(value: float, error: str | None) -> dict[str, Any]:
    """Returns the value's column, null where it is undefined, or the columns of a failed row."""
    known = {"cka": None if math.isnan(value) else value}
    return known if error is None else {"cka": None, "status": "failed", "error": error}


def _error(one: Representation) -> str | None:
    """Returns what is wrong with a representation, None if nothing is."""
    name = " ".join(str(one.columns[name]) for name in ("model", "block_name") if one.columns[name])
    if not np.isfinite(one.x_ND).all():
        return f"FloatingPointError: the features of {name} are not finite"
    return None


def read(place: Mapping[str, Any], held: Sequence[Stage], context: Context) -> list[Representation]:
    """Returns a block's features, or those of an encoder's layers. Raises `UserError` for a missing layer."""
    if "layers" in place:
        with safe_open(context.file(held[0], LAYERS), framework="numpy") as file:
            known = json.loads(file.metadata()["layers"])
            chosen = select(place["layers"], known, place["model"])
            return [
                Representation(
                    _columns(model=place["model"], block=known.index(layer), block_name=layer),
                    file.get_tensor(layer),
                )
                for layer in chosen
            ]
    x_NCPP = torch.cat([load_file(context.file(shard, FILE))["features"] for shard in held])
    pooled_NCPP = torch.nn.functional.adaptive_avg_pool2d(x_NCPP, place["pool"])
    return [Representation({name: place[name] for name in SIDE}, pooled_NCPP.flatten(1).numpy())]


def _columns(**values: Any) -> dict[str, Any]:
    return {name: values.get(name) for name in SIDE}


def make_layers(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the features of the first training images at every layer of an encoder, [N, D] each."""
    dataset = open_dataset(stage.needs["dataset"], context)
    device = pick_device(context)
    encoder = open_encoder(stage.needs["encoder"], context, device)
    index_N = dataset.splits["train"][: stage.config["images"]]
    kept: dict[str, list[np.ndarray]] = {layer: [] for layer in encoder.layers}
    for _, x_BCHW in batches(dataset.images, index_N, stage.options["batch"], device):
        for layer, value_BD in encoder.features(x_BCHW).items():
            kept[layer].append(value_BD.cpu().numpy())
    save_file(
        {layer: np.concatenate(parts) for layer, parts in kept.items()},
        folder / LAYERS,
        metadata={"layers": json.dumps(encoder.layers)},
    )
