"""Study 1 as trials: every block, timestep, pool and head of the grid, and the controls beside it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from harness.core.errors import UserError
from harness.core.stages import Stage, Trial, shards
from harness.data.config import DataConfig
from harness.data.dataset import Dataset
from harness.features.config import FeaturesConfig
from harness.features.heads.head import HEADS, Head
from harness.features.stages import FEATURES_VERSION, Tap, backbone_stage, features_stages, stored_pool
from harness.models.backbone import BACKBONES, BackbonePlan, Block

PROBE_VERSION = 1
HEAD_SECONDS = {"linear": 0.15}  # guesses for one CPU core; others cost more
OTHER_HEAD_SECONDS = 0.5

OBJECTIVE = "validation_accuracy"  # what a search makes large


class Features:
    """Which layer, noise level, pooling and head give the best features?"""

    name = "features"
    Config = FeaturesConfig
    registries = (BACKBONES, HEADS)
    axes = ("block", "timestep", "pool", "head")

    def trials(
        self, config: FeaturesConfig, data: DataConfig, dataset: Dataset, stage: Stage, seed: int
    ) -> list[Trial]:
        """Returns all trials of an experiment; raises `UserError` for settings that the backbone does not have."""
        size, channels = dataset.images.shape[2], dataset.images.shape[1]
        plan = config.backbone.plan(size, channels)
        blocks = check(config, plan)
        grid = _Grid(config, data, dataset, stage, seed, plan)
        backbone = backbone_stage(plan, config.train, stage, seed)
        trials = [*grid.over("trained", backbone, blocks, config.timesteps)]
        if "untrained" in config.controls:
            zero = config.train.model_copy(update={"steps": 0})
            untrained = backbone_stage(plan._replace(source=None), zero, stage, seed)
            trials += grid.over("untrained", untrained, blocks, [min(config.timesteps)])
        if "pixels" in config.controls:
            trials += [grid.trial("pixels", None, None, None, head) for head in config.heads]
        return trials


def check(config: FeaturesConfig, plan: BackbonePlan) -> list[Block]:
    """Returns the blocks to probe; raises `UserError` naming the value that is out of range."""
    numbers = range(1, len(plan.blocks) + 1) if config.blocks == "all" else config.blocks
    if not numbers:
        raise UserError("features.blocks is empty; give block numbers, or all")
    blocks = [plan.find(number) for number in numbers]
    for timestep in config.timesteps:
        if not 0 <= timestep < plan.timesteps:
            raise UserError(
                f"features.timesteps: {timestep} is not between 0 and {plan.timesteps - 1}, where T ends"
            )
    smallest = min(blocks, key=lambda block: block.size)
    for pool in config.pools:
        if not 1 <= pool <= smallest.size:
            raise UserError(
                f"features.pools: {pool} is not between 1 and {smallest.size}, the size of block "
                f"{smallest.number}'s feature map"
            )
    names = [head.name for head in config.heads]
    given = {
        "blocks": numbers,
        "timesteps": config.timesteps,
        "pools": config.pools,
        "heads": names,
        "controls": config.controls,
    }
    for what, values in given.items():
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise UserError(f"features.{what}: {twice[0]} is given twice")
    return blocks


class _Grid:
    """Makes trials that share everything but the swept values."""

    def __init__(
        self,
        config: FeaturesConfig,
        data: DataConfig,
        dataset: Dataset,
        stage: Stage,
        seed: int,
        plan: BackbonePlan,
    ) -> None:
        self.config, self.data, self.stage, self.seed, self.plan = config, data, stage, seed, plan
        self.fingerprint = dataset.fingerprint
        self.images = len(dataset.probed(data.labels_per_class))

    def over(
        self, kind: str, backbone: Stage, blocks: Sequence[Block], timesteps: Sequence[int]
    ) -> Iterator[Trial]:
        """Yields the trials of one backbone, a timestep after the other so that processes reuse what they read."""
        taps = {
            (block, pool): Tap(block, stored_pool(pool, self.config.pools, block.size))
            for block in blocks
            for pool in self.config.pools
        }
        for timestep in timesteps:
            parts = [
                features_stages(
                    backbone,
                    self.stage,
                    timestep,
                    sorted(set(taps.values())),
                    plan=self.plan,
                    labels_per_class=self.data.labels_per_class,
                    images=images,
                    draws=self.config.draws,
                    batch=self.config.batch,
                    seed=self.seed,
                )
                for images in shards(self.images, self.config.shard, self.config.batch)
            ]
            for (block, pool), tap in taps.items():
                features = tuple(part[tap] for part in parts)
                for head in self.config.heads:
                    yield self.trial(kind, block, timestep, pool, head, backbone, features)

    def trial(
        self,
        kind: str,
        block: Block | None,
        timestep: int | None,
        pool: int | None,
        head: Head,
        backbone: Stage | None = None,
        features: tuple[Stage, ...] = (),
    ) -> Trial:
        """Returns one trial. Its key follows from the backbone and the values, not from how features are stored."""
        axes: dict[str, Any] = {
            "features": kind,
            "backbone": self.config.backbone.name if block else None,
            "block": block.number if block else None,
            "block_name": block.name if block else None,
            "timestep": timestep,
            "pool": pool,
            "head": head.name,
        }
        return Trial(
            study="features",
            table="features",
            objective=OBJECTIVE,
            version=PROBE_VERSION,
            runner="harness.features.probe:run",
            axes=axes,
            config={
                "head": head.keyed(),
                "head_version": head.version,
                "features_version": FEATURES_VERSION if block else None,
                "draws": self.config.draws if block else None,
                "labels_per_class": self.data.labels_per_class,
            },
            seed=self.seed,
            data=self.data.name,
            data_fingerprint=self.fingerprint,
            needs={"dataset": self.stage} | ({"backbone": backbone} if backbone else {}),
            reads={"features": features} if features else {},
            seconds=HEAD_SECONDS.get(head.name, OTHER_HEAD_SECONDS),
            searchable=kind == "trained",
        )


STUDY = Features()
