"""Runs many networks that differ in a few parameters over the same images."""

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, vmap

from harness.data.transforms import as_input
from harness.weights.layout import Layout
from harness.weights.study import NETWORKS_AT_ONCE
from harness.weights.vectors import unflatten

IMAGES_AT_ONCE = 512


@torch.no_grad()
def predict_all(
    network: nn.Module,
    layout: Layout,
    vectors_NP: torch.Tensor,
    images_MCHW: torch.Tensor,
    device: torch.device,
) -> np.ndarray:
    """Returns predicted classes [N, M] (uint8, or int32 beyond 256 classes) of N networks for M images (uint8).

    `network` supplies the parameters that do not vary. What lies before the first varied parameter is computed
    once for a group of networks: `vmap` leaves it without the networks' axis. Logits that are
    no numbers count as the lowest: a network that has no others predicts class 0, and its accuracy shows it.
    """
    network = network.to(device).eval()

    def logits(parameters: dict[str, torch.Tensor], x_MCHW: torch.Tensor) -> torch.Tensor:
        return functional_call(network, parameters, (x_MCHW,))

    rows = []
    for group_NP in vectors_NP.to(device).split(NETWORKS_AT_ONCE):
        varied = unflatten(group_NP, layout)
        parts = [
            vmap(logits, in_dims=(0, None))(varied, as_input(part.to(device)))
            .nan_to_num(-torch.inf)
            .argmax(2)
            for part in images_MCHW.split(IMAGES_AT_ONCE)
        ]
        rows.append(torch.cat(parts, 1).cpu().numpy())
    predicted_NM = np.concatenate(rows)
    return predicted_NM.astype(np.uint8 if predicted_NM.max() < 256 else np.int32)
