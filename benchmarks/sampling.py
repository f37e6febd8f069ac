"""How much faster are latents of networks sampled in one batch than one at a time, the published way?

    python benchmarks/sampling.py        # 200 latents of the 2024-12 preset, 10 steps: about a minute
    python benchmarks/sampling.py --steps 1000    # with a GPU

The denoiser of p-diff's 2024-12 edition with random weights; both ways take the same ancestral steps with the same
noise. Prints seconds, the ratio, and the largest difference relative to the latents' size.
"""

import argparse
import time

import torch
from diffusers import DDPMScheduler

from harness.models.latent_denoiser import LatentDenoiser
from harness.weights.config import WeightsConfig
from harness.weights.generate import sample_latents


def main() -> None:
    """Prints one line a way, then the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    chosen = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = WeightsConfig.model_validate({"preset": "2024-12"})
    latent, settings = config.autoencoder.latent or 128, config.diffusion
    torch.manual_seed(0)
    model = LatentDenoiser(latent, settings.channels, settings.kernel, settings.norm).to(device).eval()
    alphas = DDPMScheduler(num_train_timesteps=settings.timesteps).alphas_cumprod
    numbers = torch.arange(chosen.latents, device=device)
    print(f"{chosen.latents} latents of {latent} numbers, {chosen.steps} steps, {device}")

    def draw(some: torch.Tensor) -> torch.Tensor:
        return sample_latents(
            model, alphas, some, latent, steps=chosen.steps, ancestral=True, clip=False, seed=0
        )

    draw(numbers[:1])  # warms up
    took, found = {}, {}
    for name, size in (("published", 1), ("harness", chosen.latents)):
        began = time.perf_counter()
        found[name] = torch.cat([draw(some) for some in numbers.split(size)]).cpu()
        took[name] = time.perf_counter() - began
        print(f"{name:10} {took[name]:8.2f} s")
    gap = (found["published"] - found["harness"]).abs().max() / found["published"].abs().max()
    print(f"{took['published'] / took['harness']:.1f} times faster, largest difference {float(gap):.1e}")


if __name__ == "__main__":
    main()
