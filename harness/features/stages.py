"""The stages of study 1 as data: the backbone, then features by timestep, block and stored pool. No torch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from harness.core.fingerprint import fingerprint
from harness.core.stages import Stage, Work
from harness.models.backbone import BackbonePlan, Block, multiplications
from harness.training.config import TRAINING_VERSION, TrainConfig

BACKBONE_VERSION = 1
FEATURES_VERSION = 1
BYTES_A_NUMBER = 4  # of features as stored, float32
MULTIPLICATIONS_PER_SECOND = 1e10  # of one CPU core: a guess, until there are measurements


def backbone_stage(plan: BackbonePlan, train: TrainConfig, dataset: Stage, seed: int) -> Stage:
    """Returns the stage that holds the backbone as a diffusers pipeline. Zero steps leave it untrained."""
    shared = {"unet": dict(plan.unet), "scheduler": dict(plan.scheduler)}
    if plan.source is not None:
        return Stage(
            kind="backbone",
            version=BACKBONE_VERSION,
            maker="harness.features.backbone:copy_backbone",
            config={**shared, "source": plan.fingerprint},
            options={"folder": plan.source},
            here=True,
        )
    passes = 3 * train.steps * train.batch
    return Stage(
        kind="backbone",
        version=BACKBONE_VERSION,
        maker="harness.features.backbone:train_backbone",
        config={**shared, "train": train.keyed(), "training_version": TRAINING_VERSION, "seed": seed},
        needs={"dataset": dataset},
        options={"train": train.model_dump(mode="json")},
        work=Work(passes, passes * multiplications(plan.blocks) / MULTIPLICATIONS_PER_SECOND),
        trains=train.steps > 0 and train.workers != 0,
    )


class Tap(NamedTuple):
    """A place where features are kept: a block, and the pool that is stored for it."""

    block: Block
    pool: int


def stored_pool(pool: int, pools: Sequence[int], size: int) -> int:
    """Returns the pool to store for `pool`: the largest of `pools` from which it follows exactly.

    Averages nest where the larger pool divides the map and the smaller divides the larger.
    """
    holders = [larger for larger in pools if size % larger == 0 and larger % pool == 0]
    return max([pool, *holders])


def features_stages(
    backbone: Stage,
    dataset: Stage,
    timestep: int,
    taps: Sequence[Tap],
    *,
    plan: BackbonePlan,
    labels_per_class: int | None,
    images: tuple[int, int],
    draws: int,
    batch: int,
    seed: int,
) -> dict[Tap, Stage]:
    """Returns the stages that one pass over the probed images of a shard makes at `timestep`, by tap."""
    deepest = max(tap.block.number for tap in taps)
    passes = (images[1] - images[0]) * draws
    seconds = passes * multiplications(plan.blocks[:deepest]) / MULTIPLICATIONS_PER_SECOND
    floats = sum(tap.block.channels * tap.pool**2 for tap in taps)
    stored = (images[1] - images[0]) * floats * BYTES_A_NUMBER
    shared = {
        "timestep": timestep,
        "draws": draws,
        "labels_per_class": labels_per_class,
        "images": list(images),
        "seed": seed,
    }
    needs = {"backbone": backbone, "dataset": dataset}
    group = fingerprint([shared, *(need.key for need in needs.values())])
    bare = {
        tap: Stage(
            kind="features",
            version=FEATURES_VERSION,
            maker="harness.features.extract:make_features",
            config={**shared, "block": tap.block.number, "module": tap.block.name, "pool": tap.pool},
            needs=needs,
            group=group,
        )
        for tap in taps
    }
    order = sorted(taps, key=lambda tap: (tap.block.number, tap.pool))
    return {
        tap: replace(
            stage,
            options={"batch": batch},
            siblings=tuple(bare[other] for other in order if other != tap),
            work=Work(passes, seconds, stored),
        )
        for tap, stage in bare.items()
    }
