"""Chooses whether features are cached or streamed, and how heads learn from a stream. No torch."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from harness.core.errors import UserError
from harness.features.config import FeaturesConfig
from harness.features.heads.head import Head, learns_by_gradients
from harness.features.lazy import BYTES_A_NUMBER
from harness.features.stages import ACTIVATIONS, Tap
from harness.models.backbones.backbone import BackbonePlan
from harness.training.config import TrainConfig

Protocol = Literal["ours", "published"]
BYTES_A_SUM = 8  # of the sums from which ridge probes are solved, float64
EPOCHS, EPOCHS_A_RATE, BATCH = 28, 7, 128  # arXiv 2307.08702; the learning rate falls tenfold every 7 epochs
RATE, ATTENTION_RATE = 1e-2, 5e-2
LEAST_STEPS = 1000  # of a linear head outside the published protocol


class Caching(NamedTuple):
    """Whether the heads of an experiment read cached or streamed features, and why."""

    streamed: bool
    reason: str

    def note(self, data: str) -> str:
        """Returns the note that the plan shows."""
        return f"features of {data}: {'streamed' if self.streamed else 'cached'} ({self.reason})"


def choose_caching(config: FeaturesConfig, stored_bytes: int) -> Caching:
    """Returns the choice; raises `UserError` if the requested one is impossible.

    `stored_bytes` is the size of a cache of the features.
    """
    caching, protocol, heads, store_gb = config.caching, config.protocol, config.heads, config.store_gb
    stored = f"cached features take {stored_bytes / 1e9:.3g} GB, features.store_gb = {store_gb:g}"
    if protocol == "published":
        if caching == "cached":
            raise UserError(
                "features.caching = cached: the published protocol draws new noise and crops in every epoch, so "
                "its features cannot be cached; set features.caching=auto, or features.protocol=ours"
            )
        _refuse(heads, protocol, "features.protocol = published")
        return Caching(True, "the published protocol draws new noise and crops in every epoch")
    if caching == "cached" or (caching == "auto" and stored_bytes <= store_gb * 1e9):
        return Caching(False, stored if caching == "auto" else "features.caching = cached")
    _refuse(heads, protocol, "features.caching = streamed" if caching == "streamed" else stored)
    return Caching(True, stored if caching == "auto" else "features.caching = streamed")


def _refuse(heads: Sequence[Head], protocol: Protocol, why: str) -> None:
    """Raises `UserError` for heads that need all features at once, or that the protocol does not cover."""
    wrong = [head.display_name for head in heads if not streamable(head, protocol)]
    if not wrong:
        return
    if protocol == "published":
        remedy = "use linear or heads trained by gradient descent, or set features.protocol=ours"
    else:
        remedy = "use ridge, linear or heads trained by gradient descent, or set features.caching=cached"
    raise UserError(f"{why}: head {', '.join(wrong)} cannot learn from a stream; {remedy}")


def streamable(head: Head, protocol: Protocol) -> bool:
    """Returns whether a head can learn from a stream: ridge from sums, others by gradient descent."""
    return learns_by_gradients(head) or (head.name == "ridge" and protocol == "ours")


def recipe(head: Head, protocol: Protocol, examples: int) -> TrainConfig:
    """Returns how a head learns from a stream of `examples` images per epoch.

    Published: SGD without momentum or weight decay. Ours: the head's own `train`, and AdamW for linear.
    """
    steps = max(1, round(EPOCHS * examples / BATCH))
    if protocol == "published":
        return TrainConfig(
            steps=steps,
            batch=BATCH,
            optimizer="sgd",
            learning_rate=ATTENTION_RATE if head.name == "attention" else RATE,
            schedule="step",
            decay_every=max(1, round(EPOCHS_A_RATE * examples / BATCH)),
        )
    if getattr(head, "weight_decays", None):
        raise UserError(
            f"head {head.display_name}: choosing among weight_decays takes several trainings; from a stream a head "
            "is trained once: set train.weight_decay, or features.caching=cached"
        )
    own = getattr(head, "train", None)
    if own is None:
        return TrainConfig(steps=max(LEAST_STEPS, steps), batch=BATCH, learning_rate=1e-3, schedule="cosine")
    if own.clip is not None:
        raise UserError(
            f"head {head.display_name}: train.clip = {own.clip} would couple the heads that learn from the same "
            "stream; set it to null, or set features.caching=cached"
        )
    return own


def by_memory(
    taps: Sequence[Tap], strengths: int, classes: int, plan: BackbonePlan, batch: int, memory: float
) -> list[list[Tap]]:
    """Groups taps so that the sums of each group, and a batch's activations, fit into `memory` bytes; a pass each.

    Raises `UserError` naming a tap whose sums do not fit even on their own, and what would.
    """
    activations = (
        batch * BYTES_A_NUMBER * (ACTIVATIONS + 1) * max(b.channels * b.size**2 for b in plan.blocks)
    )
    groups: list[list[Tap]] = []
    for tap in taps:
        if activations + sums_bytes([tap], strengths, classes) > memory:
            raise _too_large(tap, strengths, classes, memory, activations)
        if groups and activations + sums_bytes([*groups[-1], tap], strengths, classes) <= memory:
            groups[-1].append(tap)
        else:
            groups.append([tap])
    return groups


def sums_bytes(taps: Sequence[Tap], strengths: int, classes: int) -> int:
    """Returns the bytes for taps' sums, for solving the largest, and for the probes of all strengths."""
    widths = [tap.block.channels * tap.pool**2 for tap in taps]
    probes = sum(2 * width * classes * strengths for width in widths)  # smaller pools: a third more
    return BYTES_A_SUM * (sum(width**2 for width in widths) + 6 * max(widths) ** 2 + probes)


def _too_large(tap: Tap, strengths: int, classes: int, memory: float, activations: int) -> UserError:
    needed = (activations + sums_bytes([tap], strengths, classes)) / 1e9
    fitting = [
        pool
        for pool in range(1, tap.pool)
        if activations + sums_bytes([tap._replace(pool=pool)], strengths, classes) <= memory
    ]
    remedy = f"pools up to {max(fitting)} fit" if fitting else "set a smaller features.batch"
    return UserError(
        f"features.memory_gb = {memory / 1e9:g}: the sums of block {tap.block.number} at pool {tap.pool} take about "
        f"{needed:.3g} GB; {remedy}, or set a larger limit"
    )
