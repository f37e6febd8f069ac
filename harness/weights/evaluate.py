"""Runs many networks that differ in some parameters over the same images."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import vmap
from torch.utils.flop_counter import FlopCounterMode

from harness.core.errors import UserError
from harness.core.progress import Progress
from harness.data.transforms import Chosen, as_input
from harness.models.classifiers.build import build
from harness.models.classifiers.split import Split
from harness.weights.config import NETWORKS_AT_ONCE
from harness.weights.layout import Layout
from harness.weights.vectors import unflatten

IMAGES_AT_ONCE = 256
CACHE = 2**24  # bytes of activations that a CPU works on at once
FEWEST_IMAGES = 8  # fewer do not pay for launching the operations


class Evaluator:
    """Runs networks that share all but some parameters. What comes before the first of those is computed once.

    Made for images of one size, at most `images` of them at a time, within `memory_gb` of activations. `network`
    supplies the parameters that do not vary.
    """

    @torch.no_grad()
    def __init__(
        self,
        network: nn.Module,
        layout: Layout,
        image_CHW: torch.Tensor,
        device: torch.device,
        *,
        images: int = IMAGES_AT_ONCE,
        memory_gb: float = 1.0,
    ) -> None:
        """Raises `UserError` if not even one image fits into `memory_gb`."""
        self._layout, self._device = layout, device
        together = NETWORKS_AT_ONCE if _folds(layout, device) else 1
        split, self._size = _fitting(
            network.to(device).eval(), layout, as_input(image_CHW.to(device)), images, memory_gb, together
        )
        self._prefix = split.prefix
        self._logits = vmap(split.rest, in_dims=(0, None)) if together > 1 else partial(_one_by_one, split)

    @torch.no_grad()
    def __call__(
        self,
        vectors_NP: torch.Tensor,
        images_MCHW: torch.Tensor | Chosen,
        say: Callable[[Progress], None] = lambda progress: None,
    ) -> np.ndarray:
        """Returns predicted classes [N, M] (uint8, or int32 beyond 256 classes) of N networks for M images (uint8).

        NaN logits count as the lowest: a network with nothing but NaN predicts class 0, which its accuracy
        shows. `say(progress)` shows progress.
        """
        device, size = self._device, self._size
        groups = [
            unflatten(some_NP, self._layout) for some_NP in vectors_NP.to(device).split(NETWORKS_AT_ONCE)
        ]
        predicted = []
        for begin in range(0, len(images_MCHW), size):
            say(Progress(begin, len(images_MCHW), "images", networks=len(vectors_NP)))
            x_BCHW = as_input(images_MCHW[begin : begin + size].to(device))
            count = len(x_BCHW)
            if count < size:  # the network is traced for whole batches
                x_BCHW = torch.cat([x_BCHW, x_BCHW[:1].expand(size - count, *x_BCHW.shape[1:])])
            kept = self._prefix(x_BCHW)
            parts = [self._logits(varied, kept).nan_to_num(-torch.inf).argmax(2) for varied in groups]
            predicted.append(torch.cat(parts)[:, :count].cpu().numpy())
        predicted_NM = np.concatenate(predicted, 1)
        return predicted_NM.astype(np.uint8 if predicted_NM.max() < 256 else np.int32)


def _one_by_one(
    split: Split, varied: Mapping[str, torch.Tensor], kept: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Returns logits [N, B, classes] of networks that run one after the other."""
    networks = len(next(iter(varied.values())))
    return torch.stack(
        [split.rest({name: value[n] for name, value in varied.items()}, kept) for n in range(networks)]
    )


def _fitting(
    network: nn.Module, layout: Layout, image_CHW: torch.Tensor, images: int, memory_gb: float, together: int
) -> tuple[Split, int]:
    """Returns the split network, and how many of `images` pass through it at once.

    Raises `UserError` if not even one image fits into `memory_gb`.
    """
    count = images
    while True:
        split = Split(network, layout.names, image_CHW.expand(count, *image_CHW.shape).contiguous())
        before, after = split.bytes_an_image()
        fits = int(memory_gb * 2**30 // max(1, before + together * after))
        if image_CHW.device.type == "cpu":  # what fits into a core's cache is read several times faster
            fits = min(fits, max(FEWEST_IMAGES, CACHE // max(1, together * after)))
        if fits >= count:
            return split, count
        if fits == 0:
            raise UserError(
                f"weights.memory_gb = {memory_gb}: one image needs {(before + together * after) / 2**30:.2g} GB in "
                f"{together} networks; give more"
            )
        count = fits


def _folds(layout: Layout, device: torch.device) -> bool:
    """Says whether several networks are faster in one batch than one after the other.

    Where norms and biases vary all networks share the matrices, and are folded into one batch. Varied convolutions
    become grouped ones, which are slow on CPUs.
    """
    return device.type != "cpu" or all(len(shape) == 1 for shape in layout.shapes)


def share_before(settings: Mapping[str, Any], names: Sequence[str]) -> tuple[float, int]:
    """Returns the share of a network's multiply-accumulates that precede its first varied parameter, and their total.

    `settings` build the network; `names` are those of the varied parameters.
    """
    network = build(settings)
    x_BCHW = torch.zeros(2, settings["channels"], settings["size"], settings["size"])
    split = Split(network, names, x_BCHW)
    varied = {name: value for name, value in network.state_dict().items() if name in names}
    costs = []
    kept: list[torch.Tensor] = []
    with torch.no_grad():
        for part in (lambda: kept.extend(split.prefix(x_BCHW)), lambda: split.rest(varied, kept)):
            with FlopCounterMode(display=False) as counter:
                part()
            costs.append(counter.get_total_flops() // 2 // len(x_BCHW))
    before, after = costs
    return before / max(1, before + after), before + after
