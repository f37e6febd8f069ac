"""Combined features: the input of heads that read several blocks and timesteps at once. No torch.

The feature maps are pooled to one size and concatenated along the channels, so that any head can read them; DifFormer
is also told the channels of each.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from harness.core.errors import UserError
from harness.features.config import Combined, FeaturesConfig
from harness.features.heads.head import Head
from harness.features.stages import Tap, stored_pool
from harness.models.backbones.backbone import BackbonePlan


class FeatureCombination(NamedTuple):
    """A `combined:` entry on one backbone."""

    name: str  # as rows show it: "4+9 at t 10+90"
    parts: list[tuple[int, Tap]]  # (timestep, tap of the stored features), in channel order
    pool: int
    head: Head  # which has been told the parts

    @property
    def numbers(self) -> list[list[int]]:
        """[block, timestep] of each part."""
        return [[tap.block.number, timestep] for timestep, tap in self.parts]


def combinations(config: FeaturesConfig, plan: BackbonePlan) -> list[FeatureCombination]:
    """Returns the entries of `features.combined`; raises `UserError` for blocks or timesteps out of range."""
    found = [
        _combination(one, config.pools, plan, f"features.combined.{place}")
        for place, one in enumerate(config.combined)
    ]
    keys = Counter((one.name, one.pool, one.head.display_name) for one in found)
    for name, pool, head in keys:
        if keys[name, pool, head] > 1:
            raise UserError(
                f"features.combined: blocks {name}, pool {pool}, head {head!r} are given twice; "
                f"give each head a label of its own, such as {head}-2"
            )
    return found


def taps_at(timestep: int, among: Sequence[FeatureCombination]) -> set[Tap]:
    """Returns the taps that the entries need at one timestep."""
    return {tap for combination in among for when, tap in combination.parts if when == timestep}


def _combination(one: Combined, pools: Sequence[int], plan: BackbonePlan, where: str) -> FeatureCombination:
    blocks = plan.select(one.blocks, f"{where}.blocks")
    timesteps = plan.steps(one.timesteps, f"{where}.timesteps")
    smallest = min(blocks, key=lambda block: block.size)
    if one.pool > smallest.size:
        raise UserError(
            f"{where}.pool = {one.pool}: larger than {smallest.size}, the size of the smallest of these feature maps "
            f"(block {smallest.number})"
        )
    parts = [
        (timestep, Tap(block, stored_pool(one.pool, pools, block.size)))
        for timestep in timesteps
        for block in blocks
    ]
    name = f"{_sum(block.number for block in blocks)} at t {_sum(timesteps)}"
    return FeatureCombination(
        name, parts, one.pool, one.head.on_parts([tap.block.channels for _, tap in parts])
    )


def _sum(numbers: Iterable[int]) -> str:
    return "+".join(map(str, numbers))
