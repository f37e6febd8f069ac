"""Random numbers by address: each depends only on a key and its address, not on what was drawn before.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in integer tensor
operations, so they are the same for any batches, shards, workers and devices. Addresses are
(image, timestep, draw) for features, (position in the batch, step, 0) for training and (network, timestep, 0) for the
latents of generated networks.
"""

import math

import torch

_MASK = 0xFFFFFFFF


def philox(counters: tuple[torch.Tensor, ...], key: int) -> tuple[torch.Tensor, ...]:
    """Returns four tensors of uniform 32-bit words for four int64 tensors of 32-bit counters, and a 64-bit key."""
    c0, c1, c2, c3 = counters
    k0, k1 = key & _MASK, (key >> 32) & _MASK
    for _ in range(10):
        # The 64-bit products wrap in int64; their bits are still those of the unsigned product.
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((second >> 32) & _MASK) ^ c1 ^ k0,
            second & _MASK,
            ((first >> 32) & _MASK) ^ c3 ^ k1,
            first & _MASK,
        )
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def _words(key: int, address_N3: torch.Tensor, count: int) -> torch.Tensor:
    """Returns `count` 32-bit words for each address: int64 [N, count]."""
    groups = -(-count // 4)
    block = torch.arange(groups, device=address_N3.device)[None].expand(len(address_N3), groups)
    first, second, third = (address_N3[:, place, None].expand_as(block) for place in range(3))
    return torch.stack(philox((block, first, second, third), key), 2).flatten(1)[:, :count]


def uniform(key: int, address_N3: torch.Tensor, count: int) -> torch.Tensor:
    """Returns float32 [N, count] strictly between 0 and 1."""
    return ((_words(key, address_N3, count) >> 9).to(torch.float32) + 0.5) * 2.0**-23


def normal(key: int, address_N3: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns standard normal float32 [N, *shape]: Box-Muller on pairs of uniforms."""
    count = math.prod(shape)
    pairs = uniform(key, address_N3, count + count % 2).unflatten(1, (-1, 2))
    radius = torch.sqrt(-2.0 * torch.log(pairs[..., 0]))
    angle = 2.0 * math.pi * pairs[..., 1]
    drawn = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], 2).flatten(1)
    return drawn[:, :count].unflatten(1, shape)


def integers(key: int, address_N3: torch.Tensor, high: int) -> torch.Tensor:
    """Returns int64 [N] in 0..high - 1, with a bias below high / 2**32."""
    return (_words(key, address_N3, 1)[:, 0] * high) >> 32
