"""The stages of streamed probes: one per block, pool and head, made together from one stream of passes. No torch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.core.stages import Code, Stage, Work
from harness.features.heads.head import Head
from harness.features.stages import (
    EXTRACTION,
    MULTIPLICATIONS_PER_SECOND,
    Reading,
    Tap,
    images_at_once,
    stored_pool,
)
from harness.features.streaming.caching import Protocol, by_memory, recipe
from harness.models.backbones.backbone import BackbonePlan, Block, multiplications
from harness.training.config import TRAINING, Augment, TrainConfig

STREAMED_RIDGE = Code("streamed ridge", 1, "harness.features.streaming.ridge:make_probes", uses=(EXTRACTION,))
STREAMED_HEADS = Code(
    "streamed heads",
    1,
    "harness.features.streaming.side_by_side:make_heads",
    uses=(EXTRACTION, TRAINING),
)


class Cell(NamedTuple):
    """One streamed probe: the block and pool that it reads, and its head."""

    block: Block
    pool: int
    head: Head

    @property
    def place(self) -> "Place":
        """What distinguishes it from the others of one backbone and timestep."""
        return self.block.name, self.pool, head_key(self.head.keyed())


Place = tuple[str, int, str]  # module, pool, head


class Stream(NamedTuple):
    """What all streamed probes of an experiment share."""

    plan: BackbonePlan
    dataset: Stage
    reading: Reading
    protocol: Protocol
    views: int
    labelled: int  # training images
    evaluated: int  # images of validation and test
    classes: int
    memory: float  # bytes
    workers: int | list[int]


def streamed_stages(
    stream: Stream, backbone: Stage, timestep: int, cells: Sequence[Cell]
) -> dict[Place, Stage]:
    """Returns the stages that hold streamed probes at `timestep`. Heads trained alike share a stream of passes.

    Raises `UserError` if memory cannot hold what a pass needs.
    """
    found: dict[Place, Stage] = {}
    solved = [cell for cell in cells if cell.head.name == "ridge"]
    for group in _groups(stream, solved):
        passes = (stream.labelled * stream.views + stream.evaluated) * stream.reading.draws
        found |= _together(stream, backbone, timestep, group, STREAMED_RIDGE, {}, passes)
    recipes: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.head.name != "ridge":
            recipes.setdefault(_shared_recipe(stream, cell.head), []).append(cell)
    for group in recipes.values():
        learns = recipe(group[0].head, stream.protocol, stream.labelled)
        rates = {
            f"{head_key(one.head.keyed())}/": recipe(one.head, stream.protocol, stream.labelled).learning_rate
            for one in group
        }
        learns = learns.model_copy(update={"rates": rates, "workers": stream.workers})
        _check_batch(stream, group, learns.batch)
        passes = learns.steps * learns.batch + stream.evaluated
        options = {"train": learns.model_dump(mode="json")}
        found |= _together(stream, backbone, timestep, group, STREAMED_HEADS, options, passes)
    return found


def _check_batch(stream: Stream, cells: Sequence[Cell], batch: int) -> None:
    """Raises `UserError` unless memory can hold a forward pass and the features of one step's images."""
    taps = sorted({Tap(cell.block, cell.pool) for cell in cells})
    at_once = images_at_once(taps, stream.plan, min(batch, stream.reading.batch), stream.memory)
    if at_once < batch:
        raise UserError(
            f"features.memory_gb = {stream.memory / 1e9:g}: heads are trained on batches of {batch} images, but "
            f"the features of only {at_once} fit; set a larger limit, or use fewer blocks or smaller pools"
        )


def head_key(values: Mapping[str, Any]) -> str:
    """Returns a name for a head within a stream, from what `keyed` returned: the same for the same options."""
    return f"{values['name']}-{fingerprint(values)[:8]}"


def _shared_recipe(stream: Stream, head: Head) -> str:
    """Returns what heads that learn from the same passes must share: the recipe without the learning rate."""
    learns = recipe(head, stream.protocol, stream.labelled)
    return json.dumps({**learns.keyed(), "learning_rate": None}, sort_keys=True)


def _groups(stream: Stream, cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Yields groups of ridge probes whose sums fit into memory together."""
    pools: dict[Block, set[int]] = {}
    for cell in cells:
        pools.setdefault(cell.block, set()).add(cell.pool)
    taps = {
        (block, pool): Tap(block, stored_pool(pool, sorted(wanted), block.size))
        for block, wanted in pools.items()
        for pool in wanted
    }
    if not taps:
        return
    strengths = max(len(getattr(cell.head, "strengths", ())) for cell in cells)
    order = sorted(set(taps.values()))
    for group in by_memory(
        order, strengths, stream.classes, stream.plan, stream.reading.batch, stream.memory
    ):
        yield [cell for cell in cells if taps[cell.block, cell.pool] in group]


def _together(
    stream: Stream,
    backbone: Stage,
    timestep: int,
    cells: Sequence[Cell],
    code: Code,
    options: Mapping[str, Any],
    passes: int,
) -> dict[Place, Stage]:
    """Returns the stages of cells that share their passes."""
    reading, learns = stream.reading, options.get("train")
    training = TrainConfig.model_validate(learns) if learns else None
    shared: dict[str, Any] = {
        "timestep": timestep,
        "noise": reading.noise,
        "labels_per_class": reading.labels_per_class,
        "precision": reading.precision,
        "seed": reading.seed,
        "protocol": stream.protocol,
    }
    if training is None:
        shared |= {"draws": reading.draws, "views": stream.views}
        shared |= {"augment": reading.augment if stream.views > 1 else None}
    else:
        shared |= {"augment": Augment().keyed() if stream.protocol == "published" else None}
    needs = {"backbone": backbone, "dataset": stream.dataset}
    keys = [need.key for need in needs.values()]
    places = [[cell.block.name, cell.pool, cell.head.keyed()] for cell in cells]
    group = fingerprint([shared, *keys, places])
    bare: dict[Place, Stage] = {}
    for cell in cells:
        own = recipe(cell.head, stream.protocol, stream.labelled).keyed() if training else None
        bare[cell.place] = Stage(
            kind="streamed",
            code=code,
            config={
                **shared,
                "block": cell.block.number,
                "after": cell.block.after,
                "module": cell.block.name,
                "size": cell.block.size,
                "channels": cell.block.channels,
                "pool": cell.pool,
                "head": cell.head.keyed(),
                "train": own,
            },
            needs=needs,
            group=group,
        )
    deepest = max(cell.block.number for cell in cells)
    seconds = passes * multiplications(stream.plan.blocks[:deepest]) / MULTIPLICATIONS_PER_SECOND
    return {
        place: replace(
            stage,
            options={**options, "batch": reading.batch},
            siblings=tuple(other for key, other in bare.items() if key != place),
            work=Work(passes, seconds),
            trains=training is not None and training.workers != 0,
        )
        for place, stage in bare.items()
    }
