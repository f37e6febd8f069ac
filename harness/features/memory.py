"""Whether the features of a setting fit into memory, from the plan's numbers alone. No torch."""

from typing import NamedTuple

from harness.core.errors import UserError
from harness.features.heads.head import Head
from harness.features.lazy import BYTES_A_NUMBER


class Setting(NamedTuple):
    """The features that a head learns from and is judged on."""

    what: str  # as messages say it: "block 33 at pool 8"
    train: int  # samples
    evaluated: int  # samples of validation and test
    dimensions: int  # features of a sample
    classes: int

    @property
    def gigabytes(self) -> float:
        """The size of the features of all samples."""
        return BYTES_A_NUMBER * (self.train + self.evaluated) * self.dimensions / 1e9


def read_in_batches(head: Head, setting: Setting, memory: float) -> bool:
    """Returns whether a head reads its features in batches, since it takes more than `memory` bytes otherwise.

    Results are the same. Raises `UserError` for a head that takes more in either way.
    """
    working = head.working_bytes(setting.train, setting.dimensions, setting.classes) / 1e9
    limit = memory / 1e9
    if setting.gigabytes + working <= limit:
        return False
    if head.in_batches and working <= limit:
        return True
    needs = f"features.memory_gb = {limit:g}: head {head.display_name} on {setting.what}"
    if head.in_batches:
        raise UserError(
            f"{needs} takes about {working:.3g} GB to solve for {setting.dimensions} features of {setting.train} "
            "samples; set a larger limit, use smaller pools, or a head trained by gradient descent"
        )
    raise UserError(
        f"{needs} needs all features at once, about {setting.gigabytes + working:.3g} GB; set a larger limit, use "
        "smaller pools, or a head that reads them in batches: ridge, linear, or one trained by gradient descent"
    )
