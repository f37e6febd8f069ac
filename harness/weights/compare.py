"""A trial of study 2: originals, what was generated from them and the controls, evaluated side by side."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from harness.core.seeds import generator
from harness.core.stages import Stage, Trial, Workshop
from harness.data.dataset import Dataset, open_dataset
from harness.metrics.accuracy import Accuracy, accuracy, paired_p_value
from harness.metrics.similarity import error_iou, nearest_other, root_mean_square_distance
from harness.weights.controls import CONTROLS, Control
from harness.weights.originals import VECTORS, open_pool, read_predictions
from harness.weights.vectors import normaliser

Row = dict[str, Any]


class Group(NamedTuple):
    """Networks of one kind, evaluated."""

    kind: str
    setting: float | None
    vectors_NP: np.ndarray  # normalised
    right_validation_NM: np.ndarray
    right_test_NM: np.ndarray

    @property
    def best(self) -> int:
        """The network that is most accurate on validation; the first of equals."""
        return int(self.right_validation_NM.mean(1).argmax())

    def best_accuracy(self) -> Accuracy:
        """The test accuracy of the best on validation."""
        return accuracy(self.right_test_NM[self.best])


def run(trial: Trial, workshop: Workshop) -> dict[str, list[Row]]:
    """Returns one row of `weights`, and one of `networks` and of `correctness` for each network."""
    groups, layout_length = _evaluated(trial, workshop)
    originals = groups[0]
    networks = [row for group in groups for row in _network_rows(group, originals)]
    by_kind = {(group.kind, group.setting): group for group in groups}
    generated, reconstructed = by_kind["generated", None], by_kind["reconstructed", None]
    best, best_generated = originals.right_test_NM[originals.best], generated.right_test_NM[generated.best]
    row = {
        "length": layout_length,
        **_summary("original", originals),
        **by_kind["ensemble", None].best_accuracy().columns("ensemble_accuracy"),
        **_summary("generated", generated),
        **_summary("reconstructed", reconstructed),
        "similarity_original": _mean_off_diagonal(originals),
        "similarity_generated": _mean_off_diagonal(generated),
        "similarity_across": float(error_iou(~generated.right_test_NM, ~originals.right_test_NM).mean()),
        "reconstruction_error": float(np.square(reconstructed.vectors_NP - originals.vectors_NP).mean()),
        "generated_minus_original": float(best_generated.mean() - best.mean()),
        "p_value": paired_p_value(best_generated, best),
    }
    axes = {name: trial.axes[name] for name in ("k", "subset")}
    correctness = [row for group in groups for row in _correctness_rows(group, trial.study)]
    return {
        "weights": [row],
        "networks": [{**axes, **network} for network in networks],
        "correctness": correctness,
    }


def make_contenders(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Writes the vectors of all networks that stand beside the originals, kind after kind, and which is which."""
    pool_KP, layout = open_pool(stage.needs["pool"], workshop)
    made = load_file(workshop.file(stage.needs["generated"], VECTORS))
    originals_KP = pool_KP[made["places"]]
    scale = normaliser(originals_KP, layout)
    others: list[tuple[str, float | None, np.ndarray]] = [
        ("ensemble", None, originals_KP.mean(0, keepdims=True)),
        ("generated", None, made["generated"]),
        ("reconstructed", None, made["reconstructed"]),
    ]
    for settings in stage.config["controls"]:
        control: Control = CONTROLS.load(settings["name"]).model_validate(settings)
        draw = generator(
            stage.config["seed"], "control", control.name, stage.config["k"], stage.config["subset"]
        )
        for setting, vectors_NP in control.make(scale.normalise(originals_KP), draw).items():
            others.append((control.name, setting, scale.restore(vectors_NP)))
    vectors_NP = np.concatenate([vectors for _, _, vectors in others]).astype(np.float32)
    save_file({"vectors": vectors_NP, "places": made["places"]}, folder / VECTORS)
    groups = [{"kind": kind, "setting": setting, "count": len(some)} for kind, setting, some in others]
    (folder / "groups.json").write_text(json.dumps(groups), encoding="utf-8")


def _evaluated(trial: Trial, workshop: Workshop) -> tuple[list[Group], int]:
    """Returns all groups, the originals first, and how many numbers a network's vector has."""
    dataset = open_dataset(trial.needs["dataset"], workshop)
    pool_KP, layout = open_pool(trial.needs["pool"], workshop)
    contenders = trial.needs["contenders"]
    made = load_file(workshop.file(contenders, VECTORS))
    kinds = json.loads(workshop.file(contenders, "groups.json").read_text(encoding="utf-8"))
    originals_KP = pool_KP[made["places"]]
    scale = normaliser(originals_KP, layout)
    answers = read_predictions(trial.reads["originals"], workshop)[made["places"]]
    groups = [_group("original", None, scale.normalise(originals_KP), answers, dataset)]
    edges = np.cumsum([one["count"] for one in kinds])[:-1]
    parts = (
        np.split(made["vectors"], edges),
        np.split(read_predictions(trial.reads["contenders"], workshop), edges),
    )
    for one, vectors, answers in zip(kinds, *parts, strict=True):
        groups.append(_group(one["kind"], one["setting"], scale.normalise(vectors), answers, dataset))
    return groups, layout.length


def _group(
    kind: str, setting: float | None, vectors: np.ndarray, answers: np.ndarray, dataset: Dataset
) -> Group:
    validation, test = dataset.splits["validation"], dataset.splits["test"]
    right = answers == dataset.labels[np.concatenate([validation, test])]
    return Group(kind, setting, vectors, right[:, : len(validation)], right[:, len(validation) :])


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
    alike = error_iou(~group.right_test_NM, ~group.right_test_NM)
    return float(alike[~np.eye(len(alike), dtype=bool)].mean()) if len(alike) > 1 else float("nan")


def _network_rows(group: Group, originals: Group) -> list[Row]:
    alike = error_iou(~group.right_test_NM, ~originals.right_test_NM)
    distance = root_mean_square_distance(group.vectors_NP, originals.vectors_NP)
    if group is originals:
        most_alike, nearest = nearest_other(alike, "largest"), nearest_other(distance, "smallest")
    else:
        most_alike, nearest = alike.max(1), distance.min(1)
    return [
        {
            "kind": group.kind,
            "setting": group.setting,
            "index": index,
            "selected": index == group.best,
            **accuracy(group.right_validation_NM[index]).columns("validation_accuracy"),
            **accuracy(group.right_test_NM[index]).columns("test_accuracy"),
            "max_similarity": float(most_alike[index]),
            "distance": float(nearest[index]),
        }
        for index in range(len(group.vectors_NP))
    ]


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
