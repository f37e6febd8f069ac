"""Streamed ridge probes: a pass over the training images accumulates sums, a pass over the others evaluates."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from harness.core.stages import Context, Stage
from harness.data.dataset import Dataset, open_dataset
from harness.features.extract import ModulePool, open_denoiser, read_blocks, used_precision
from harness.features.heads.least_squares import Sums, solve, targets
from harness.features.stages import stored_pool
from harness.features.standardise import scale_of
from harness.features.streaming.streamed_head import StreamedHead, publish
from harness.features.streaming.sums import RunningSums
from harness.training.config import Augment

NOT_FINITE = "features of training images are not finite; the backbone overflows or is poorly trained"
Read = Callable[..., Iterator[tuple[int, dict[ModulePool, torch.Tensor]]]]


class Probes(NamedTuple):
    """One cell's probes, one per strength: scores are (x - mean) / scale @ weights + intercept."""

    mean_D: np.ndarray
    scale_D: np.ndarray
    strengths: Sequence[float]
    weights_SDC: np.ndarray
    intercept_C: np.ndarray
    error: str | None = None  # why there is none; its numbers are zeros then

    def scores(self, x_BD: np.ndarray) -> np.ndarray:
        """Returns scores [S, B, C] of features that are not standardised."""
        return ((x_BD - self.mean_D) / self.scale_D) @ self.weights_SDC + self.intercept_C

    def only(self, place: int) -> "Probes":
        """Returns the probe of one strength."""
        return self._replace(
            strengths=[self.strengths[place]], weights_SDC=self.weights_SDC[place : place + 1]
        )


def make_probes(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the probe of `stage`, and publishes those of its missing siblings, from the same passes."""
    began = time.monotonic()
    wanted = [stage, *(sibling for sibling in stage.siblings if not context.has(sibling))]
    dataset = open_dataset(stage.needs["dataset"], context)
    taps = summed_taps([one.config for one in wanted])
    denoiser = open_denoiser(stage.needs["backbone"], context)
    config = stage.config

    def read(index_M: np.ndarray, view: int = 0) -> Iterator[tuple[int, dict[ModulePool, torch.Tensor]]]:
        return read_blocks(
            denoiser,
            dataset.images,
            index_M,
            timestep=config["timestep"],
            taps=list(dict.fromkeys(taps.values())),
            noised=config["noise"] == "fresh",
            draws=config["draws"],
            seed=config["seed"],
            batch=stage.options["batch"],
            view=view,
            augment=Augment(**config["augment"]) if view and config["augment"] else None,
            precision=config["precision"],
        )

    probes = learn([one.config for one in wanted], taps, dataset, read, denoiser.device)
    evaluated = evaluate([one.config for one in wanted], taps, probes, dataset, read)
    precision = used_precision(config["precision"], denoiser)
    publish(wanted, evaluated, folder, context, began, precision)


def summed_taps(cells: Sequence[Mapping[str, Any]]) -> dict[ModulePool, ModulePool]:
    """Returns, for each (module, pool), the tap from whose sums it follows, in the order in which the modules run."""
    pools: dict[str, set[int]] = {}
    for cell in cells:
        pools.setdefault(cell["module"], set()).add(cell["pool"])
    return {
        (cell["module"], cell["pool"]): (
            cell["module"],
            stored_pool(cell["pool"], sorted(pools[cell["module"]]), cell["size"]),
        )
        for cell in sorted(cells, key=lambda cell: (cell["block"], cell["pool"]))
    }


def learn(
    cells: Sequence[Mapping[str, Any]],
    taps: Mapping[ModulePool, ModulePool],
    dataset: Dataset,
    read: Read,
    device: torch.device,
) -> list[Probes]:
    """Returns the probes of each cell, from one pass over the labelled images per view."""
    channels = {cell["module"]: cell["channels"] for cell in cells}
    sums = {
        tap: RunningSums(channels[tap[0]], tap[1], len(dataset.classes), device) for tap in set(taps.values())
    }
    index_M = dataset.labelled(cells[0]["labels_per_class"])
    for view in range(cells[0]["views"]):
        for begin, features in read(index_M, view):
            for tap, x_BCPP in features.items():
                sums[tap].add(x_BCPP, dataset.labels[index_M[begin : begin + len(x_BCPP)]])
    found: dict[int, Probes] = {}
    for tap in list(sums):  # one at a time, so that its memory is freed before the next is solved
        running = sums.pop(tap)
        for place, cell in enumerate(cells):
            if taps[cell["module"], cell["pool"]] == tap:
                found[place] = solved(running.at(cell["pool"]), cell["head"]["strengths"])
    return [found[place] for place in range(len(cells))]


def solved(sums: Sums, strengths: Sequence[float]) -> Probes:
    """Returns the probes of standardised features, from the sums of the original features.

    Features that are not finite give probes with an error: those of other blocks are not affected.
    """
    if not all(np.isfinite(one).all() for one in (sums.x_D, sums.xx_DD, sums.xy_DC)):
        zeros_D, zeros_C = np.zeros_like(sums.mean_D), np.zeros_like(sums.y_C)
        nothing = np.zeros((len(strengths), len(zeros_D), len(zeros_C)))
        return Probes(zeros_D, zeros_D + 1, strengths, nothing, zeros_C, NOT_FINITE)
    scale_D = scale_of(sums.deviation_D)
    gram_DD, cross_DC = sums.centred()
    gram_DD /= scale_D
    gram_DD /= scale_D[:, None]
    weights = list(solve(gram_DD, cross_DC / scale_D[:, None], sums.n, strengths))
    return Probes(sums.mean_D, scale_D, strengths, np.stack(weights), sums.y_C / sums.n)


def evaluate(
    cells: Sequence[Mapping[str, Any]],
    taps: Mapping[ModulePool, ModulePool],
    probes: Sequence[Probes],
    dataset: Dataset,
    read: Read,
) -> list[StreamedHead]:
    """Returns each cell's probe at the strength that is best on validation, and which images it classifies correctly.

    Ties are broken by squared error, as for the cached head.
    """
    right, errors = _pass(cells, taps, probes, dataset, read, "validation")
    best = [
        max(range(len(e)), key=lambda s: (r[s].mean(), -e[s])) for r, e in zip(right, errors, strict=True)
    ]
    chosen = [one.only(place) for one, place in zip(probes, best, strict=True)]
    right_test, _ = _pass(cells, taps, chosen, dataset, read, "test")
    return [
        StreamedHead(
            {
                "mean": probe.mean_D,
                "scale": probe.scale_D,
                "1.weight": np.ascontiguousarray(probe.weights_SDC[0].T),
                "1.bias": probe.intercept_C,
            },
            right_validation=right[cell][best[cell]],
            right_test=right_test[cell][0],
            regularisation=probe.strengths[0],
            parameters=probe.weights_SDC[0].size + probe.intercept_C.size,
            error=probe.error,
        )
        for cell, probe in enumerate(chosen)
    ]


def _pass(
    cells: Sequence[Mapping[str, Any]],
    taps: Mapping[ModulePool, ModulePool],
    probes: Sequence[Probes],
    dataset: Dataset,
    read: Read,
    split: str,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns each cell's correctness (boolean [S, N]) and squared error [S], from one pass over a split."""
    index_M = dataset.splits[split]
    labels_M = dataset.labels[index_M]
    y_MC = targets(labels_M, len(dataset.classes))
    right = [np.zeros((len(probe.strengths), len(index_M)), bool) for probe in probes]
    errors = [np.zeros(len(probe.strengths)) for probe in probes]
    for begin, features in read(index_M):
        end = begin + len(next(iter(features.values())))
        for place, (cell, probe) in enumerate(zip(cells, probes, strict=True)):
            x_BCPP = features[taps[cell["module"], cell["pool"]]]
            x_BD = torch.nn.functional.adaptive_avg_pool2d(x_BCPP, cell["pool"]).flatten(1).cpu().numpy()
            scores_SBC = probe.scores(x_BD)
            right[place][:, begin:end] = scores_SBC.argmax(2) == labels_M[begin:end]
            errors[place] += np.square(scores_SBC - y_MC[begin:end]).sum((1, 2))
    return right, errors
