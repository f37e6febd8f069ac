"""How much faster is sampling latents of networks in one batch than one at a time, the published method?

    python benchmarks/sampling.py                                  # both presets and the quickstart, about a minute
    python benchmarks/sampling.py --steps 1000 --latents 1000      # with a GPU

Uses the denoisers of p-diff's two editions and of the quickstart, for vectors of their intended length, with random
weights. Both methods take the same ancestral steps with the same noise. Prints seconds, the ratio, and the largest
difference relative to the latents' magnitude. On a CPU, a wide denoiser on long latents is limited by arithmetic
with either method.
"""

import argparse
import time

import torch

from harness.models.generators.latent_denoiser import LatentDenoiser
from harness.models.noise_processes.process import process_of
from harness.sweep.experiment import load_experiment
from harness.weights.config import WeightsConfig
from harness.weights.generate import sample_latents


def main() -> None:
    """Compares both methods for each denoiser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    chosen = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, length in (("2024-02", 2048), ("2024-12", 2048), ("quickstart", 128)):
        compare(name, length, chosen.latents, chosen.steps, device)


def compare(name: str, length: int, latents: int, steps: int, device: torch.device) -> None:
    """Prints one line per method, then the ratio, for the denoiser of latents of `length` parameters."""
    config = load_experiment("quickstart", []).weights if name == "quickstart" else of_preset(name)
    latent, settings = config.autoencoder.numbers(length), config.diffusion
    torch.manual_seed(0)
    model = LatentDenoiser(latent, settings.channels, settings.kernel, settings.norm).to(device).eval()
    process = process_of({"num_train_timesteps": settings.timesteps})
    numbers = torch.arange(latents, device=device)
    million = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(
        f"{name}: {latents} latents of {latent} numbers, {million:.2f} million parameters, {steps} steps, {device}"
    )

    def draw(some: torch.Tensor) -> torch.Tensor:
        return sample_latents(model, process, some, latent, steps=steps, ancestral=True, clip=False, seed=0)

    draw(numbers[:1])  # warms up
    took, found = {}, {}
    for way, size in (("published", 1), ("harness", latents)):
        began = time.perf_counter()
        found[way] = torch.cat([draw(some) for some in numbers.split(size)]).cpu()
        took[way] = time.perf_counter() - began
        print(f"  {way:10} {took[way]:8.2f} s")
    gap = (found["published"] - found["harness"]).abs().max() / found["published"].abs().max()
    print(f"  {took['published'] / took['harness']:.1f} times faster, largest difference {float(gap):.1e}")


def of_preset(name: str) -> WeightsConfig:
    """Returns the configuration of one edition."""
    return WeightsConfig.model_validate({"preset": name})


if __name__ == "__main__":
    main()
