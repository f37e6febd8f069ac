"""A trial of study 2: originals, the networks generated from them and the controls, evaluated side by side."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from harness.core.config import part_of
from harness.core.seeds import derive_seed, rng
from harness.core.stages import Context, Stage, Trial
from harness.data.dataset import Dataset, open_dataset
from harness.metrics.accuracy import Estimate, accuracy
from harness.metrics.copying import (
    copying_z,
    distance_to_mean,
    distance_to_mean_of_others,
    is_new,
    newness_threshold,
    off_span,
    off_span_of_others,
    variance_ratio,
)
from harness.metrics.inference import mcnemar, paired_difference_interval
from harness.metrics.maps import flat_map, thinned
from harness.metrics.similarity import error_iou, most_similar_other, pack, root_mean_square_distance
from harness.weights.checkpoints import (
    ENOUGH_HELD_OUT,
    VECTORS,
    chosen,
    held_out,
    open_checkpoints,
    open_trajectory,
)
from harness.weights.controls import CONTROLS, Control, Material
from harness.weights.predict import read_predictions
from harness.weights.vectors import Normaliser, normaliser

MAPS = "maps.safetensors"
GROUPS = "groups.json"
NOT_MAPPED = ("reconstructed",)  # they would lie on the originals
COORDINATES = ("latent_x", "latent_y", "weight_x", "weight_y")
STEPS = ("step", "nearest_step")  # whole numbers
AXES = ("k", "subset", "generator")  # of a trial, which the rows of its networks repeat

Row = dict[str, Any]
Columns = dict[str, np.ndarray]  # a number for each network [N], NaN where there is none


class Vectors(NamedTuple):
    """Networks of one kind and setting, with raw parameters."""

    kind: str
    setting: float | None
    vectors_NP: np.ndarray


@dataclass(frozen=True, eq=False)
class Group:
    """Networks of one kind and setting, evaluated."""

    kind: str
    setting: float | None
    normal_NP: (
        np.ndarray
    )  # parameters, normalised as the originals are; P = 0 for a vote, which has none of its own
    right_validation_NM: np.ndarray
    right_test_NM: np.ndarray
    columns: Columns  # further columns of their rows

    @cached_property
    def best(self) -> int:
        """The network that is most accurate on validation; the first if several tie."""
        return int(self.right_validation_NM.mean(1).argmax())

    @cached_property
    def wrong_test_NW(self) -> np.ndarray:
        """What each network gets wrong on test, packed."""
        return pack(~self.right_test_NM)

    def best_accuracy(self) -> Estimate:
        """The test accuracy of the best on validation."""
        return accuracy(self.right_test_NM[self.best])


def make_contenders(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the vectors of all networks that are compared with the originals, kind after kind, and their kinds.

    The maps hold the originals, then the held-out checkpoints, then these.
    """
    from harness.weights.generate import open_codec  # it loads diffusers, which `run` does not need

    checkpoints = open_checkpoints(stage.needs["checkpoints"], context)
    places_K = chosen(checkpoints, stage.config)
    originals_KP = checkpoints.vectors_NP[places_K]
    scale = normaliser(originals_KP, checkpoints.layout)
    codec = open_codec(stage.needs["autoencoder"], context)
    made = {
        name: load_file(context.file(stage.needs[name], VECTORS)) for name in ("generated", "reconstruction")
    }
    material = Material(
        originals_KP=scale.normalise(originals_KP),
        layout=checkpoints.layout,
        scale=scale,
        encode=lambda vectors_NP: codec.encode(scale.restore(vectors_NP)),
        decode=lambda latents_NL: scale.normalise(codec.decode(latents_NL)),
        other_seed_OP=_trajectory("other_seed", stage, scale, context),
        fine_tuned_FP=_trajectory("fine_tuned", stage, scale, context),
    )
    others = [
        Vectors("ensemble", None, originals_KP.mean(0, np.float64, keepdims=True).astype(np.float32)),
        Vectors("generated", None, made["generated"]["generated"]),
        Vectors("reconstructed", None, made["reconstruction"]["reconstructed"]),
        *_controls(stage, material),
    ]
    vectors_NP = np.concatenate([one.vectors_NP for one in others])
    save_file({"vectors": vectors_NP, "places": places_K}, folder / VECTORS)
    groups = [{"kind": one.kind, "setting": one.setting, "count": len(one.vectors_NP)} for one in others]
    (folder / GROUPS).write_text(json.dumps(groups), encoding="utf-8")
    collected = [
        Vectors("original", None, originals_KP),
        Vectors("held_out", None, checkpoints.vectors_NP[held_out(checkpoints, places_K)]),
    ]
    seed = derive_seed(stage.config["seed"], "map") % 2**32
    save_file(_maps([*collected, *others], codec.encode, scale.normalise, seed), folder / MAPS)


def _trajectory(name: str, stage: Stage, scale: Normaliser, context: Context) -> np.ndarray | None:
    """Returns the normalised checkpoints [N, P] of a control's own training, if the study added it."""
    need = stage.needs.get(name)
    return None if need is None else scale.normalise(open_trajectory(need, context)[0])


def _controls(stage: Stage, material: Material) -> Iterator[Vectors]:
    """Yields what each control makes, one setting at a time; adding controls does not change what others draw."""
    config = stage.config
    for settings in config["controls"]:
        control: Control = part_of(CONTROLS, settings)
        draw = rng(config["seed"], "control", control.name, config["k"], config["subset"])
        for setting, vectors_NP in control.make(material, draw).items():
            yield Vectors(control.name, setting, material.scale.restore(vectors_NP))


def _maps(
    some: Sequence[Vectors],
    encode: Callable[[np.ndarray], np.ndarray],
    normalise: Callable[[np.ndarray], np.ndarray],
    seed: int,
) -> Columns:
    """Returns places [N, 2] of all networks on the maps of latents and of weights, NaN for those left out."""
    counts = [len(one.vectors_NP) for one in some]
    shown = [0 if one.kind in NOT_MAPPED else count for one, count in zip(some, counts, strict=True)]
    drawn = iter(np.split(thinned(shown), np.cumsum(shown)[:-1]))
    drawn_N = np.concatenate(
        [
            np.zeros(count, bool) if one.kind in NOT_MAPPED else part
            for one, count, part in zip(some, counts, drawn, strict=True)
        ]
    )
    vectors_DP = np.concatenate([one.vectors_NP for one in some])[drawn_N]
    maps = {}
    for name, points_DV in (("latent", encode(vectors_DP)), ("weight", normalise(vectors_DP))):
        maps[name] = np.full((len(drawn_N), 2), np.nan)
        maps[name][drawn_N] = flat_map(points_DV, seed)
    return maps


def run(trial: Trial, context: Context) -> dict[str, list[Row]]:
    """Returns one row of `weights`, and one of `networks` and of `correctness` for each network."""
    groups, about = _evaluated(trial, context)
    by_kind = {group.kind: group for group in groups if group.setting is None}
    originals, generated, reconstructed = (
        by_kind[kind] for kind in ("original", "generated", "reconstructed")
    )
    fresh = by_kind.get("held_out", originals)
    # too few do not show how far apart checkpoints are: then each original is compared with the others
    fresh = fresh if len(fresh.normal_NP) >= ENOUGH_HELD_OUT else originals
    threshold = newness_threshold(fresh.columns["distance"])
    row = {
        **about,
        **_summary("original", originals),
        **by_kind["ensemble"].best_accuracy().columns("ensemble_accuracy"),
        **_summary("generated", generated),
        **_summary("reconstructed", reconstructed),
        "similarity_original": _mean_off_diagonal(originals),
        "similarity_generated": _mean_off_diagonal(generated),
        "similarity_across": float(error_iou(generated.wrong_test_NW, originals.wrong_test_NW).mean()),
        "reconstruction_error": float(np.square(reconstructed.normal_NP - originals.normal_NP).mean()),
        **difference(generated.right_test_NM[generated.best], originals.right_test_NM[originals.best]),
        **novelty(generated, originals, fresh, threshold),
    }
    axes = {name: trial.axes[name] for name in AXES}
    return {
        "weights": [{name: _or_null(value) for name, value in row.items()}],
        "networks": [{**axes, **one} for group in groups for one in _network_rows(group, threshold)],
        "correctness": [one for group in groups for one in _correctness_rows(group, trial.study)],
    }


def _evaluated(trial: Trial, context: Context) -> tuple[list[Group], Row]:
    """Returns all groups, the originals first, and the columns of the trial's row about the checkpoints."""
    dataset = open_dataset(trial.needs["dataset"], context)
    checkpoints = open_checkpoints(trial.needs["checkpoints"], context)
    made, maps = (load_file(context.file(trial.needs["contenders"], name)) for name in (VECTORS, MAPS))
    places_K = made["places"]
    places_H = held_out(checkpoints, places_K)
    collected_N = np.concatenate([places_K, places_H])
    raw_NP = np.concatenate([checkpoints.vectors_NP[collected_N], made["vectors"]])
    normal_NP = normaliser(checkpoints.vectors_NP[places_K], checkpoints.layout).normalise(raw_NP)
    answers_NM = read_predictions(trial.reads["originals"], context)
    right_NM = _right(
        np.concatenate([answers_NM[collected_N], read_predictions(trial.reads["contenders"], context)]),
        dataset,
    )
    steps_N = np.full(len(raw_NP), np.nan)
    steps_N[: len(collected_N)] = checkpoints.steps_N[collected_N]
    columns = {
        **dict(zip(COORDINATES, np.hstack([maps["latent"], maps["weight"]]).T, strict=True)),
        "step": steps_N,
        **where(raw_NP, normal_NP, steps_N[: len(places_K)]),
    }
    checked = [("original", None, len(places_K)), ("held_out", None, len(places_H))]
    groups, begin = [], 0
    for kind, setting, count in [*checked, *_kinds(trial.needs["contenders"], context)]:
        some = slice(begin, begin := begin + count)
        its = {name: column[some] for name, column in columns.items()}
        groups.append(_group(kind, setting, normal_NP[some], right_NM[some], dataset, its))
    voted_1M = majority(answers_NM[places_K], len(dataset.classes))[None]
    groups.append(_group("vote", None, np.zeros((1, 0)), _right(voted_1M, dataset), dataset, {}))
    for group in groups:
        group.columns["max_similarity"] = _most_alike(group, groups[0])
    about = {
        **trial.config["columns"],
        "parameter_count": checkpoints.layout.length,
        "trajectories": len(np.unique(checkpoints.trajectory_N[places_K])),
        "permuted": trial.config["permuted"],
    }
    return [group for group in groups if len(group.right_test_NM)], about


def _kinds(contenders: Stage, context: Context) -> list[tuple[str, float | None, int]]:
    """Returns kind, setting and count of the contenders, in the order of their vectors."""
    groups = json.loads(context.file(contenders, GROUPS).read_text(encoding="utf-8"))
    return [(one["kind"], one["setting"], one["count"]) for one in groups]


def _right(predicted_NM: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Says which predictions, for the images of validation and then of test, are right."""
    return (
        predicted_NM == dataset.labels[np.concatenate([dataset.splits["validation"], dataset.splits["test"]])]
    )


def _group(
    kind: str,
    setting: float | None,
    normal_NP: np.ndarray,
    right_NM: np.ndarray,
    dataset: Dataset,
    columns: Columns,
) -> Group:
    count = len(dataset.splits["validation"])
    return Group(kind, setting, normal_NP, right_NM[:, :count], right_NM[:, count:], columns)


def majority(predicted_KM: np.ndarray, classes: int) -> np.ndarray:
    """Returns the class [M] that most of K networks predict for each image; the lowest if several tie."""
    images_M = np.arange(predicted_KM.shape[1])
    votes_MC = np.zeros((len(images_M), classes), np.int32)
    for predicted_M in predicted_KM:
        votes_MC[images_M, predicted_M] += 1
    return votes_MC.argmax(1)


def where(raw_NP: np.ndarray, normal_NP: np.ndarray, steps_K: np.ndarray) -> Columns:
    """Returns where networks lie among the originals, which are the first K of them, at these steps of training.

    Each original is compared with the others: NaN where there is none.
    """
    k = len(steps_K)
    distance_raw_N, _ = _nearest(raw_NP, k)
    distance_N, nearest_N = _nearest(normal_NP, k)
    originals_KP = normal_NP[:k]
    return {
        "distance": distance_N,
        "distance_raw": distance_raw_N,
        "distance_to_mean": np.concatenate(
            [distance_to_mean_of_others(originals_KP), distance_to_mean(normal_NP[k:], originals_KP)]
        ),
        "off_span": np.concatenate([off_span_of_others(originals_KP), off_span(normal_NP[k:], originals_KP)]),
        "nearest_step": np.where(np.isnan(distance_N), np.nan, steps_K[nearest_N]),
    }


def _nearest(vectors_NP: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns how far the nearest of the first k vectors, itself left out, is from each, and which it is."""
    distance_NK = root_mean_square_distance(vectors_NP, vectors_NP[:k])
    np.fill_diagonal(distance_NK[:k], np.inf)
    smallest_N = distance_NK.min(1)
    return np.where(np.isinf(smallest_N), np.nan, smallest_N), distance_NK.argmin(1)


def _most_alike(group: Group, originals: Group) -> np.ndarray:
    """Returns the similarity to the most similar original, itself left out; NaN where there is none."""
    alike_NK = error_iou(group.wrong_test_NW, originals.wrong_test_NW)
    return most_similar_other(alike_NK) if group is originals else alike_NK.max(1)


def difference(right_a_M: np.ndarray, right_b_M: np.ndarray) -> Row:
    """Returns how much more accurate the best generated network (a) is than the best original (b), with its
    uncertainty.

    The 95 % interval is Newcombe's for paired proportions; the test is McNemar's exact one.
    """
    low, high = paired_difference_interval(right_a_M, right_b_M)
    return {
        "generated_minus_original": float(np.mean(right_a_M.astype(np.float64) - right_b_M)),
        "generated_minus_original_low": low,
        "generated_minus_original_high": high,
        "p_value": mcnemar(right_a_M, right_b_M),
    }


def novelty(generated: Group, originals: Group, fresh: Group, threshold: float) -> Row:
    """Returns the columns that say whether generated networks are new; `fresh` are networks that nothing learnt from.

    New are those at least `threshold` away from all originals; good those at least as accurate as the median one.
    """
    found, usual = generated.columns, fresh.columns
    new_G = is_new(found["distance"], threshold)
    good_G = generated.right_test_NM.mean(1) >= np.median(originals.right_test_NM.mean(1))
    median = np.median(usual["distance"])
    return {
        **{
            name: copying_z(found[distance], usual[distance])
            for name, distance in (
                ("copying_z", "distance"),
                ("copying_z_raw", "distance_raw"),
                ("mean_z", "distance_to_mean"),
            )
        },
        "distance_ratio": float(np.median(found["distance"]) / median) if median > 0 else None,
        "variance_ratio": variance_ratio(generated.normal_NP, originals.normal_NP),
        "new_share": None if np.isnan(threshold) else float(new_G.mean()),
        "new_and_good_share": None if np.isnan(threshold) else float((new_G & good_G).mean()),
    }


def _or_null(value: Any) -> Any:
    """Returns a value as a row keeps it: None for NaN."""
    return None if isinstance(value, float) and np.isnan(value) else value


def _summary(name: str, group: Group) -> Row:
    test_N = group.right_test_NM.mean(1)
    return {
        f"{name}_best_validation_accuracy": float(group.right_validation_NM[group.best].mean()),
        **group.best_accuracy().columns(f"{name}_best_accuracy"),
        f"{name}_mean_accuracy": float(test_N.mean()),
        f"{name}_median_accuracy": float(np.median(test_N)),
        f"{name}_networks": len(test_N),
    }


def _mean_off_diagonal(group: Group) -> float:
    alike_NN = error_iou(group.wrong_test_NW, group.wrong_test_NW)
    return float(alike_NN[~np.eye(len(alike_NN), dtype=bool)].mean()) if len(alike_NN) > 1 else float("nan")


def _network_rows(group: Group, threshold: float) -> Iterator[Row]:
    for index in range(len(group.right_test_NM)):
        row = {name: _or_null(float(column[index])) for name, column in group.columns.items()}
        row |= {name: int(row[name]) for name in STEPS if row.get(name) is not None}
        distance = row.get("distance")
        yield {
            "kind": group.kind,
            "setting": group.setting,
            "index": index,
            "selected": index == group.best,
            **accuracy(group.right_validation_NM[index]).columns("validation_accuracy"),
            **accuracy(group.right_test_NM[index]).columns("test_accuracy"),
            **row,
            "new": None if distance is None or np.isnan(threshold) else bool(is_new(distance, threshold)),
        }


def _correctness_rows(group: Group, study: str) -> list[Row]:
    return [
        {
            "study": study,
            "kind": group.kind,
            "setting": group.setting,
            "index": index,
            "split": "test",
            "correct": right,
        }
        for index, right in enumerate(group.right_test_NM)
    ]
