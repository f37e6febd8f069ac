"""Checks that autoencoder and diffusion model fit the parameters that they are to generate. No torch."""

from harness.core.errors import UserError
from harness.models.generators.edition import edition_of
from harness.weights.config import AutoencoderConfig, WeightsConfig


def check_models(config: WeightsConfig, length: int) -> None:
    """Raises `UserError` where autoencoder or diffusion model cannot be built for `length` varied parameters."""
    places = _places(config.autoencoder, length)
    latent = config.autoencoder.numbers(length)
    if latent > length:
        raise UserError(
            f"weights.autoencoder.latent: {latent} numbers are more than the {length} varied parameters; give a "
            "smaller latent or vary more (weights.parameters)"
        )
    if config.sampling_steps > config.diffusion.timesteps:
        raise UserError(
            f"weights.sampling_steps = {config.sampling_steps} exceeds diffusion.timesteps = "
            f"{config.diffusion.timesteps}; give at most that many"
        )
    _check_norms(config, length, places, latent)
    _check_batches(config, places[-1], latent)


def _places(autoencoder: AutoencoderConfig, length: int) -> list[int]:
    """Returns how many positions each strided layer outputs; raises `UserError` if one has nothing to stride over."""
    settings = autoencoder.keyed()
    least, places = edition_of(settings).places(settings, length)
    if length < least:
        raise UserError(
            f"weights.autoencoder.channels: {len(places)} strided layers need at least {least} parameters, and "
            f"{length} vary; give fewer layers or vary more (weights.parameters)"
        )
    return places


def _check_norms(config: WeightsConfig, length: int, places: list[int], latent: int) -> None:
    """Raises `UserError` where a group norm would see a single value, which it turns into zero."""
    autoencoder, diffusion = config.autoencoder, config.diffusion
    numbers = [width * place for width, place in zip(autoencoder.channels, places, strict=True)]
    if autoencoder.norm == "group" and 1 in numbers:
        raise UserError(
            f"weights.autoencoder.channels: layer {numbers.index(1) + 1} leaves one number of {length} parameters; "
            "give fewer layers or wider ones"
        )
    if diffusion.norm == "group" and latent * diffusion.channels[0] == 1:
        raise UserError("weights.autoencoder.latent = 1 needs weights.diffusion.channels of more than 1")


def _check_batches(config: WeightsConfig, places: int, latent: int) -> None:
    """Raises `UserError` where a batch is too small for its norm or its workers."""
    for name, part, numbers in (
        ("autoencoder", config.autoencoder, places),
        ("diffusion", config.diffusion, latent),
    ):
        batch = min(config.k) if part.full_batch else part.train.batch
        if part.norm == "batch" and batch * numbers == 1:
            raise UserError(
                f"weights.{name}.norm = batch: a single value cannot be normalised; give a larger "
                "batch or norm: group"
            )
        workers = part.train.workers
        most = workers if isinstance(workers, int) else workers[-1]
        if most > batch:
            raise UserError(
                f"weights.{name}.train.workers = {workers}: more than the {batch} networks of a batch; give fewer "
                "workers"
            )
