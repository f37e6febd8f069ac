"""The sampling loop, from noise to data, for any noise process: ancestral (DDPM) or deterministic (DDIM) steps.

x_B and estimate_B are batches of images [B, C, H, W] or latents [B, L].
"""

from collections.abc import Callable

import torch

from harness.models.noise_processes.process import NoiseProcess


@torch.no_grad()
def sample(
    process: NoiseProcess,
    predict: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor],
    x_B: torch.Tensor,
    *,
    steps: int,
    fresh: Callable[[int], torch.Tensor] | None = None,
    clip: float | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Returns the samples obtained from standard normal noise `x_B` in at most `steps` steps.

    `predict(x_B, steps_B, estimate_B)` is the network's prediction, which may use the previous step's estimate of the
    clean samples (Chen et al. 2022, algorithm 2), at first None. `fresh(step)` draws the standard normal noise of an
    ancestral step; None makes steps deterministic. Estimates are clipped to ±`clip`. `after_step` is called after
    every step.
    """
    places = process.spaced(steps)
    x_B, estimate_B = process.start(x_B), None
    for step, following in zip(places, [*places[1:], None], strict=True):
        steps_B = torch.full((len(x_B),), step, device=x_B.device)
        predicted_B = predict(x_B, steps_B, estimate_B).float()
        estimate_B = process.estimates(predicted_B, x_B, steps_B).clean
        if clip is not None:
            estimate_B = estimate_B.clamp(-clip, clip)
        x_B = process.advance(x_B, estimate_B, step, following, None if fresh is None else fresh(step))
        after_step()
    return x_B
