"""The steps from noise to data that samplers share: DDPM's ancestral ones and DDIM's deterministic ones.

z_B and estimate_B are batches of anything: images [B, C, H, W] or latents [B, L].
"""

import torch


def spaced(timesteps: int, steps: int) -> list[int]:
    """Returns `steps` timesteps spread evenly from the last, where all is noise, down to 0."""
    return [round(place) for place in torch.linspace(timesteps - 1, 0, steps, dtype=torch.float64).tolist()]


def step(
    alphas_cumprod_T: torch.Tensor,
    z_B: torch.Tensor,
    estimate_B: torch.Tensor,
    t: int,
    following: int,
    fresh: torch.Tensor | None,
) -> torch.Tensor:
    """Returns what stands at timestep `following`, after `t`; -1 is the clean image.

    Song et al. 2021 (DDIM), equation 12: without `fresh` noise σ = 0, with it σ is equation 16 at η = 1, which is
    Ho et al. 2020's ancestral step with their smaller variance. The noise is the one that the estimate, clipped as it
    may be, leaves in the sample.
    """
    a = alphas_cumprod_T[t].double()
    b = alphas_cumprod_T[following].double() if following >= 0 else torch.ones_like(a)
    variance = (1 - b) / (1 - a) * (1 - a / b) if fresh is not None else torch.zeros_like(a)
    epsilon = (z_B - float(a.sqrt()) * estimate_B) / float((1 - a).sqrt())
    direction = float((1 - b - variance).clamp_min(0).sqrt())
    mean = float(b.sqrt()) * estimate_B + direction * epsilon
    return mean if fresh is None else mean + float(variance.sqrt()) * fresh
