"""The grid of study 1 on one data set: a trial for each block, timestep, pool and head, and the stages it reads."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from harness.core.checks import refuse_duplicates
from harness.core.errors import UserError
from harness.core.stages import Code, Stage, Trial, shards
from harness.data.dataset import Images, further
from harness.features.combined import FeatureCombination, combinations, taps_at
from harness.features.config import FeaturesConfig
from harness.features.heads.head import Head, refuse_same_names, refuse_single_label
from harness.features.lazy import BYTES_A_NUMBER
from harness.features.memory import Setting, read_in_batches
from harness.features.stages import (
    Noise,
    Reading,
    Tap,
    check_pools,
    features_stages,
    images_at_once,
    stored_pool,
)
from harness.features.streaming.caching import Caching, choose_caching
from harness.features.streaming.stages import Cell, Stream, streamed_stages
from harness.features.tables import objective
from harness.models.backbones.backbone import BackbonePlan, Block
from harness.models.backbones.blocks import OUTPUT
from harness.models.backbones.condition import Condition

PROBE = Code("probe", 2, "harness.features.probe:run")
STREAMED_PROBE = Code("streamed probe", 1, "harness.features.streaming.trial:run")
STREAMED_SECONDS = 0.02  # to read the results of a stream


def check(config: FeaturesConfig, plan: BackbonePlan) -> list[Block]:
    """Returns the blocks to probe; raises `UserError` naming the value that is out of range."""
    blocks = plan.select(config.blocks, after=config.after)
    check_pools(config.pools, blocks, "features.pools")
    refuse_same_names(config.heads, "features.heads")
    refuse_duplicates(config.controls, "features.controls")
    refuse_duplicates(config.noise, "features.noise")
    refuse_duplicates(config.after, "features.after")
    return blocks


def conditioned(config: FeaturesConfig, size: int, channels: int) -> list[BackbonePlan]:
    """Returns the backbone under each of `features.conditions`, or under its own, for images of `channels` x `size`.

    What a condition leaves out is as `features.backbone` has it. Raises `UserError`.
    """
    if not config.conditions:
        return [config.backbone.plan(size, channels)]
    told = [one.completed(config.backbone) for one in config.conditions]
    plan = _under(0, config.conditions[0], lambda: told[0].on(config.backbone).plan(size, channels))
    plans = [
        _under(place, one, partial(plan.under, told[place])) for place, one in enumerate(config.conditions)
    ]
    names = [one.condition.name for one in plans if one.condition is not None]
    if not names:
        raise UserError(f"features.conditions: a {plan.family.class_name} takes no condition; leave it out")
    refuse_duplicates(names, "features.conditions")
    return plans


def _under(place: int, given: Condition, make: Callable[[], BackbonePlan]) -> BackbonePlan:
    """Returns what `make` does; its `UserError` names the settings of condition `place` by where they are given."""
    try:
        return make()
    except UserError as error:
        names = "|".join(given.given) or "(?!)"
        said = re.sub(rf"\bbackbone\.({names})\b", rf"features.conditions.{place}.\1", str(error))
        raise UserError(said) from None


def transferred(config: FeaturesConfig, images: Images, seed: int) -> list[Images]:
    """Reads the further data sets, with the size and channels of the first. Raises `UserError`."""
    channels, size = images.dataset.images.shape[1:3]
    same_shape = [
        other.model_copy(update={"size": other.size or size, "channels": other.channels or channels})
        for other in config.transfer
    ]
    found = further(images, same_shape, seed, "features.transfer")
    for one in found:
        others = one.dataset.images.shape[1:3]
        if others != (channels, size):
            raise UserError(
                f"features.transfer, {one.config.display_name}: images of {others[1]} pixels and {others[0]} "
                f"channels, but the backbone reads {size} pixels and {channels} channels; leave size and channels out"
            )
    return found


class Grid:
    """Makes trials that differ only in the swept values."""

    def __init__(
        self, config: FeaturesConfig, images: Images, seed: int, plan: BackbonePlan, noise: Noise
    ) -> None:
        self.config, self.seed, self.plan = config, seed, plan
        data, dataset, self.stage = images
        self.data = data
        self.fingerprint = dataset.fingerprint
        self.images = len(dataset.probed(data.labels_per_class))
        self.pixels = math.prod(dataset.images.shape[1:])
        self.blocks = check(config, plan)
        self.timesteps = plan.steps(config.timesteps)
        self.combinations = combinations(config, plan)
        self.labelled = len(dataset.labelled(data.labels_per_class))
        self.classes = len(dataset.classes)
        self.multilabel = dataset.multilabel
        if self.multilabel:
            refuse_single_label(config.heads, data.display_name, "features.heads")
            combined = [one.head for one in config.combined]
            refuse_single_label(combined, data.display_name, "features.combined")
        self.reading = Reading(
            noise=noise,
            labels_per_class=data.labels_per_class,
            draws=config.draws,
            seed=seed,
            precision=config.precision,
            augment=config.augment.keyed() if config.augment else None,
            batch=config.batch,
        )

    def over(
        self,
        kind: str,
        backbone: Stage,
        timesteps: Sequence[int],
        regulariser: str | None = None,
    ) -> Iterator[Trial]:
        """Yields the trials of one backbone, timestep by timestep so that processes reuse what they have read."""
        for timestep in timesteps:
            if self.caching.streamed:
                yield from self.streamed(kind, backbone, timestep, regulariser)
                continue
            holders = self.features(kind, backbone, timestep)
            for (block, pool), tap in self.taps.items():
                for head in self.config.heads:
                    trial = self.trial(kind, block, timestep, pool, head, backbone, holders[tap], regulariser)
                    setting = self.setting(f"block {block.number} at pool {pool}", block.channels * pool**2)
                    yield self.cached(trial, head, setting, self.caching.note(self.data.display_name))

    @cached_property
    def caching(self) -> Caching:
        """How heads get their features; raises `UserError` if the requested way is impossible."""
        taps = set(self.taps.values())
        passes = len(self.timesteps) * len(self.config.regularisers)
        passes *= len(self.config.noise) * max(1, len(self.config.conditions))
        passes += "untrained" in self.config.controls
        images = self.images + (self.config.views - 1) * self.labelled
        numbers = sum(tap.block.channels * tap.pool**2 for tap in taps)
        chosen = choose_caching(self.config, passes * images * numbers * BYTES_A_NUMBER)
        if chosen.streamed and self.multilabel:
            raise UserError(
                f"{chosen.reason}: heads that learn from a stream take one label an image, but data set "
                f"{self.data.display_name} is multi-label; set features.caching=cached and features.protocol=ours"
            )
        return chosen

    def streamed(
        self,
        kind: str,
        backbone: Stage,
        timestep: int,
        regulariser: str | None,
    ) -> Iterator[Trial]:
        """Yields the trials of heads that learn from one timestep's stream."""
        stream = Stream(
            plan=self.plan,
            dataset=self.stage,
            reading=self.reading,
            protocol=self.config.protocol,
            views=self.config.views,
            labelled=self.labelled,
            evaluated=self.images - self.labelled,
            classes=self.classes,
            memory=self.config.memory_gb * 1e9,
            workers=self.config.train.workers,
        )
        cells = [Cell(block, pool, head) for block, pool in self.taps for head in self.config.heads]
        stages = streamed_stages(stream, backbone, timestep, cells)
        for cell in cells:
            reads = {"streamed": (stages[cell.place],)}
            trial = self.trial(kind, cell.block, timestep, cell.pool, cell.head, backbone, reads, regulariser)
            yield replace(
                trial,
                code=STREAMED_PROBE,
                seconds=STREAMED_SECONDS,
                note=self.caching.note(self.data.display_name),
            )

    @cached_property
    def taps(self) -> dict[tuple[Block, int], Tap]:
        """Returns the tap that holds the features of each block and pool of the grid."""
        return {
            (block, pool): Tap(block, stored_pool(pool, self.config.pools, block.size))
            for block in self.blocks
            for pool in self.config.pools
        }

    def features(self, kind: str, backbone: Stage, timestep: int) -> dict[Tap, dict[str, tuple[Stage, ...]]]:
        """Returns, by tap, the stages of everything read at one timestep, all from one pass."""
        also = taps_at(timestep, self.combinations) if kind == "trained" else set()
        own = set(self.taps.values()) if not self.caching.streamed and timestep in self.timesteps else set()
        wanted = sorted(own | also)
        most = images_at_once(wanted, self.plan, self.config.batch, self.config.memory_gb * 1e9)
        shard = min(self.config.shard, most)
        parts, views = (
            [
                features_stages(
                    backbone,
                    self.stage,
                    timestep,
                    wanted,
                    plan=self.plan,
                    reading=self.reading,
                    images=images,
                    view=view,
                )
                for view in which
                for images in shards(count, shard, self.config.batch)
            ]
            for which, count in (((0,), self.images), (range(1, self.config.views), self.labelled))
        )
        held = {"features": parts, "views": views}
        return {
            tap: {name: tuple(one[tap] for one in stages) for name, stages in held.items() if stages}
            for tap in wanted
        }

    def combined(self, combination: FeatureCombination, backbone: Stage, regulariser: str | None) -> Trial:
        """Returns the trial of a head on several blocks and timesteps, which reads the same stages as the grid."""
        holders = {
            timestep: self.features("trained", backbone, timestep) for timestep in dict(combination.parts)
        }
        reads = {
            f"{name} {place}": stages
            for place, (timestep, tap) in enumerate(combination.parts)
            for name, stages in holders[timestep][tap].items()
        }
        trial = self.trial(
            "combined", None, None, combination.pool, combination.head, backbone, reads, regulariser
        )
        channels = sum(tap.block.channels for _, tap in combination.parts)
        what = f"blocks {combination.name} at pool {combination.pool}"
        trial = replace(
            trial,
            axes={**trial.axes, "after": OUTPUT, "block_name": combination.name},
            config={**trial.config, "parts": combination.numbers},
        )
        return self.cached(trial, combination.head, self.setting(what, channels * combination.pool**2))

    def on_pixels(self, head: Head) -> Trial:
        """Returns the trial of a head on the images themselves."""
        setting = self.setting("pixels", self.pixels)._replace(train=self.labelled)
        return self.cached(self.trial("pixels", None, None, None, head), head, setting)

    def setting(self, what: str, dimensions: int) -> Setting:
        """Returns the numbers of one setting's features, with all views."""
        train = self.labelled * self.config.views
        return Setting(what, train, self.images - self.labelled, dimensions, self.classes)

    def cached(self, trial: Trial, head: Head, setting: Setting, note: str = "") -> Trial:
        """Returns a trial that is told how to read its features, and whose note says so if it is in batches.

        Raises `UserError` for a head that cannot be trained within `memory_gb`.
        """
        options: dict[str, Any] = {"setting": setting, "memory": self.config.memory_gb * 1e9}
        if read_in_batches(head, **options):
            read = f"features of {setting.what}: read in batches, {setting.gigabytes:.3g} GB"
            note = f"{note}; {read}" if note else read
        return replace(trial, options=options, note=note)

    def trial(
        self,
        kind: str,
        block: Block | None,
        timestep: int | None,
        pool: int | None,
        head: Head,
        backbone: Stage | None = None,
        features: Mapping[str, tuple[Stage, ...]] | None = None,
        regulariser: str | None = None,
    ) -> Trial:
        """Returns one trial, which reads `features`."""
        axes: dict[str, Any] = {
            "features": kind,
            "backbone": self.config.backbone.name if backbone else None,
            "regulariser": regulariser,
            "condition": self.plan.condition.name if backbone and self.plan.condition else None,
            "noise": self.reading.noise if backbone else None,
            "after": block.after if block else None,
            "block": block.number if block else None,
            "block_name": block.name if block else None,
            "timestep": timestep,
            "sigma": None if timestep is None else self.plan.sigma(timestep),
            "log_snr": None if timestep is None else self.plan.log_snr(timestep),
            "pool": pool,
            "head": head.display_name,
        }
        return Trial(
            study="features",
            table="features",
            objective=objective(self.multilabel),
            code=PROBE,
            axes=axes,
            config={
                "head": head.keyed(),
                "draws": self.config.draws if backbone else None,
                "views": self.config.views if backbone else None,
                "precision": self.config.precision if backbone else None,
                "labels_per_class": self.data.labels_per_class,
            },
            seed=self.seed,
            data=self.data.display_name,
            data_fingerprint=self.fingerprint,
            needs={"dataset": self.stage} | ({"backbone": backbone} if backbone else {}),
            reads=features or {},
            seconds=head.seconds,
            searchable=kind == "trained",
        )
