"""Regularisers of diffusion training that may keep features useful, by changing the loss, the input or both.

No torch at import: plans read their configuration; only training workers run them.
"""

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field

from harness.core.config import Config, unkeyed
from harness.core.errors import UserError
from harness.core.registry import Registry
from harness.models.backbones.backbone import BackbonePlan

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.models.noise_processes.process import NoiseProcess
    from harness.training.randomness import StepRandomness

REGULARISERS = Registry(
    "regulariser",
    {
        "none": "harness.training.regularisers:Plain",
        "dispersive": "harness.training.regularisers:Dispersive",
        "lsep": "harness.training.regularisers:LinearSeparability",
        "self_conditioning": "harness.training.regularisers:SelfConditioning",
    },
)
BESIDE = "learnt_beside"  # the submodule of a network in training that holds what is learnt beside it
UNLABELLED = -1  # instead of a label
COIN = 2**24  # resolution of the random number that decides whether a sample reads its own estimate


def _short_word(label: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,40}", label):
        raise ValueError("use at most 40 characters: letters, digits, '.', '_' and '-'")
    return label


def _not_all_zero(weights: list[float]) -> list[float]:
    if not any(weights):
        raise ValueError("all are 0, which regularises nothing; give a positive one, or use none")
    return weights


class Batch(NamedTuple):
    """The samples of a training step that a worker computes, N of them."""

    labels_N: (
        "torch.Tensor | None"  # classes, `UNLABELLED` without one; None for a regulariser without labels
    )
    steps_N: "torch.Tensor"  # timesteps
    timesteps: int  # of the noise process


class Regulariser(Config):
    """Base of all regularisers, which changes nothing. A subclass overrides what it changes."""

    name: str
    label: Annotated[str, AfterValidator(_short_word)] | None = unkeyed(
        None
    )  # its name in rows; None: `name`

    version: ClassVar[int | None] = 1  # raise it if the same values now give other weights
    reads_its_estimate: ClassVar[bool] = False  # the network has input channels for its own estimate
    learns_labels: ClassVar[bool] = (
        False  # the training sees the labels of the images that probes may learn from
    )

    @property
    def display_name(self) -> str | None:
        """Its name in rows; None for no regulariser."""
        return self.label or self.name

    def resolved(self, plan: BackbonePlan) -> Self:
        """Returns a copy with everything that depends on the backbone filled in; called once per plan.

        Raises `UserError` for values that do not fit the backbone.
        """
        return self

    def network(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the configuration of the network to train, given that of the unregularised backbone."""
        return dict(config)

    def beside(self, channels: Mapping[str, int], classes: int) -> "nn.Module | None":
        """Returns what is learnt beside the network and left out of the backbone; called once, before training.

        `channels` are those of each block's activation, by module path; `classes` is 0 unless `learns_labels`.
        """
        return None

    def input(
        self,
        network: "nn.Module",
        noised: "torch.Tensor",
        steps_N: "torch.Tensor",
        process: "NoiseProcess",
        randomness: "StepRandomness",
    ) -> "torch.Tensor":
        """Returns the network's input for samples [N, ...] that `process` noised; called every step."""
        return process.scaled(noised, steps_N)

    @contextmanager
    def listening(self, network: "nn.Module") -> Iterator[list["torch.Tensor"]]:
        """Context that collects what `penalised` needs during a forward pass; called every step."""
        yield []

    def penalised(
        self, losses_N: "torch.Tensor", heard: list["torch.Tensor"], batch: Batch
    ) -> "torch.Tensor":
        """Returns the losses [N] plus the penalty on what `listening` collected."""
        return losses_N


class Plain(Regulariser):
    """No regulariser."""

    name: Literal["none"] = "none"

    @property
    def display_name(self) -> None:
        """None: rows show null."""
        return None


PLAIN = Plain()


class OfBlock(Regulariser):
    """Base of regularisers of one block's activations."""

    block: int | str = "mid"  # by number, by module path, or "mid"

    def resolved(self, plan: BackbonePlan) -> Self:
        """Resolves the block to its module."""
        found = plan.select([self.block], f"regularisers.{self.name}.block")
        if len(found) != 1:
            raise UserError(
                f"regularisers.{self.name}.block = {self.block!r}: names {len(found)} blocks instead of one"
            )
        return self.model_copy(update={"block": found[0].name})

    @contextmanager
    def listening(self, network: "nn.Module") -> Iterator[list["torch.Tensor"]]:
        """Collects what `kept` makes of the block's activations."""
        heard: list[torch.Tensor] = []

        def keep(module: Any, inputs: Any, output: Any) -> None:
            heard.append(self.kept(network, output[0] if isinstance(output, tuple) else output))

        hook = network.get_submodule(str(self.block)).register_forward_hook(keep)
        try:
            yield heard
        finally:
            hook.remove()

    def kept(self, network: "nn.Module", activation: "torch.Tensor") -> "torch.Tensor":
        """Returns what `penalised` needs of an activation, [N, ...]: all of it by default."""
        return activation


class Dispersive(OfBlock):
    """Dispersive loss (Wang & He, "Diffuse and Disperse", arXiv 2506.09027): spreads a block's activations out.

    Adds weight · log mean_ij exp(-d_ij / temperature) to the mean loss, over all pairs of the whole batch,
    including each sample with itself; d_ij is the squared distance of the flattened activations divided by their
    length, as in the paper's Algorithm 1. Workers exchange activations, so their number changes only rounding.
    """

    name: Literal["dispersive"] = "dispersive"
    weight: float = Field(0.5, gt=0)
    temperature: float = Field(0.5, gt=0)

    def penalised(
        self, losses_N: "torch.Tensor", heard: list["torch.Tensor"], batch: Batch
    ) -> "torch.Tensor":
        """Adds the dispersive loss of the whole batch to each sample's.

        A worker differentiates only with respect to its own N activations, and its samples have weight N / B in the
        mean over the batch of B; scaling the gradient by B / N makes the workers' sum equal that of a single process.
        """
        (activation,) = heard
        h_BD = _with_other_workers(activation.flatten(1).float())
        value = dispersion(h_BD, self.temperature)
        scale = len(h_BD) / len(activation)
        return losses_N + self.weight * (value.detach() + scale * (value - value.detach()))


def dispersion(h_ND: "torch.Tensor", temperature: float) -> "torch.Tensor":
    """Returns log mean_ij exp(-|h_i - h_j|² / (D · temperature)): 0 if all are equal, negative otherwise."""
    import torch

    with torch.autocast(h_ND.device.type, enabled=False):  # differences of squares need full precision
        squares_N = h_ND.square().sum(1)  # not cdist, whose gradient at equal vectors is NaN
        distances_NN = (squares_N[:, None] + squares_N[None] - 2 * h_ND @ h_ND.T).clamp_min(0) / h_ND.shape[1]
        return torch.logsumexp(-distances_NN.flatten() / temperature, 0) - 2 * math.log(len(h_ND))


def _with_other_workers(h_ND: "torch.Tensor") -> "torch.Tensor":
    """Returns the activations of all workers' samples [B, D]; gradients flow to this worker's own."""
    import torch
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        return h_ND
    workers = distributed.get_world_size()
    counts = [torch.zeros(1, dtype=torch.int64, device=h_ND.device) for _ in range(workers)]
    distributed.all_gather(counts, torch.tensor([len(h_ND)], device=h_ND.device))
    most = max(
        int(count) for count in counts
    )  # shares may differ by one sample, but all_gather needs equal shapes
    padded = torch.zeros(most, h_ND.shape[1], device=h_ND.device)
    padded[: len(h_ND)] = h_ND.detach()
    parts = [torch.empty_like(padded) for _ in range(workers)]
    distributed.all_gather(parts, padded)
    kept = [part[: int(count)] for part, count in zip(parts, counts, strict=True)]
    kept[distributed.get_rank()] = h_ND
    return torch.cat(kept)


class LinearSeparability(OfBlock):
    """LSEP (Yun et al., "No Alignment Needed for Generation", arXiv 2509.21565): a linear probe is part of training.

    A linear classifier of the block's activation, averaged over positions, is learnt together with the network, which
    its cross-entropy trains too: no external encoder. To the loss of a labelled image it adds weight · cross-entropy.
    The weight is `weights[i]` if its timestep lies in the i-th of as many equal intervals, least noise first; in the
    released loss weights are equally spaced between two values. The classifier is not part of the backbone.

    This is the loss as released. The paper's further measures, random crops and a schedule of class conditions, are
    left out: backbones trained here are unconditional.

    The labels are those that probes may learn from: of training images, `data.labels_per_class` of each class. Other
    images add nothing; the mean is over the whole batch, so few labels make a weak penalty. A backbone trained so has
    seen labels, unlike all others.
    """

    name: Literal["lsep"] = "lsep"
    weights: Annotated[list[Annotated[float, Field(ge=0)]], AfterValidator(_not_all_zero)] = Field(
        [0.1], min_length=1, max_length=1000
    )

    learns_labels: ClassVar[bool] = True

    def beside(self, channels: Mapping[str, int], classes: int) -> "nn.Module":
        """Returns the linear classifier."""
        from torch import nn

        return nn.Linear(channels[str(self.block)], classes)

    def kept(self, network: "nn.Module", activation: "torch.Tensor") -> "torch.Tensor":
        """Returns the classifier's scores [N, classes] of maps [N, C, H, W] or tokens [N, L, C]."""
        maps = activation.ndim == 4
        mean_NC = activation.mean((2, 3) if maps else 1)
        scores: torch.Tensor = network.get_submodule(BESIDE)(mean_NC)
        return scores

    def penalised(
        self, losses_N: "torch.Tensor", heard: list["torch.Tensor"], batch: Batch
    ) -> "torch.Tensor":
        """Adds the weighted cross-entropy of each labelled sample."""
        import torch

        (scores_NK,) = heard
        assert batch.labels_N is not None, "learns_labels"
        entropies_N = torch.nn.functional.cross_entropy(
            scores_NK.float(), batch.labels_N, ignore_index=UNLABELLED, reduction="none"
        )
        interval_N = batch.steps_N * len(self.weights) // batch.timesteps
        return losses_N + losses_N.new_tensor(self.weights)[interval_N] * entropies_N


class SelfConditioning(Regulariser):
    """Self-conditioning (Chen et al., "Analog Bits", arXiv 2208.04202): the network reads its own estimate.

    As additional input channels the network gets an estimate of the clean image: with `probability` its own, computed
    without a gradient, otherwise zeros. Features are read with zeros.
    """

    name: Literal["self_conditioning"] = "self_conditioning"
    probability: float = Field(0.5, ge=0, le=1)

    reads_its_estimate: ClassVar[bool] = True

    def network(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Doubles the input channels."""
        return {**config, "in_channels": 2 * config["in_channels"]}

    def input(
        self,
        network: "nn.Module",
        noised: "torch.Tensor",
        steps_N: "torch.Tensor",
        process: "NoiseProcess",
        randomness: "StepRandomness",
    ) -> "torch.Tensor":
        """Returns the noised samples, scaled for the network, concatenated with their estimates."""
        import torch

        scaled, estimate = process.scaled(noised, steps_N), torch.zeros_like(noised)
        chosen_M = torch.nonzero(randomness.integers("self-conditioning", COIN) < self.probability * COIN)[
            :, 0
        ]
        if len(chosen_M):
            seen, steps_M = noised[chosen_M], steps_N[chosen_M]
            with torch.no_grad():
                given = torch.cat([scaled[chosen_M], torch.zeros_like(seen)], 1)
                output = network(given, process.time(steps_M))
                predicted = output if isinstance(output, torch.Tensor) else output.sample
                found = process.estimates(predicted[:, : seen.shape[1]], seen, steps_M).clean
            estimate[chosen_M] = found.clamp(-1, 1).to(estimate.dtype)
        return torch.cat([scaled, estimate], 1)
