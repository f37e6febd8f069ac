"""Rows and their pinned schema: what a sweep measured. Where they are kept is `harness.core.row_store`'s."""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from harness.core.errors import UserError

SCHEMA_VERSION = 1

COMMON = {
    "key": pa.string(),
    "status": pa.string(),  # "ok" or "failed"
    "error": pa.string(),  # the traceback of a failed trial
    "seconds": pa.float64(),
    "began_at": pa.float64(),  # seconds since 1970, UTC
    "schema_version": pa.int32(),
    "run": pa.string(),
    "seed": pa.int64(),
    "data": pa.string(),
    "data_fingerprint": pa.string(),
    "device": pa.string(),
    "harness_version": pa.string(),
    "code_commit": pa.string(),
    "code_dirty": pa.bool_(),
    "python_version": pa.string(),
    "ray_version": pa.string(),
    "torch_version": pa.string(),
    "diffusers_version": pa.string(),
    "numpy_version": pa.string(),
    "scikit_learn_version": pa.string(),
}
WHEN_AND_WHERE = ("seconds", "began_at", "run", "fit_seconds")  # columns that differ between two equal runs


def _estimate(name: str) -> dict[str, pa.DataType]:
    """Columns of an accuracy between 0 and 1 with its 95 % interval and the number of samples behind it."""
    return {
        name: pa.float64(),
        f"{name}_low": pa.float64(),
        f"{name}_high": pa.float64(),
        f"{name}_n": pa.int64(),
    }


def _summary(name: str) -> dict[str, pa.DataType]:
    """Columns for many networks' test accuracies: that of the best on validation, the mean and the median."""
    return {
        f"{name}_best_validation_accuracy": pa.float64(),
        **_estimate(f"{name}_best_accuracy"),
        f"{name}_mean_accuracy": pa.float64(),
        f"{name}_median_accuracy": pa.float64(),
        f"{name}_networks": pa.int64(),
    }


TABLES: dict[str, dict[str, pa.DataType]] = {
    # study 1: one row a classifier
    "features": {
        # "trained" (the backbone), "untrained", "pixels", "screen" (a quick look by `search: auto`), "combined"
        # (several blocks and timesteps) or "finetuned"
        "features": pa.string(),
        "backbone": pa.string(),
        "regulariser": pa.string(),  # of the backbone's training; null for none
        "block": pa.int64(),  # numbered from 1 along the network; null for pixels and combined
        "block_name": pa.string(),
        "timestep": pa.int64(),  # 0 is least noise; null for pixels and combined
        "sigma": pa.float64(),  # that timestep's noise over signal, sqrt(1 / a - 1)
        "log_snr": pa.float64(),  # ln(a / (1 - a))
        "pool": pa.int64(),  # pooled to pool x pool
        "head": pa.string(),
        "way": pa.string(),  # "cached" or "streamed"
        "dimensions": pa.int64(),
        "parameter_count": pa.int64(),  # that the head learns; with "finetuned" the encoder's too
        "regularisation": pa.float64(),  # chosen on validation; null for heads without
        "train_n": pa.int64(),
        "image_passes": pa.int64(),  # of this row's images through the backbone; rows of one pass share them
        **_estimate("validation_accuracy"),
        **_estimate("test_accuracy"),
        "fit_seconds": pa.float64(),
    },
    # study 1: one row a pair of representations
    "similarity": {
        **{
            f"{side}_{name}": kind
            for side in ("a", "b")
            for name, kind in {
                "network": pa.string(),  # "backbone" or the encoder's label
                "block": pa.int64(),
                "block_name": pa.string(),  # of an encoder: the layer
                "timestep": pa.int64(),
                "pool": pa.int64(),
            }.items()
        },
        "cka": pa.float64(),  # unbiased, linear
        "images": pa.int64(),
    },
    # study 1: one row a backbone's samples, seen by one encoder
    "generation": {
        "backbone": pa.string(),
        "regulariser": pa.string(),
        "encoder": pa.string(),
        "sampler": pa.string(),
        "steps": pa.int64(),
        "samples": pa.int64(),
        "real": pa.int64(),  # images that the samples are compared with
        "frechet": pa.float64(),  # distance of Gaussians; FID where the encoder is Inception's
        "frechet_real": pa.float64(),  # the same for as many held-out images: what sampling alone gives
        "kernel": pa.float64(),  # unbiased squared MMD, polynomial kernel of degree 3
        "kernel_deviation": pa.float64(),  # standard deviation over subsets
        "grid": pa.string(),  # some samples as one PNG, base64
    },
    # study 2: one row a trial (k originals, one run of the generator and what it generated)
    "weights": {
        "network": pa.string(),
        "parameters": pa.string(),  # the patterns that choose the varied parameters
        "parameter_count": pa.int64(),  # how many numbers they are
        "buffers": pa.string(),  # running statistics: "base" or "collected"
        "preset": pa.string(),
        "k": pa.int64(),
        "subset": pa.string(),  # how the k were taken from the checkpoints: first, strided, random
        "generator": pa.int64(),  # run of autoencoder and diffusion model, from 0
        "optimizer": pa.string(),  # that collected the originals
        "trajectories": pa.int64(),  # trainings that the originals come from
        "permuted": pa.bool_(),  # whether those began from different networks: neurons may be swapped
        "parameter_noise": pa.float64(),
        "latent_noise": pa.float64(),
        "latent": pa.int64(),  # numbers
        "diffusion_steps": pa.int64(),
        "sampler": pa.string(),
        "sampling_steps": pa.int64(),
        "varied": pa.string(),  # what `vary` sets in this trial: a JSON object of values by path, null for nothing
        **_summary("original"),
        **_estimate("ensemble_accuracy"),  # of the network of average weights
        **_summary("generated"),
        **_summary("reconstructed"),
        "similarity_original": pa.float64(),  # mean IoU of wrong predictions, pairs of originals
        "similarity_generated": pa.float64(),
        "similarity_across": pa.float64(),  # pairs of a generated and an original network
        "reconstruction_error": pa.float64(),  # mean squared error on normalised parameters
        "generated_minus_original": pa.float64(),  # best against best, test accuracy
        "generated_minus_original_low": pa.float64(),  # 95 % interval of the paired difference
        "generated_minus_original_high": pa.float64(),
        "p_value": pa.float64(),  # exact McNemar test of that difference
        # Is it new? Distances are RMS over normalised parameters; "held out" are checkpoints that nothing learnt from
        "copying_z": pa.float64(),  # Z_U of distances to the nearest original, against held out; << 0: copying
        "copying_z_raw": pa.float64(),  # the same over parameters as they are
        "distance_ratio": pa.float64(),  # median distance to the nearest original: generated over held out
        "mean_z": pa.float64(),  # Mann-Whitney z of distances to the originals' mean, generated against held out
        "variance_ratio": pa.float64(),  # total variance, generated over originals
        "new_share": pa.float64(),  # of generated networks: at least as far from all originals as 5 % of held out are
        "new_and_good_share": pa.float64(),  # new, and as accurate on test as the median original
    },
    # study 2: one row a network
    "networks": {
        "k": pa.int64(),
        "subset": pa.string(),
        "generator": pa.int64(),
        # original, ensemble, generated, reconstructed, held_out, or a control's name
        "kind": pa.string(),
        "setting": pa.float64(),  # noise: its scale; average: of how many; else null
        "index": pa.int64(),
        "selected": pa.bool_(),  # best of its kind and setting on validation
        **_estimate("validation_accuracy"),
        **_estimate("test_accuracy"),
        "max_similarity": pa.float64(),  # to the originals, itself excluded
        "distance": pa.float64(),  # to the nearest original, itself excluded; normalised parameters, RMS
        "distance_raw": pa.float64(),  # the same over parameters as they are
        "distance_to_mean": pa.float64(),  # of the originals (leave-one-out for themselves); normalised, RMS
        "off_span": pa.float64(),  # share of the squared length that no mixture of the originals reaches
        "new": pa.bool_(),  # at least as far from all originals as 5 % of held-out checkpoints are
        "step": pa.int64(),  # of training, for checkpoints
        "nearest_step": pa.int64(),  # of the nearest original
        # t-SNE of the autoencoder's latents and of the normalised weights, all kinds of the trial together
        "latent_x": pa.float64(),
        "latent_y": pa.float64(),
        "weight_x": pa.float64(),
        "weight_y": pa.float64(),
    },
    # per-sample correctness on the test split, for paired tests
    "correctness": {
        "study": pa.string(),
        "kind": pa.string(),
        "setting": pa.float64(),
        "index": pa.int64(),
        "split": pa.string(),
        "correct": pa.list_(pa.bool_()),  # in the order of the split
    },
}


def schema(table: str) -> pa.Schema:
    """Returns the pinned schema of `table`."""
    return pa.schema(
        {**COMMON, **TABLES[table]}, metadata={"harness_schema_version": str(SCHEMA_VERSION), "table": table}
    )


@dataclass(frozen=True)
class Outcome:
    """What a trial ended in: its rows, by table."""

    key: str
    study: str
    failed: bool
    tables: Mapping[str, list[dict[str, Any]]]

    def to_json(self) -> str:
        """Returns one line of a journal."""
        tables = {name: [_packed(row) for row in rows] for name, rows in self.tables.items()}
        return json.dumps(
            {
                "v": SCHEMA_VERSION,
                "key": self.key,
                "study": self.study,
                "failed": self.failed,
                "tables": tables,
            }
        )

    @staticmethod
    def from_json(line: str, where: str = "a journal") -> "Outcome":
        """Reads one line of a journal; raises `ValueError` if it is not whole."""
        values = json.loads(line)
        check_schema_version(values["v"], where)
        tables = {name: [_unpacked(row) for row in rows] for name, rows in values["tables"].items()}
        return Outcome(values["key"], values["study"], values["failed"], tables)


def _packed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turns NumPy numbers into Python's, NaN into null and arrays of booleans into base64."""
    packed: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, np.ndarray):
            bits = base64.b64encode(np.packbits(value.astype(bool)).tobytes()).decode()
            packed[name] = {"bits": bits, "n": len(value)}
        else:
            value = value.item() if isinstance(value, np.generic) else value
            packed[name] = None if isinstance(value, float) and not np.isfinite(value) else value
    return packed


def _unpacked(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: np.unpackbits(
            np.frombuffer(base64.b64decode(value["bits"]), np.uint8), count=value["n"]
        ).astype(bool)
        if isinstance(value, dict)
        else value
        for name, value in row.items()
    }


def to_table(name: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Returns rows as an Arrow table of the pinned schema; a column that the schema lacks is a `KeyError`."""
    columns = schema(name)
    rows = list(rows)
    known = set(columns.names)
    for row in rows:
        if not known.issuperset(row):
            raise KeyError(f"table {name!r} has no column {sorted(set(row) - known)}")
    return pa.Table.from_pylist([{**row, "schema_version": SCHEMA_VERSION} for row in rows], schema=columns)


def check_schema_version(found: int, where: str) -> None:
    """Raises `UserError` if `where` was written with a newer schema than this one."""
    if found > SCHEMA_VERSION:
        raise UserError(
            f"{where}: written with schema version {found}, this is version {SCHEMA_VERSION}; "
            "install a newer harness or choose another --results"
        )
