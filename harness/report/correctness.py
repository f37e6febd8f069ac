"""Per-sample correctness, found by trial and network, for paired tests."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.report.paired import mcnemar
from harness.report.words import number


class Who(NamedTuple):
    """Whose predictions: a trial's key and, in study 2, the network within it."""

    key: str
    kind: str | None = None
    setting: float | None = None
    number: int | None = None


class Paired(NamedTuple):
    """A paired comparison on the test split: the first accuracy less the second, p-value, samples."""

    difference: float
    p: float
    n: int


class Correctness:
    """Finds vectors of correctness in the table `correctness`; reads only those that are asked for."""

    def __init__(self, table: pa.Table) -> None:
        usable = pc.and_(
            pc.equal(table["split"], "test"),
            pc.and_(pc.equal(table["status"], "ok"), pc.is_valid(table["correct"])),
        )
        self._table = table
        self._places: dict[str, list[int]] = defaultdict(list)
        for place, (key, fit) in enumerate(zip(table["key"].to_pylist(), usable.to_pylist(), strict=True)):
            if fit:
                self._places[key].append(place)

    def find(self, who: Who, accuracy: float | None) -> np.ndarray | None:
        """Returns the test samples' correctness, (n,), or None if there is none that agrees with `accuracy`.

        The agreement guards against pairing a network with another one's predictions.
        """
        vectors = [self._vector(place) for place in self._places.get(who.key, []) if self._is(place, who)]
        if accuracy is not None:
            vectors = [v for v in vectors if len(v) and abs(float(v.mean()) - accuracy) < 1e-6]
        return vectors[0] if len(vectors) == 1 else None

    def _is(self, place: int, who: Who) -> bool:
        if who.kind is None:
            return True
        row = self._table.select(["kind", "setting", "index"]).slice(place, 1).to_pylist()[0]
        return (row["kind"], number(row["setting"])) == (who.kind, who.setting) and (
            who.number is None or row["index"] == who.number
        )

    def _vector(self, place: int) -> np.ndarray:
        return np.asarray(self._table["correct"][place].values.to_numpy(zero_copy_only=False), bool)


def compare(first: np.ndarray | None, second: np.ndarray | None) -> Paired | None:
    """Returns the paired comparison of two vectors; None if one is missing or they do not pair."""
    if first is None or second is None or len(first) != len(second) or not len(first):
        return None
    return Paired(float(first.mean() - second.mean()), mcnemar(first, second), len(first))
