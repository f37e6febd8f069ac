"""Generation: an autoencoder of parameter vectors, a diffusion model of its latents, and samples of it.

Neural Network Diffusion, arXiv 2402.13144, section 3. K originals, P parameters in a vector, L numbers in a latent,
G generated networks, N any of them.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from harness.core.config import parse
from harness.core.progress import Progress
from harness.core.seeds import derive_seed
from harness.core.stages import Context, Stage
from harness.data.dataset import open_dataset
from harness.models import sampling
from harness.models.generators.edition import build
from harness.models.generators.latent_denoiser import LatentDenoiser
from harness.models.generators.parameter_autoencoder import VectorAutoencoder
from harness.models.noise_processes.process import NoiseProcess
from harness.models.noise_processes.variance_preserving import VariancePreserving
from harness.training import checkpoint, noise
from harness.training.config import TrainConfig
from harness.training.device import pick_device
from harness.training.launch import train
from harness.training.tasks import Autoencoding, Denoising
from harness.weights.checkpoints import VECTORS, chosen, open_checkpoints
from harness.weights.predict import predict
from harness.weights.vectors import Normaliser, normaliser

MODEL = "model.safetensors"
GATE = "gate.json"
GATE_NETWORKS = 16  # originals whose reconstructions are evaluated
# In the widest layer, float32: 128 MiB; on a CPU, what its caches hold (measured: 1.4 times faster than 50 MiB).
NUMBERS_AT_ONCE = {"cuda": 2**25, "cpu": 2**22}
SECONDS_BETWEEN_LINES = 2.0
PUBLISHED_TIMESTEPS = 1000
SMALLEST_DEVIATION = 1e-6  # of a latent's number that counts as varying


class NotReconstructed(RuntimeError):
    """The autoencoder loses what makes the originals good."""


class Latents(NamedTuple):
    """The originals' latents as the diffusion model sees them, and the way back."""

    latents_KL: torch.Tensor
    mean_L: torch.Tensor
    deviation_L: torch.Tensor


@dataclass(frozen=True)
class Codec:
    """A trained autoencoder between raw parameter vectors and latents, float32."""

    model: VectorAutoencoder
    scale: Normaliser
    at_once: int  # vectors in a batch

    @torch.no_grad()
    def encode(self, raw_NP: np.ndarray) -> np.ndarray:
        """Returns latents [N, L]."""
        parts = [
            self.model.encode(self._on_device(self.scale.normalise(part))).cpu()
            for part in self._parts(raw_NP)
        ]
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def decode(self, latents_NL: np.ndarray) -> np.ndarray:
        """Returns raw parameter vectors [N, P]."""
        parts = [
            self.scale.restore(self.model.decode(self._on_device(part)).cpu().numpy())
            for part in self._parts(latents_NL)
        ]
        return np.concatenate(parts)

    def _parts(self, array_N: np.ndarray) -> Iterator[np.ndarray]:
        return (array_N[at : at + self.at_once] for at in range(0, len(array_N), self.at_once))

    def _on_device(self, array_N: np.ndarray) -> torch.Tensor:
        array_N = np.ascontiguousarray(array_N, np.float32)
        return torch.from_numpy(array_N).to(next(self.model.parameters()).device)


def originals_of(stage: Stage, context: Context) -> tuple[np.ndarray, np.ndarray, Normaliser]:
    """Returns the indices of an autoencoder's k originals, their raw vectors [k, P] and its normaliser."""
    checkpoints = open_checkpoints(stage.needs["checkpoints"], context)
    places_K = chosen(checkpoints, stage.config)
    raw_KP = checkpoints.vectors_NP[places_K]
    if stage.config["autoencoder"]["normalise"] == "tensor":
        return places_K, raw_KP, normaliser(raw_KP, checkpoints.layout)
    return places_K, raw_KP, Normaliser(np.zeros(raw_KP.shape[1]), np.ones(raw_KP.shape[1]))


def open_codec(autoencoder: Stage, context: Context) -> Codec:
    """Reads a trained autoencoder, in its evaluation mode, with the normaliser of its originals."""
    _, raw_KP, scale = originals_of(autoencoder, context)
    settings = autoencoder.config["autoencoder"]
    model = build(settings, raw_KP.shape[1])
    model.load_state_dict(load_file(context.file(autoencoder, MODEL)))
    widest = max(settings["channels"] + (settings["decoder_channels"] or []))
    device = pick_device(context)
    return Codec(model.to(device).eval(), scale, _at_once(device, widest * raw_KP.shape[1]))


def draws_seed(config: Mapping[str, Any]) -> int:
    """Returns the seed of one run of the generator; the first run has the experiment's."""
    run = config["generator"]
    return config["seed"] if run == 0 else derive_seed(config["seed"], "generator", run) % 2**63


def make_autoencoder(stage: Stage, folder: Path, context: Context) -> None:
    """Trains the autoencoder on the k originals."""
    _train("harness.weights.generate:autoencoding", stage, "autoencoder", folder, context)


def autoencoding(stage: Stage, context: Context) -> Autoencoding:
    """Returns the autoencoder's task. Called by every worker."""
    settings = stage.config["autoencoder"]
    _, raw_KP, scale = originals_of(stage, context)
    length = raw_KP.shape[1]
    with torch.device("meta"):
        latent = build(settings, length).latent
    return Autoencoding(
        partial(build, settings, length),
        torch.from_numpy(scale.normalise(raw_KP)),
        settings["parameter_noise"],
        settings["latent_noise"],
        latent,
        mixed=settings["noise"] == "mixed",
    )


def make_reconstruction(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the reconstructions of the k originals, and the accuracy that reconstruction costs some of them.

    Raises `NotReconstructed` if the median accuracy on validation falls by more than the `gate`.
    """
    autoencoder = stage.needs["autoencoder"]
    places_K, raw_KP, _ = originals_of(autoencoder, context)
    codec = open_codec(autoencoder, context)
    reconstructed_KP = codec.decode(_finite(codec.encode(raw_KP), "latents of the originals"))
    _finite(reconstructed_KP, "reconstructed networks")
    picked = np.unique(np.linspace(0, len(raw_KP) - 1, GATE_NETWORKS).round().astype(int))
    accuracies = _accuracies(np.concatenate([raw_KP[picked], reconstructed_KP[picked]]), stage, context)
    originals, reconstructed = (float(np.median(half)) for half in np.split(accuracies, 2))
    measured = {
        "originals_median": originals,
        "reconstructed_median": reconstructed,
        "networks": len(picked),
    }
    gate = stage.config["gate"]
    if gate is not None and originals - reconstructed > gate:
        raise NotReconstructed(
            f"reconstructed networks reach {reconstructed:.3f} on validation where the originals have "
            f"{originals:.3f} (medians of {len(picked)}): the autoencoder cannot reconstruct; train it longer "
            "(autoencoder.train.steps), give it a larger latent or fewer parameters, or set gate: null to "
            "continue anyway"
        )
    (folder / GATE).write_text(json.dumps(measured), encoding="utf-8")
    save_arrays({"reconstructed": reconstructed_KP, "places": places_K.astype(np.int64)}, folder / VECTORS)


def _accuracies(raw_NP: np.ndarray, stage: Stage, context: Context) -> np.ndarray:
    """Returns each network's accuracy on the validation images [N]."""
    predicted_NM = predict(raw_NP, stage.needs, context, splits=("validation",))
    dataset = open_dataset(stage.needs["dataset"], context)
    return (predicted_NM == dataset.labels[dataset.splits["validation"]]).mean(1)


def make_denoiser(stage: Stage, folder: Path, context: Context) -> None:
    """Trains the diffusion model on the latents of the k originals."""
    _train("harness.weights.generate:latent_denoising", stage, "diffusion", folder, context)


def latent_denoising(stage: Stage, context: Context) -> Denoising:
    """Returns the latent diffusion's task. Called by every worker."""
    settings = stage.config["diffusion"]
    latents_KL = _latents(stage, context).latents_KL
    return Denoising(
        partial(_build_denoiser, settings, latents_KL.shape[1]),
        latents_KL,
        _process(settings),
        noun="networks",
    )


def _train(factory: str, stage: Stage, part: str, folder: Path, context: Context) -> None:
    options = dict(stage.options["train"])
    if stage.config[part]["full_batch"]:
        options["batch"] = stage.config["k"]
    config = parse(TrainConfig, options, f"{part}.train")
    with context.store.scratch() as trained:
        train(factory, stage, config, draws_seed(stage.config), trained, context)
        save_file(checkpoint.trained_weights(trained), folder / MODEL)
        (folder / "state.json").write_bytes((trained / "state.json").read_bytes())


def make_generated(stage: Stage, folder: Path, context: Context) -> None:
    """Writes generated parameter vectors, ready to be put into a network."""
    latents_GL = _finite(sample(stage, context), "generated latents")
    codec = open_codec(stage.needs["autoencoder"], context)
    save_arrays({"generated": _finite(codec.decode(latents_GL), "generated networks")}, folder / VECTORS)


def sample(stage: Stage, context: Context) -> np.ndarray:
    """Returns the latents [G, L] of a `generated` stage: `generate` networks, counted from `first` (0).

    Network i depends on its number alone, beyond rounding, however many are drawn with it.
    """
    config, denoising = stage.config, stage.needs["denoiser"]
    settings, device = denoising.config["diffusion"], pick_device(context)
    known = _latents(denoising, context)
    process, model = _process(settings), _build_denoiser(settings, len(known.mean_L))
    model.load_state_dict(load_file(context.file(denoising, MODEL)))
    model = model.to(device).eval()
    first = config.get("first", 0)
    numbers_G = torch.arange(first, first + config["generate"], device=device)
    at_once = _at_once(device, max(settings["channels"]) * len(known.mean_L))
    pace = _Pace(
        len(numbers_G), config["sampling_steps"], at_once, partial(context.progress, stage.kind, stage.key)
    )
    parts = [
        sample_latents(
            model,
            process,
            numbers_N,
            len(known.mean_L),
            steps=config["sampling_steps"],
            ancestral=config["sampler"] == "ddpm",
            clip=settings["clip"],
            seed=draws_seed(config),
            pace=pace,
        )
        for numbers_N in numbers_G.split(at_once)
    ]
    return (torch.cat(parts).cpu() * known.deviation_L + known.mean_L).numpy()


def sample_latents(
    model: torch.nn.Module,
    process: NoiseProcess,
    numbers_N: torch.Tensor,
    length: int,
    *,
    steps: int,
    ancestral: bool,
    clip: bool,
    seed: int,
    pace: "_Pace | None" = None,
) -> torch.Tensor:
    """Returns latents [N, length] of the networks `numbers_N`, in one batch.

    The noise of network i at timestep t depends on (seed, i, t) alone. `clip` keeps the estimate of the clean latent
    within -1 and 1.
    """
    address_N3 = torch.stack([numbers_N, torch.zeros_like(numbers_N), torch.zeros_like(numbers_N)], 1)

    def fresh(step: int) -> torch.Tensor:
        address_N3[:, 1] = step
        return noise.normal(derive_seed(seed, "ancestral"), address_N3, (length,))

    return sampling.sample(
        process,
        lambda x_NL, steps_N, _: model(process.scaled(x_NL, steps_N), process.time(steps_N)),
        noise.normal(derive_seed(seed, "generate"), address_N3, (length,)),
        steps=steps,
        fresh=fresh if ancestral else None,
        clip=1.0 if clip else None,
        **({} if pace is None else {"after_step": pace.step}),
    )


class _Pace:
    """Reports the progress of sampling."""

    def __init__(self, networks: int, steps: int, at_once: int, say: Callable[[Progress], None]) -> None:
        self._total, self._done = -(-networks // at_once) * steps, 0
        self._networks, self._say = networks, say
        self._began = self._shown = time.monotonic()

    def step(self) -> None:
        """Reports steps and time left, every few seconds and at the end. Called after every step of every batch."""
        self._done += 1
        now = time.monotonic()
        if now - self._shown < SECONDS_BETWEEN_LINES and self._done < self._total:
            return
        self._shown = now
        left = (self._total - self._done) * (now - self._began) / self._done
        self._say(Progress(self._done, self._total, networks=self._networks, seconds_left=left))


def _at_once(device: torch.device, numbers: int) -> int:
    """Returns how many networks go into a batch, each with so many `numbers` in its widest layer."""
    return max(1, NUMBERS_AT_ONCE[device.type] // numbers)


def _latents(stage: Stage, context: Context) -> Latents:
    """Returns the originals' latents for the denoiser of `stage`: at mean 0 and deviation 1, or as they are."""
    _, raw_KP, _ = originals_of(stage, context)
    found_KL = open_codec(stage.needs["autoencoder"], context).encode(raw_KP)
    latents_KL = torch.from_numpy(_finite(found_KL, "latents of the originals"))
    if not stage.config["diffusion"]["standardise"]:
        zeros_L = torch.zeros(latents_KL.shape[1])
        return Latents(latents_KL, zeros_L, torch.ones_like(zeros_L))
    mean_L, deviation_L = latents_KL.mean(0), latents_KL.std(0, correction=0)
    deviation_L = torch.where(deviation_L > SMALLEST_DEVIATION, deviation_L, torch.ones_like(deviation_L))
    return Latents((latents_KL - mean_L) / deviation_L, mean_L, deviation_L)


def _finite(array: np.ndarray, what: str) -> np.ndarray:
    """Returns `array`; raises `FloatingPointError` unless all of it are numbers."""
    bad = int((~np.isfinite(array)).any(1).sum())
    if bad:
        raise FloatingPointError(
            f"{bad} of {len(array)} {what} are not finite; lower autoencoder.train.learning_rate or "
            "diffusion.train.learning_rate, or standardise the latents (diffusion.standardise: true)"
        )
    return array


def _process(settings: Mapping[str, Any]) -> VariancePreserving:
    """Linear from 1e-4 to 2e-2 over 1000 timesteps, as in both editions.

    Another number of timesteps takes the same way in more or fewer steps, so that every schedule ends in noise alone.
    """
    return VariancePreserving({"num_train_timesteps": PUBLISHED_TIMESTEPS}).in_steps(settings["timesteps"])


def _build_denoiser(settings: Mapping[str, Any], latent: int) -> LatentDenoiser:
    return LatentDenoiser(latent, settings["channels"], settings["kernel"], settings["norm"])
