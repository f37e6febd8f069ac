"""Edition 2024-12 of the autoencoder of parameter vectors: its sizes, known without building it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.models.generators.edition import Edition, Places

if TYPE_CHECKING:
    from harness.models.generators.parameter_autoencoder import ParameterAutoencoder


class Strided(Edition):
    """Convolutions of stride 2 with ELU, then a linear layer to a latent of any size."""

    def check(self, settings: Mapping[str, Any]) -> None:
        """The latent has a size of its own, and the decoder mirrors the encoder."""
        if settings["latent"] is None:
            raise ValueError("latent = None: edition 2024-12 needs a number")
        if settings["decoder_channels"] is not None:
            raise ValueError(f"decoder_channels = {settings['decoder_channels']}: only for edition 2024-02")

    def places(self, settings: Mapping[str, Any], length: int) -> Places:
        """Each layer halves the length, rounding up."""
        stages = len(settings["channels"])
        return Places(2 ** (stages - 1) + 1, [-(-length // 2**layer) for layer in range(1, stages + 1)])

    def latent(self, settings: Mapping[str, Any], length: int) -> int:
        """Returns the size that was set."""
        latent: int = settings["latent"]
        return latent

    def build(self, settings: Mapping[str, Any], length: int) -> "ParameterAutoencoder":
        """Returns the network."""
        from harness.models.generators.parameter_autoencoder import ParameterAutoencoder

        return ParameterAutoencoder(
            length, settings["channels"], settings["kernel"], settings["latent"], settings["norm"]
        )
