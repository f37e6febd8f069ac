"""Refuses weights, activations and samples that hold NaN or infinity, where they are made."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch


def refuse_infinite_weights(weights: Mapping[str, torch.Tensor], what: str) -> None:
    """Raises `FloatingPointError` naming the first tensor that is not finite; integers always are."""
    bad = [
        name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()
    ]
    if bad:
        raise FloatingPointError(
            f"{what}: {len(bad)} of {len(weights)} tensors hold NaN or infinity, the first is {bad[0]}"
        )


def refuse_infinite(values_N: torch.Tensor | np.ndarray, what: str) -> None:
    """Raises `FloatingPointError` unless all numbers of all `what`, along the first axis, are finite."""
    refuse_infinite_batches([values_N], what)


def refuse_infinite_batches(batches: Iterable[torch.Tensor | np.ndarray], what: str) -> None:
    """Does what `refuse_infinite` does for arrays that follow each other along the first axis."""
    bad = total = 0
    for values_N in batches:
        array = values_N.detach().cpu().numpy() if isinstance(values_N, torch.Tensor) else values_N
        finite_N = np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        bad, total = bad + int((~finite_N).sum()), total + len(finite_N)
    if bad:
        raise FloatingPointError(
            f"{bad} of {total} {what} are not finite; the network overflows or is poorly trained"
        )
