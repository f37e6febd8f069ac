"""CKA as trials: one per group of representations to compare, each with many rows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from harness.core.checks import refuse_duplicates
from harness.core.errors import UserError
from harness.core.stages import Code, Stage, Trial, Work, shards
from harness.core.study import Shared, Study
from harness.data.dataset import Dataset, Images
from harness.features.cka.config import CKAConfig
from harness.features.stages import (
    Reading,
    Tap,
    backbone_stage,
    check_pools,
    features_stages,
    stored_pool,
)
from harness.features.tables import SIMILARITY
from harness.metrics.cka import LEAST_IMAGES
from harness.models.backbones.backbone import BACKBONES, BackbonePlan, Block
from harness.models.encoders.encoder import ENCODERS, Encoder

COMPARISON = Code("cka", 1, "harness.features.cka.compare:run")
LAYERS = Code("layers", 1, "harness.features.cka.compare:make_layers")
TRIAL_SECONDS = 2.0  # estimates for one CPU core
ENCODING_SECONDS = 0.02  # per image
SIDE = ("model", "condition", "block", "block_name", "timestep", "pool")  # columns of either side of a row
BACKBONE, UNTRAINED = "backbone", "untrained"  # labels in rows of the models without one of their own

Place = dict[str, Any]  # a representation: the columns of one side of a row, and the `reads` that hold it
Pieces = Mapping[str, tuple[Stage, ...]]


class CKA(Study):
    """Which representations are similar: blocks, timesteps, pools, backbones and encoders?"""

    name = "cka"
    Config = CKAConfig
    tables = (SIMILARITY,)
    registries = (BACKBONES, ENCODERS)
    shared = Shared("features", ("backbone", "train"))

    def trials(self, config: CKAConfig, images: Images, seed: int) -> list[Trial]:
        """Returns all trials of an experiment; raises `UserError` if the experiment leaves nothing to compare."""
        return _Comparisons(config, images, seed).trials()


class ComparedBackbone(NamedTuple):
    """A backbone whose blocks are compared."""

    label: str
    plan: BackbonePlan
    stage: Stage
    blocks: list[Block]


class _Comparisons:
    """Makes trials that differ only in what they compare."""

    def __init__(self, config: CKAConfig, images: Images, seed: int) -> None:
        self.config, self.seed = config, seed
        self.data, self.dataset, self.stage = images
        dataset, stage = self.dataset, self.stage
        self.images = min(config.images, len(dataset.labelled(None)))
        if self.images < LEAST_IMAGES:
            raise UserError(f"cka: {self.images} training images; unbiased CKA needs at least {LEAST_IMAGES}")
        self._pieces: dict[tuple[str, int], dict[Tap, tuple[Stage, ...]]] = {}
        plan = config.backbone.plan(dataset.images.shape[2], dataset.images.shape[1])
        self.timesteps = plan.steps(config.timesteps, "cka.timesteps")
        self.backbone = self._compared(BACKBONE, plan, backbone_stage(plan, config.train, stage, seed))
        refuse_duplicates(config.against, "cka.against")
        labels = [BACKBONE, UNTRAINED, *(encoder.display_name for encoder in config.encoders), *config.others]
        refuse_duplicates(labels, "cka.encoders and others", "; give each a label of its own")

    def trials(self) -> list[Trial]:
        """Returns a trial for each group with something to compare."""
        trials = [trial for name in self.config.against for trial in getattr(self, f"_{name}")()]
        if not trials:
            raise UserError(
                f"cka.against: {', '.join(self.config.against)} leaves nothing to compare; give more blocks, "
                "timesteps, pools, encoders or others"
            )
        return trials

    def _blocks(self) -> Iterator[Trial]:
        if len(self.backbone.blocks) > 1:
            for timestep in self.timesteps:
                for pool in self.config.pools:
                    yield self._trial([self._side(self.backbone, timestep, pool)])

    def _timesteps(self) -> Iterator[Trial]:
        if len(self.timesteps) > 1:
            for block in self.backbone.blocks:
                for pool in self.config.pools:
                    yield self._trial(
                        [[self._place(self.backbone, block, one, pool) for one in self.timesteps]]
                    )

    def _pools(self) -> Iterator[Trial]:
        if len(self.config.pools) > 1:
            for timestep in self.timesteps:
                yield self._trial(
                    [
                        [self._place(self.backbone, block, timestep, pool) for pool in self.config.pools]
                        for block in self.backbone.blocks
                    ]
                )

    def _untrained(self) -> Iterator[Trial]:
        plan = self.backbone.plan.untrained()
        zero = self.config.train.model_copy(update={"steps": 0})
        yield from self._across(
            self._compared(UNTRAINED, plan, backbone_stage(plan, zero, self.stage, self.seed)), self.timesteps
        )

    def _others(self) -> Iterator[Trial]:
        channels, size = self.dataset.images.shape[1:3]
        for label, backbone in self.config.others.items():
            plan = backbone.plan(size, channels)
            timesteps = plan.steps(self.config.timesteps, f"cka.timesteps of {label}")
            stage = backbone_stage(plan, self.config.train, self.stage, self.seed)
            yield from self._across(self._compared(label, plan, stage), timesteps)

    def _across(self, other: ComparedBackbone, timesteps: Sequence[int]) -> Iterator[Trial]:
        """Yields the trials of the backbone and `other`, whose noise levels are its own steps `timesteps`."""
        for own, others in zip(self.timesteps, timesteps, strict=True):
            for pool in self.config.pools:
                yield self._trial([self._side(self.backbone, own, pool)], [self._side(other, others, pool)])

    def _encoders(self) -> Iterator[Trial]:
        for encoder in self.config.encoders:
            held = (layers_stage(encoder, self.stage, self.images, self.dataset, self.config.batch),)
            place = {"model": encoder.display_name, "layers": encoder.layers, "reads": held}
            for timestep in self.timesteps:
                for pool in self.config.pools:
                    yield self._trial([self._side(self.backbone, timestep, pool)], [[place]])

    def _compared(self, label: str, plan: BackbonePlan, stage: Stage) -> ComparedBackbone:
        try:
            blocks = plan.select(self.config.blocks, "cka.blocks")
        except UserError as error:
            if label not in self.config.others:
                raise
            raise UserError(f"cka.others.{label}: {error}") from None
        check_pools(self.config.pools, blocks, "cka.pools", f" in {label!r}")
        return ComparedBackbone(label, plan, stage, blocks)

    def _side(self, backbone: ComparedBackbone, timestep: int, pool: int) -> list[Place]:
        return [self._place(backbone, block, timestep, pool) for block in backbone.blocks]

    def _place(self, backbone: ComparedBackbone, block: Block, timestep: int, pool: int) -> Place:
        tap = Tap(block, stored_pool(pool, self.config.pools, block.size))
        condition = backbone.plan.condition
        return {
            "model": backbone.label,
            "condition": condition.name if condition else None,
            "block": block.number,
            "block_name": block.name,
            "timestep": timestep,
            "pool": pool,
            "reads": self._features(backbone, timestep)[tap],
        }

    def _features(self, backbone: ComparedBackbone, timestep: int) -> dict[Tap, tuple[Stage, ...]]:
        """Returns, by tap, the stages of the shards of a backbone's features at a timestep."""
        key = (backbone.label, timestep)
        if key not in self._pieces:
            config = self.config
            taps = {
                Tap(block, stored_pool(pool, config.pools, block.size))
                for block in backbone.blocks
                for pool in config.pools
            }
            parts = [
                features_stages(
                    backbone.stage,
                    self.stage,
                    timestep,
                    sorted(taps),
                    plan=backbone.plan,
                    reading=Reading(
                        "fresh", None, config.draws, self.seed, config.precision, None, config.batch
                    ),
                    images=images,
                )
                for images in shards(self.images, config.shard, config.batch)
            ]
            self._pieces[key] = {tap: tuple(part[tap] for part in parts) for tap in taps}
        return self._pieces[key]

    def _trial(self, a: Sequence[list[Place]], b: Sequence[list[Place]] = ()) -> Trial:
        """Returns the trial that compares the groups of `a` with those of `b`, or else the pairs of each group."""
        reads: dict[str, tuple[Stage, ...]] = {}
        names: dict[tuple[str, ...], str] = {}

        def named(places: list[Place]) -> list[dict[str, Any]]:
            described = []
            for place in places:
                name = names.setdefault(tuple(stage.key for stage in place["reads"]), str(len(names)))
                reads[name] = place["reads"]
                described.append({**place, "reads": name})
            return described

        others = b or [[] for _ in a]
        groups = [{"a": named(one), "b": named(other)} for one, other in zip(a, others, strict=True)]
        sides = {
            "a": [place for one in a for place in one],
            "b": [place for one in b or a for place in one],
        }
        return Trial(
            study="cka",
            table="similarity",
            objective="cka",
            code=COMPARISON,
            axes={
                f"{side}_{column}": _common(places, column)
                for side, places in sides.items()
                for column in SIDE
            },
            config={"groups": groups, "images": self.images},
            seed=self.seed,
            data=self.data.display_name,
            data_fingerprint=self.dataset.fingerprint,
            reads=reads,
            seconds=TRIAL_SECONDS,
            searchable=False,
        )


def layers_stage(encoder: Encoder, dataset: Stage, images: int, data: Dataset, batch: int) -> Stage:
    """Returns the stage with the features of the first training images at every layer of an encoder."""
    return Stage(
        kind="layers",
        code=LAYERS,
        config={"images": images},
        needs={"encoder": encoder.stage(data.images.shape[1]), "dataset": dataset},
        options={"batch": batch},
        work=Work(0, images * ENCODING_SECONDS),
    )


def _common(places: Sequence[Place], column: str) -> Any:
    """Returns the value that all places share in a column, or None."""
    values = [place.get(column) for place in places]
    return values[0] if all(value == values[0] for value in values) else None


STUDY = CKA()
