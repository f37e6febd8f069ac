"""Generation: an autoencoder of parameter vectors, a diffusion model of its latents, and samples of it.

Neural Network Diffusion, arXiv 2402.13144, section 3.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file

from harness.core.config import parse
from harness.core.seeds import generator, stream
from harness.core.stages import Stage, Workshop
from harness.models.latent_denoiser import LatentDenoiser
from harness.models.parameter_autoencoder import ParameterAutoencoder
from harness.training import checkpoint, noise
from harness.training.config import TrainConfig
from harness.training.device import pick_device
from harness.training.launch import train
from harness.training.tasks import Autoencoding, Denoising
from harness.weights.originals import VECTORS, open_pool
from harness.weights.vectors import Normaliser, choose, normaliser

MODEL = "model.safetensors"


def subset(stage: Stage, workshop: Workshop) -> tuple[np.ndarray, np.ndarray, Normaliser]:
    """Returns the places of the k originals in the pool, their normalised vectors [k, P], and the normaliser."""
    vectors_KP, layout = open_pool(stage.needs["pool"], workshop)
    settings = stage.config
    draw = generator(settings["seed"], "subset", settings["k"])
    places = choose(len(vectors_KP), settings["k"], settings["subset"], draw)
    scale = normaliser(vectors_KP[places], layout)
    return places, scale.normalise(vectors_KP[places]), scale


def make_autoencoder(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Trains the autoencoder on the k originals."""
    _train("harness.weights.generate:autoencoding", stage, folder, workshop)


def autoencoding(stage: Stage, workshop: Workshop) -> Autoencoding:
    """Returns the autoencoder's task. Called by every worker."""
    settings = stage.config["autoencoder"]
    vectors_KP = torch.from_numpy(subset(stage, workshop)[1])
    return Autoencoding(
        partial(_build_autoencoder, stage, vectors_KP.shape[1]),
        vectors_KP,
        settings["parameter_noise"],
        settings["latent_noise"],
        settings["latent"],
    )


def make_denoiser(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Trains the diffusion model on the latents of the k originals."""
    _train("harness.weights.generate:latent_denoising", stage, folder, workshop)


def latent_denoising(stage: Stage, workshop: Workshop) -> Denoising:
    """Returns the latent diffusion's task. Called by every worker."""
    latents_KL, _, _ = _standard_latents(stage, workshop)
    return Denoising(partial(_build_denoiser, stage), latents_KL, _scheduler(stage))


def _train(factory: str, stage: Stage, folder: Path, workshop: Workshop) -> None:
    config = parse(TrainConfig, stage.options["train"], "train")
    with workshop.store.scratch() as trained:
        train(factory, stage, config, stage.config["seed"], trained, workshop)
        save_file(checkpoint.trained_weights(trained), folder / MODEL)
        (folder / "state.json").write_bytes((trained / "state.json").read_bytes())


def make_generated(stage: Stage, folder: Path, workshop: Workshop) -> None:
    """Writes generated and reconstructed parameter vectors, ready to be put into a network."""
    places, originals_KP, scale = subset(stage, workshop)
    autoencoder = _load_autoencoder(stage.needs["autoencoder"], originals_KP.shape[1], workshop)
    latents_GL = sample(stage, workshop)
    with torch.no_grad():
        generated_GP = autoencoder.decode(latents_GL)
        reconstructed_KP = autoencoder.decode(autoencoder.encode(torch.from_numpy(originals_KP)))
    vectors = {
        "generated": torch.from_numpy(scale.restore(generated_GP.numpy())),
        "reconstructed": torch.from_numpy(scale.restore(reconstructed_KP.numpy())),
        "places": torch.from_numpy(places),
    }
    save_file(vectors, folder / VECTORS)


@torch.no_grad()
def sample(stage: Stage, workshop: Workshop) -> torch.Tensor:
    """Returns generated latents [G, L], all from one batch, by DDPM's ancestral sampling."""
    denoising = stage.needs["denoiser"]
    device = pick_device(workshop)
    _, mean_L, deviation_L = _standard_latents(denoising, workshop)
    model = _build_denoiser(denoising)
    model.load_state_dict(load_file(workshop.file(denoising, MODEL)))
    model = model.to(device).eval()
    scheduler = _scheduler(denoising)
    scheduler.set_timesteps(stage.config["sampling_steps"], device=device)
    count, seed = stage.config["generate"], stage.config["seed"]
    address_G3 = (
        torch.stack([torch.arange(count), torch.zeros(count), torch.zeros(count)], 1).long().to(device)
    )
    x_GL = noise.normal(stream(seed, "generate"), address_G3, (len(mean_L),))
    draws = torch.Generator(device).manual_seed(stream(seed, "ancestral") % 2**63)
    for timestep in scheduler.timesteps:
        predicted = model(x_GL, timestep.expand(count))
        x_GL = scheduler.step(predicted, timestep, x_GL, generator=draws).prev_sample
    return x_GL.cpu() * deviation_L + mean_L


@torch.no_grad()
def _standard_latents(stage: Stage, workshop: Workshop) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the originals' latents [k, L] at mean 0 and deviation 1, then that mean and deviation [L]."""
    _, originals_KP, _ = subset(stage, workshop)
    autoencoder = _load_autoencoder(stage.needs["autoencoder"], originals_KP.shape[1], workshop)
    latents_KL = autoencoder.encode(torch.from_numpy(originals_KP))
    mean_L, deviation_L = latents_KL.mean(0), latents_KL.std(0, correction=0)
    deviation_L = torch.where(deviation_L > 1e-6, deviation_L, torch.ones_like(deviation_L))
    return (latents_KL - mean_L) / deviation_L, mean_L, deviation_L


def _scheduler(stage: Stage) -> DDPMScheduler:
    """Linear 1e-4 to 2e-2, no clipping, as in the 2024-12 edition."""
    return DDPMScheduler(num_train_timesteps=stage.config["diffusion"]["timesteps"], clip_sample=False)


def _build_autoencoder(stage: Stage, length: int) -> ParameterAutoencoder:
    settings = stage.config["autoencoder"]
    return ParameterAutoencoder(length, settings["channels"], settings["kernel"], settings["latent"])


def _load_autoencoder(stage: Stage, length: int, workshop: Workshop) -> ParameterAutoencoder:
    model = _build_autoencoder(stage, length)
    model.load_state_dict(load_file(workshop.file(stage, MODEL)))
    return model.eval()


def _build_denoiser(stage: Stage) -> LatentDenoiser:
    settings = stage.config["diffusion"]
    return LatentDenoiser(stage.config["autoencoder"]["latent"], settings["channels"], settings["kernel"])
