"""Combined features: what heads see that look at several blocks and timesteps at once. No torch.

Their feature maps, pooled to one size, follow each other along the channels, so that every head can stand on them;
DifFormer is told where one ends and the next begins.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from harness.core.errors import UserError
from harness.features.config import Combined, FeaturesConfig
from harness.features.heads.head import Head
from harness.features.stages import Tap, stored_pool
from harness.models.backbones.backbone import BackbonePlan


class Mixture(NamedTuple):
    """A `combined:` entry on one backbone."""

    name: str  # for rows and people: "4+9 at t 10+90"
    parts: list[tuple[int, Tap]]  # (timestep, where its features are kept), in the order of the channels
    pool: int
    head: Head  # which knows its parts

    @property
    def numbers(self) -> list[list[int]]:
        """[block, timestep] of each part."""
        return [[tap.block.number, timestep] for timestep, tap in self.parts]


def mixtures(config: FeaturesConfig, plan: BackbonePlan) -> list[Mixture]:
    """Returns the entries of `features.combined`; raises `UserError` for what the backbone does not have."""
    found = [
        _mixture(one, config.pools, plan, f"features.combined.{place}")
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


def taps_at(timestep: int, among: Sequence[Mixture]) -> set[Tap]:
    """Returns what the entries need of one timestep."""
    return {tap for mixture in among for when, tap in mixture.parts if when == timestep}


def _mixture(one: Combined, pools: Sequence[int], plan: BackbonePlan, where: str) -> Mixture:
    blocks = plan.select(one.blocks, f"{where}.blocks")
    timesteps = plan.steps(one.timesteps, f"{where}.timesteps")
    smallest = min(blocks, key=lambda block: block.size)
    if one.pool > smallest.size:
        raise UserError(
            f"{where}.pool = {one.pool}: larger than {smallest.size}, the size of block {smallest.number}'s "
            "feature map, the smallest of these"
        )
    parts = [
        (timestep, Tap(block, stored_pool(one.pool, pools, block.size)))
        for timestep in timesteps
        for block in blocks
    ]
    name = f"{_sum(block.number for block in blocks)} at t {_sum(timesteps)}"
    return Mixture(name, parts, one.pool, one.head.on_parts([tap.block.channels for _, tap in parts]))


def _sum(numbers: Iterable[int]) -> str:
    return "+".join(map(str, numbers))
