"""Per-sample correctness, found by trial and network, for paired tests."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.metrics.inference import holm, mcnemar


class Who(NamedTuple):
    """Whose predictions: a trial's key and, in study 2, the network within it."""

    key: str
    kind: str | None = None
    setting: float | None = None
    number: int | None = None


class Paired(NamedTuple):
    """A paired comparison on the test split: the first accuracy minus the second, p-values, samples."""

    difference: float
    p: float  # of the exact McNemar test
    n: int
    p_adjusted: float  # for the comparisons made together with it; equal to `p` for a single one


class Correctness:
    """Finds vectors of correctness in the table `correctness`; decodes only those requested."""

    def __init__(self, table: pa.Table) -> None:
        usable = pc.and_(
            pc.equal(table["split"], "test"),
            pc.and_(pc.equal(table["status"], "ok"), pc.is_valid(table["correct"])),
        )
        self._correct = table["correct"]
        self._places: dict[Who, list[int]] = defaultdict(list)
        names = ("key", "kind", "setting", "index")
        rows = zip(*(table[name].to_pylist() for name in names), usable.to_pylist(), strict=True)
        for place, (key, kind, setting, index, fit) in enumerate(rows):
            if fit:
                self._places[Who(key)].append(place)
                self._places[Who(key, kind, setting, index)].append(place)

    def find(self, who: Who, accuracy: float | None) -> np.ndarray | None:
        """Returns the test samples' correctness, (n,), or None if there is none consistent with `accuracy`.

        The check guards against pairing a network with another network's predictions.
        """
        places = self._places.get(who, [])
        if len(places) != 1 or accuracy is None:
            return None
        vector = np.asarray(self._correct[places[0]].values.to_numpy(zero_copy_only=False), bool)
        return vector if len(vector) and abs(float(vector.mean()) - accuracy) < 1e-6 else None


def compare(first: np.ndarray | None, second: np.ndarray | None) -> Paired | None:
    """Returns the paired comparison of two vectors; None if one is missing or their lengths differ."""
    if first is None or second is None or len(first) != len(second) or not len(first):
        return None
    p = mcnemar(first, second)
    return Paired(float(first.mean() - second.mean()), p, len(first), p)


def judged_together(pairs: Sequence[Paired | None]) -> list[Paired | None]:
    """Returns comparisons with their p-values adjusted by Holm's method; None stays None."""
    adjusted = holm([None if pair is None else pair.p for pair in pairs])
    return [
        None if pair is None or p is None else pair._replace(p_adjusted=p)
        for pair, p in zip(pairs, adjusted, strict=True)
    ]
