"""Makes up results as a sweep leaves them: no training, the shapes and habits of real numbers."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from harness.core.row_store import RowStore
from harness.core.storage import Storage
from harness.sweep.studies import tables as declared_tables

Row = dict[str, Any]
COMMON: Row = {
    "status": "ok",
    "error": None,
    "seconds": 3.5,
    "began_at": 1_750_000_000.0,
    "run": "20250615T150640-0a1b2c3d",
    "seed": 0,
    "data": "cifar10",
    "data_fingerprint": "d41d8cd98f00",
    "device": "NVIDIA A100",
    "harness_version": "0.1.0",
    "code_commit": "0123456789abcdef0123456789abcdef01234567",
    "code_dirty": False,
    "python_version": "3.11.2",
    "ray_version": "2.60.0",
    "torch_version": "2.11.0",
    "diffusers_version": "0.36.0",
    "numpy_version": "2.3.0",
    "scikit_learn_version": "1.7.0",
}
GAIN = {"finetuned": 0.06, "dispersive": 0.03, "screen": -0.05}  # of accuracy, over the frozen probe
PARAMETERS = {"linear": 2570, "mlp": 640_000, "ridge": 2570, "difformer": 5_000_000}
# one white pixel
GRID = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
TRACEBACK = """Traceback (most recent call last):
  File "harness/features/probe.py", line 88, in fit
    solution = solve(gram, target)
\x1b[36mtorch.OutOfMemoryError\x1b[0m: CUDA out of memory. Tried to allocate 2.50 GiB"""


def estimate(name: str, value: float | None, n: int) -> Row:
    """Returns the columns of an accuracy with a normal interval."""
    half = 0.0 if value is None else 1.96 * math.sqrt(value * (1 - value) / n)
    ends = (None, None) if value is None else (value - half, value + half)
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1], f"{name}_n": n}


def draw_correct(rng: np.random.Generator, difficulty: np.ndarray, accuracy: float) -> np.ndarray:
    """Returns correctness, (n,), shared in part with every other network by the samples' difficulty."""
    score = difficulty + 0.35 * rng.standard_normal(len(difficulty))
    return score <= np.quantile(score, accuracy)


def feature_accuracy(block: int, timestep: int, pool: int, head: str, blocks: int) -> float:
    """Returns a mean accuracy with one peak, late in the network, at a small noise level."""
    place = block / blocks
    peak = math.exp(-((place - 0.65) ** 2) / 0.08) * math.exp(-((math.log(timestep + 5) - 4.3) ** 2) / 4)
    gain = {1: 0.0, 2: 0.03, 4: 0.035, 8: 0.02}.get(pool, 0.0) + {"linear": 0.0, "mlp": 0.025}.get(head, 0.01)
    return 0.35 + 0.4 * peak + gain


def feature_rows(
    blocks: Sequence[int] = (6, 9, 15, 19, 24, 30, 33),
    timesteps: Sequence[int] = (10, 30, 50, 90, 150, 300, 500),
    pools: Sequence[int] = (1, 2, 4, 8),
    heads: Sequence[str] = ("linear", "mlp"),
    n: int = 2000,
    controls: bool = True,
    correct: bool = True,
    seed: int = 0,
    data: str = "cifar10",
    name: str = "f",
    extra: bool = False,
) -> dict[str, list[Row]]:
    """Returns study 1's rows: the whole grid, an untrained network, raw pixels.

    `extra` adds what costs more: heads on several blocks and timesteps, fine-tuned backbones, a network trained
    with a regulariser, and the screens of a search. `name` begins the keys.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.standard_normal(n)
    tables: dict[str, list[Row]] = {"features": [], "correctness": []}
    grid = itertools.product(blocks, timesteps, pools, heads)
    settings: list[tuple[str, int | None, int | None, int, str]] = [("trained", *cell) for cell in grid]
    if controls:
        settings += [("untrained", b, timesteps[0], p, heads[0]) for b in blocks for p in pools]
        settings += [("pixels", None, None, 8, head) for head in heads]
    if extra:
        settings += [("combined", None, None, pools[0], "difformer")]
        settings += [("finetuned", b, t, pools[0], heads[0]) for b in blocks[1:] for t in timesteps[:1]]
        settings += [("dispersive", b, t, pools[0], heads[0]) for b in blocks for t in timesteps]
        settings += [("screen", b, t, pools[0], "ridge") for b in blocks for t in timesteps]
    for place, (kind, block, timestep, pool, head) in enumerate(settings):
        if block is None or timestep is None:
            mean = 0.38 if kind == "pixels" else 0.8
        else:
            mean = feature_accuracy(block, timestep, pool, head, max(blocks))
            mean = 0.3 + 0.15 * (mean - 0.35) if kind == "untrained" else mean + GAIN.get(kind, 0.0)
        right = draw_correct(rng, difficulty, mean + 0.01 * rng.standard_normal())
        row = {
            **COMMON,
            "key": f"{name}{place:05d}",
            "data": data,
            "began_at": COMMON["began_at"] + (0 if kind == "screen" else 60 + place),
            "features": "trained" if kind == "dispersive" else kind,
            "backbone": None if kind == "pixels" else "ddpm",
            "regulariser": "dispersive" if kind == "dispersive" else None,
            "block": block,
            "block_name": block_name(kind, block, blocks, timesteps),
            "timestep": timestep,
            **noise_level(timestep),
            "caching": None if kind in ("pixels", "finetuned") else "cached",
            "parameter_count": PARAMETERS.get(head, 10) * pool * pool,
            "image_passes": None if kind == "pixels" else 500 if kind == "screen" else 5000,
            "pool": pool,
            "head": head,
            "dimensions": 256 * pool * pool,
            "train_n": 40_000,
            **estimate("validation_accuracy", mean + 0.01 * rng.standard_normal(), n),
            **({} if kind == "screen" else estimate("test_accuracy", float(right.mean()), n)),
            "fit_seconds": 1.0,
        }
        tables["features"].append(row)
        if correct and kind != "screen":
            common = {**COMMON, "key": row["key"], "study": "features", "kind": row["features"]}
            tables["correctness"].append({**common, "split": "test", "correct": right})
    return tables


def block_name(kind: str, block: int | None, blocks: Sequence[int], timesteps: Sequence[int]) -> str | None:
    """Returns a block's path; of several together what they are."""
    if kind == "combined":
        return f"{'+'.join(map(str, blocks))} at t {'+'.join(map(str, timesteps))}"
    return None if block is None else f"up_blocks.{block // 3}.attentions.{block % 3}"


def noise_level(timestep: int | None) -> Row:
    """Returns the columns of a timestep's noise on a schedule whose log-SNR falls evenly."""
    if timestep is None:
        return {}
    log_snr = 8 - timestep / 50
    return {"sigma": math.exp(-log_snr / 2), "log_snr": log_snr}


def similarity_rows(
    blocks: Sequence[int] = (3, 6, 9), timesteps: Sequence[int] = (0, 50)
) -> dict[str, list[Row]]:
    """Returns CKA of pairs of blocks, of each block across timesteps and pools, and with an encoder's layers."""
    sides = [(block, timestep, 1) for block in blocks for timestep in timesteps]
    pairs = [(a, b) for a, b in itertools.combinations(sides, 2) if a[1] == b[1] or a[0] == b[0]]
    pairs += [((block, timesteps[0], pool), (block, timesteps[0], 1)) for block in blocks for pool in (2, 4)]
    rows = []
    for a, b in pairs:
        row = {
            "cka": math.exp(-abs(a[0] - b[0]) / 6 - abs(a[1] - b[1]) / 200 - 0.05 * (a[2] - b[2])),
            "images": 500,
        }
        rows.append(row | side("a", "backbone", *a) | side("b", "backbone", *b))
    for a in sides:
        for layer in range(4):
            row = {"cka": 0.3 + 0.1 * layer - a[0] / 60, "images": 500} | side("a", "backbone", *a)
            layer_name = {"b_model": "resnet-50", "b_block": layer, "b_block_name": f"stage {layer}"}
            rows.append(row | layer_name)
    return {"similarity": [{**COMMON, "key": f"s{i:05d}", **row} for i, row in enumerate(rows)]}


def side(name: str, network: str, block: int, timestep: int, pool: int) -> Row:
    """Returns one side's columns of a row of `similarity`."""
    values = {
        "model": network,
        "block": block,
        "block_name": f"blocks.{block}",
        "timestep": timestep,
        "pool": pool,
    }
    return {f"{name}_{column}": value for column, value in values.items()}


def generation_rows(regularisers: Sequence[str | None] = (None, "dispersive")) -> dict[str, list[Row]]:
    """Returns the distances of samples of a backbone trained without and with a regulariser, by two encoders."""
    rows: list[Row] = [
        {
            **COMMON,
            "key": f"g{i}{j}",
            "backbone": "ddpm",
            "regulariser": regulariser,
            "encoder": encoder,
            "sampler": "ddim",
            "steps": 50,
            "samples": 500,
            "real": 500,
            "frechet": 30.0 - 4 * i + 8 * j,
            "frechet_real": 2.5,
            "kernel": 0.02 - 0.004 * i,
            "kernel_deviation": 0.001,
            "grid": GRID,
        }
        for i, regulariser in enumerate(regularisers)
        for j, encoder in enumerate(("resnet-18", "pixels"))
    ]
    return {"generation": rows}


def study_one() -> dict[str, list[Row]]:
    """Returns all tables of study 1 with all kinds of rows, on two data sets of which one is the paper's."""
    sizes: Any = {"blocks": (3, 6, 9), "timesteps": (1, 50, 300), "pools": (1, 2), "n": 100, "extra": True}
    tables = feature_rows(**sizes)
    other = feature_rows(**sizes, seed=7, data="cub-200", name="c")
    merged = {table: rows + other[table] for table, rows in tables.items()}
    return {**merged, **similarity_rows(), **generation_rows()}


def weight_rows(
    ks: Sequence[int] = (1, 10, 50, 200),
    subsets: Sequence[str] = ("first", "strided"),
    generated: int = 60,
    n: int = 2000,
    seed: int = 1,
    setups: Sequence[Row] = ({},),
    name: str = "w",
) -> dict[str, list[Row]]:
    """Returns study 2's rows: for each setup, K and subset originals, their average, generated, controls.

    `setups` replace columns of the trials, such as {"generator": 1}; `name` begins the keys.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.standard_normal(n)
    tables: dict[str, list[Row]] = {"weights": [], "networks": [], "correctness": []}
    for place, (setup, k, subset) in enumerate(itertools.product(setups, ks, subsets)):
        key = f"{name}{place:05d}"
        own = {column: setup[column] for column in ("data", "seed", "generator") if column in setup}
        common = {**COMMON, "generator": 0, **own, "key": key, "k": k, "subset": subset}
        found: list[tuple[np.ndarray, Row]] = []
        for kind in weight_kinds(k, generated):
            group = _networks(rng, difficulty, common, *kind)
            max(group, key=lambda pair: pair[1]["validation_accuracy"])[1]["selected"] = True
            found += group
        tables["networks"] += [row for _, row in found]
        tables["correctness"] += [
            {
                **{column: row[column] for column in (*COMMON, "key", "kind", "setting", "index")},
                "study": "weights",
                "split": "test",
                "correct": right,
            }
            for right, row in found
        ]
        tables["weights"].append(_trial({**common, **setup}, [row for _, row in found], rng, n))
    return tables


def weight_kinds(k: int, generated: int) -> list[tuple[str, float | None, int, float, float, float]]:
    """Returns each kind of network: setting, how many, mean accuracy, max similarity, distance to the nearest."""
    return [
        ("original", None, k, 0.760, 0.74, 0.9),
        ("ensemble", None, 1, 0.765, 0.90, 0.5),
        ("generated", None, generated, 0.763, 0.88, 0.45),
        ("reconstructed", None, min(k, 20), 0.759, 0.90, 0.3),
        ("held_out", None, 12, 0.759, 0.74, 0.9),
        ("vote", None, 1, 0.768, 0.91, math.nan),
        *(("noise", s, 10, 0.76 - s, 0.98 - 2 * s, s) for s in (0.001, 0.05, 0.15)),
        ("gaussian", None, 20, 0.762, 0.86, 0.6),
        ("average", 16.0, 10, 0.764, 0.89, 0.5),
        ("decoded_gaussian", None, 10, 0.761, 0.87, 0.6),
        ("fine_tuned", None, 8, 0.762, 0.80, 0.7),
        ("other_seed", None, 8, 0.758, 0.65, 1.4),
    ]


def _networks(
    rng: np.random.Generator,
    difficulty: np.ndarray,
    common: Row,
    kind: str,
    setting: float | None,
    count: int,
    mean: float,
    similarity: float,
    distance: float,
) -> list[tuple[np.ndarray, Row]]:
    """Returns each network's correctness and its row of `networks`; vote has no place, one original no other."""
    n = len(difficulty)
    alone = kind == "original" and common["k"] == 1
    nowhere = math.isnan(distance)
    found = []
    for index in range(count):
        right = draw_correct(rng, difficulty, mean + 0.004 * rng.standard_normal())
        near = float(abs(distance + 0.05 * rng.standard_normal()))
        latent, weight = (3 * similarity + rng.standard_normal((2, 2))).tolist()
        row = {
            **common,
            "kind": kind,
            "setting": setting,
            "index": index,
            "selected": False,
            **estimate("validation_accuracy", mean + 0.004 * rng.standard_normal(), n),
            **estimate("test_accuracy", float(right.mean()), n),
            "max_similarity": None
            if alone
            else float(np.clip(similarity + 0.03 * rng.standard_normal(), 0, 1)),
            "distance": None if alone or nowhere else near,
            "distance_raw": None if alone or nowhere else 0.01 * near,
            "distance_to_mean": None if alone or nowhere else 1.1 * near,
            "off_span": None if alone or nowhere else 0.1 * min(near, 1),
            "new": None if alone or nowhere else near > 0.8,
            "step": 10 * index if kind in ("original", "held_out") else None,
            "nearest_step": None if alone or nowhere else 10 * index + 5,
        }
        if not nowhere:
            row |= {
                "latent_x": latent[0],
                "latent_y": latent[1],
                "weight_x": weight[0],
                "weight_y": weight[1],
            }
        found.append((right, row))
    return found


def _trial(given: Row, networks: list[Row], rng: np.random.Generator, n: int) -> Row:
    row: Row = {
        "network": "resnet18",
        "parameters": "bn-16-18",
        "parameter_count": 2048,
        "buffers": "base",
        "preset": "2024-12",
        "optimizer": "adamw",
        "trajectories": 1,
        "permuted": False,
        "parameter_noise": 0.001,
        "latent_noise": 0.1,
        "latent": 128,
        "diffusion_steps": 1000,
        "sampler": "ddpm",
        "sampling_steps": 1000,
        **given,
    }
    for kind in ("original", "generated", "reconstructed", "ensemble"):
        same = [net for net in networks if net["kind"] == kind]
        (best,) = (net["test_accuracy"] for net in same if net["selected"])
        if kind == "ensemble":
            row |= estimate("ensemble_accuracy", best, n)
            continue
        tests = [net["test_accuracy"] for net in same]
        row |= estimate(f"{kind}_best_accuracy", best, n)
        row[f"{kind}_mean_accuracy"] = float(np.mean(tests))
        row[f"{kind}_median_accuracy"] = float(np.median(tests))
        row[f"{kind}_networks"] = len(tests)
    difference = row["generated_best_accuracy"] - row["original_best_accuracy"]
    return {
        **row,
        "generated_minus_original": difference,
        "generated_minus_original_low": difference - 0.01,
        "generated_minus_original_high": difference + 0.01,
        "p_value": 0.41,
        "reconstruction_error": 0.01,
        "similarity_original": None if row["k"] == 1 else 0.742 + 0.01 * float(rng.standard_normal()),
        "similarity_generated": 0.898,
        "similarity_across": 0.819,
        "copying_z": -5.2,
        "copying_z_raw": -4.8,
        "distance_ratio": 0.7,
        "mean_z": -5.6,
        "variance_ratio": 0.2,
        "new_share": 0.1,
        "new_and_good_share": 0.05,
    }


def failed(row: Row, error: str = TRACEBACK) -> Row:
    """Returns a row as a trial leaves it that failed: its axes, no number."""
    kept = {*COMMON, "key", "features", "backbone", "block", "block_name", "timestep", "pool", "head"}
    kept |= {"network", "parameters", "k", "subset", "generator", "regulariser", "encoder"}
    kept |= {name for name in row if name.startswith(("a_", "b_"))}
    return {
        **{name: value for name, value in row.items() if name in kept},
        "status": "failed",
        "error": error,
    }


def arrow(*parts: dict[str, list[Row]]) -> dict[str, pa.Table]:
    """Returns all tables of the pinned schema with the rows of `parts`."""
    return {
        name: table.filled(row for part in parts for row in part.get(name, []))
        for name, table in declared_tables().items()
    }


def write(storage: Storage, experiment: str, *parts: dict[str, list[Row]]) -> None:
    """Writes an experiment's tables as a sweep does."""
    tables = arrow(*parts)
    keys = [key for table in tables.values() for key in table["key"].to_pylist()]
    RowStore(storage, declared_tables()).write_experiment(experiment, dict.fromkeys(keys), tables)
