"""The stages of study 1: the backbone, and features by timestep, block and stored pool. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from harness.core.checks import refuse_duplicates
from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.core.stages import Code, Stage, Work
from harness.data.dataset import Images
from harness.features.lazy import BYTES_A_NUMBER
from harness.models.autoencoders.autoencoder import autoencoder_of
from harness.models.backbones.backbone import BackbonePlan, Block, multiplications
from harness.training.config import NOISE, TRAINING, TrainConfig
from harness.training.regularisers import PLAIN, Regulariser

BACKBONE = Code("backbone", 1)  # the networks, and how their blocks are numbered and read
COPIED_BACKBONE = Code("copied backbone", 1, "harness.features.backbone:copy_backbone", uses=(BACKBONE,))
TRAINED_BACKBONE = Code(
    "trained backbone", 1, "harness.features.backbone:train_backbone", uses=(BACKBONE, TRAINING)
)
CONDITION = Code("condition", 1, "harness.features.backbone:make_condition", uses=(BACKBONE,))
EXTRACTION = Code("extraction", 2, uses=(NOISE,))  # noise, one pass, pooling: `read_blocks`
FEATURES = Code("features", 1, "harness.features.extract:make_features", uses=(EXTRACTION,))
ACTIVATIONS = 6  # memory of a forward pass, in units of the largest map: measured, rounded up
MULTIPLICATIONS_PER_SECOND = 1e10  # of one CPU core: an estimate, until there are measurements


def regularised_backbones(
    plan: BackbonePlan,
    train: TrainConfig,
    regularisers: Sequence[Regulariser],
    images: Images,
    seed: int,
    section: str,
) -> dict[str | None, Stage]:
    """Returns the backbone's stage for each regulariser of its training, by the regulariser's name in rows.

    Raises `UserError` naming the `section` for regularisers with the same name, or that cannot be used, as one that
    learns labels without any.
    """
    names = [regulariser.display_name for regulariser in regularisers]
    refuse_duplicates(names, f"{section}.regularisers", "; give each a label of its own")
    return {
        regulariser.display_name: backbone_stage(
            plan,
            train,
            images.stage,
            seed,
            regulariser,
            _labels(regulariser, images, f"{section}.regularisers") if regulariser.learns_labels else {},
        )
        for regulariser in regularisers
    }


def _labels(regulariser: Regulariser, images: Images, where: str) -> dict[str, Any]:
    """Returns the entries of a backbone's configuration that say which labels its training uses."""
    per_class = images.config.labels_per_class
    try:
        images.dataset.labelled(per_class)
    except UserError as error:
        raise UserError(f"{where}, {regulariser.display_name}: it learns from labels, and {error}") from None
    return {"labels_per_class": per_class, "classes": len(images.dataset.classes)}


def backbone_stage(
    plan: BackbonePlan,
    train: TrainConfig,
    dataset: Stage,
    seed: int,
    regulariser: Regulariser = PLAIN,
    labels: Mapping[str, Any] = MappingProxyType({}),
) -> Stage:
    """Returns the stage that holds the backbone as a diffusers pipeline. Zero steps leave it untrained.

    `labels` are further values of a regulariser that learns them.

    Raises `UserError` for a regulariser of a backbone that the sweep does not train.
    """
    if regulariser.display_name is not None and plan.source is not None:
        raise UserError(
            f"regularisers: {regulariser.display_name} changes the training of a backbone, but this one is already "
            "trained; choose a backbone that the sweep trains, such as unet, or leave regularisers out"
        )
    versions = {"family": plan.family.version, "process": plan.process.version}
    if plan.latents is not None:
        versions["autoencoder"] = autoencoder_of(plan.latents.config).version
    shared = {"network": dict(plan.config), "noise": dict(plan.process.config), "versions": versions}
    if plan.source is not None:
        copied = Stage(
            kind="backbone",
            code=COPIED_BACKBONE,
            config={**shared, "source": plan.fingerprint, **({"random": seed} if plan.random else {})},
            options={"source": plan.source, "about": list(plan.notes), "reading": dict(plan.reading)},
            local=True,
            note=plan.memory,
        )
        return under_condition(copied, plan)
    passes = 3 * train.steps * train.batch
    trained = Stage(
        kind="backbone",
        code=TRAINED_BACKBONE,
        config={
            **shared,
            **_regularised(plan, regulariser),
            **labels,
            "train": train.keyed(),
            "seed": seed,
        },
        needs={"dataset": dataset},
        options={"train": train.model_dump(mode="json")},
        work=Work(passes, passes * multiplications(plan.blocks) / MULTIPLICATIONS_PER_SECOND),
        trains=train.steps > 0 and train.workers != 0,
    )
    return under_condition(trained, plan)


def under_condition(network: Stage, plan: BackbonePlan) -> Stage:
    """Returns the stage of a backbone under its condition: the network's own if it takes none.

    The condition is an artifact beside the network's, so that several conditions share one copy of the weights.
    """
    if plan.condition is None:
        return network
    return Stage(
        kind="condition",
        code=CONDITION,
        config={"name": plan.condition.name, "condition": plan.condition.fingerprint},
        needs={"network": network},
        options={
            "settings": dict(plan.condition.settings),
            "network": dict(plan.config),
            "root": plan.root,
            "reading": dict(plan.reading),
        },
        local=True,
        parts=(network,),
    )


def _regularised(plan: BackbonePlan, regulariser: Regulariser) -> dict[str, Any]:
    """Returns the entries of a backbone's configuration that a regulariser changes."""
    if regulariser.display_name is None:
        return {}
    resolved = regulariser.resolved(plan)
    return {"network": resolved.network(plan.config), "regulariser": resolved.keyed()}


# fresh: images are noised to the timestep; clean: they are not, though the network is told the timestep
Noise = Literal["fresh", "clean"]


class Tap(NamedTuple):
    """A location of stored features: a block, and the pool at which they are stored."""

    block: Block
    pool: int


def stored_pool(pool: int, pools: Sequence[int], size: int) -> int:
    """Returns the pool to store for `pool`: the largest of `pools` from which it can be computed exactly.

    Average pooling composes if the larger pool divides the map and the smaller pool divides the larger.
    """
    holders = [larger for larger in pools if size % larger == 0 and larger % pool == 0]
    return max([pool, *holders])


def check_pools(pools: Sequence[int], blocks: Sequence[Block], where: str, owner: str = "") -> None:
    """Raises `UserError` for duplicates, and for pools that do not fit the smallest feature map."""
    refuse_duplicates(pools, where)
    smallest = min(blocks, key=lambda block: block.size)
    for pool in pools:
        if not 1 <= pool <= smallest.size:
            raise UserError(
                f"{where}: {pool} is not between 1 and {smallest.size}, the size of block {smallest.number}'s "
                f"feature map{owner}"
            )


class Reading(NamedTuple):
    """How features are read, independent of backbone, timestep and images."""

    noise: Noise

    labels_per_class: int | None
    draws: int
    seed: int
    precision: str
    augment: Mapping[str, Any] | None  # of views after the first
    batch: int


def images_at_once(taps: Sequence[Tap], plan: BackbonePlan, batch: int, memory: float) -> int:
    """Returns how many images' features fit into `memory` bytes, in addition to one batch's activations.

    Raises `UserError` if not even one batch fits, naming the batch that would.
    """
    activations = ACTIVATIONS * max(block.channels * block.size**2 for block in plan.blocks)
    activations += sum(block.channels * block.size**2 for block in {tap.block for tap in taps})
    features = 2 * sum(tap.block.channels * tap.pool**2 for tap in taps)  # a second copy while writing
    left = memory - batch * activations * BYTES_A_NUMBER
    held = int(left // (features * BYTES_A_NUMBER))
    if held < batch:
        fits = int(memory // ((activations + features) * BYTES_A_NUMBER))
        needed = batch * (activations + features) * BYTES_A_NUMBER / 1e9
        remedy = (
            f"features.batch={fits}, or a larger limit"
            if fits
            else "a larger limit, smaller pools or fewer blocks"
        )
        raise UserError(
            f"features.memory_gb = {memory / 1e9:g}: one batch of {batch} images takes about {needed:.3g} GB; "
            f"set {remedy}"
        )
    return held


def features_stages(
    backbone: Stage,
    dataset: Stage,
    timestep: int,
    taps: Sequence[Tap],
    *,
    plan: BackbonePlan,
    reading: Reading,
    images: tuple[int, int],
    view: int = 0,
) -> dict[Tap, Stage]:
    """Returns, by tap, the stages made by one pass over a shard at `timestep`.

    `images` is a range of the probed images, or for views after the first, of the labelled ones.
    """
    deepest = max(tap.block.number for tap in taps)
    draws = 1 if reading.noise == "clean" else reading.draws  # without noise, all are the same
    passes = (images[1] - images[0]) * draws
    seconds = passes * multiplications(plan.blocks[:deepest]) / MULTIPLICATIONS_PER_SECOND
    floats = sum(tap.block.channels * tap.pool**2 for tap in taps)
    stored = (images[1] - images[0]) * floats * BYTES_A_NUMBER
    shared = {
        "timestep": timestep,
        "noise": reading.noise,
        "draws": draws,
        "labels_per_class": reading.labels_per_class,
        "view": view,
        "augment": reading.augment if view else None,
        "precision": reading.precision,
        "seed": reading.seed,
    }
    needs = {"backbone": backbone, "dataset": dataset}
    group = fingerprint([shared, list(images), *(need.key for need in needs.values())])
    bare = {
        tap: Stage(
            kind="features",
            code=FEATURES,
            config={**shared, "block": tap.block.number, "module": tap.block.name},
            needs=needs,
            part={"images": list(images), "pool": tap.pool},
            group=group,
        )
        for tap in taps
    }
    order = sorted(taps)
    return {
        tap: replace(
            stage,
            options={"batch": reading.batch},
            siblings=tuple(bare[other] for other in order if other != tap),
            work=Work(passes, seconds, stored),
        )
        for tap, stage in bare.items()
    }
