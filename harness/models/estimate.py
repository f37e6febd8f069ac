"""What a noised sample and the noise that is predicted in it say of the clean one."""

import torch


def clean(noised: torch.Tensor, epsilon: torch.Tensor, alphas_N: torch.Tensor) -> torch.Tensor:
    """Returns (x_t - sqrt(1 - a) epsilon) / sqrt(a), the clean samples [N, ...] (Ho et al. 2020, equation 15).

    `alphas_N` is each sample's share of signal, the cumulative product at its timestep.
    """
    alphas = alphas_N.view(-1, *[1] * (noised.ndim - 1)).to(noised.dtype)
    return (noised - (1 - alphas).sqrt() * epsilon) / alphas.sqrt()
