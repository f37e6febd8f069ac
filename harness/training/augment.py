"""Augmented views by address: like noise, an image's crop and flip depend only on seed and address."""

import torch

from harness.training import noise
from harness.training.config import Augment


def augmented(x_BCHW: torch.Tensor, key: int, address_B3: torch.Tensor, how: Augment) -> torch.Tensor:
    """Returns a random square crop of each image, from `how.crop` to all of its area, resized and maybe flipped.

    `key` is derived from a seed. The same address gives the same view, whatever else is in the batch.
    """
    u_B4 = noise.uniform(key, address_B3, 4)
    side_B = torch.sqrt(how.crop + (1 - how.crop) * u_B4[:, 0])
    shift_B2 = (1 - side_B)[:, None] * (2 * u_B4[:, 1:3] - 1)
    mirror_B = torch.where(u_B4[:, 3] < 0.5, -1.0, 1.0) if how.flip else torch.ones_like(side_B)
    zero_B = torch.zeros_like(side_B)
    affine_B23 = torch.stack(
        [
            torch.stack([side_B * mirror_B, zero_B, shift_B2[:, 0]], 1),
            torch.stack([zero_B, side_B, shift_B2[:, 1]], 1),
        ],
        1,
    )
    grid_BHW2 = torch.nn.functional.affine_grid(affine_B23, list(x_BCHW.shape), align_corners=False)
    return torch.nn.functional.grid_sample(
        x_BCHW, grid_BHW2.to(x_BCHW.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )
