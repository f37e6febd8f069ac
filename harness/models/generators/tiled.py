"""Edition 2024-02 of the autoencoder of parameter vectors, whose latent follows from its strides."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.models.generators.edition import Edition, Places

if TYPE_CHECKING:
    from harness.models.generators.parameter_autoencoder import TiledAutoencoder


class Tiled(Edition):
    """Convolutions whose stride is their kernel, and Tanh; `decoder_channels` of None are the encoder's, mirrored."""

    def check(self, settings: Mapping[str, Any]) -> None:
        """The latent follows from the strides."""
        latent, decoder, channels = (settings[name] for name in ("latent", "decoder_channels", "channels"))
        if latent is not None:
            raise ValueError(
                f"latent = {latent}: in edition 2024-02 it follows from the strides and must be null"
            )
        if decoder is not None and len(decoder) != len(channels):
            raise ValueError(f"decoder_channels = {decoder}: expected {len(channels)}, as many as channels")

    def places(self, settings: Mapping[str, Any], length: int) -> Places:
        """Each layer outputs one position per whole stride."""
        kernel, stages = settings["kernel"], len(settings["channels"])
        return Places(kernel**stages, [length // kernel**layer for layer in range(1, stages + 1)])

    def latent(self, settings: Mapping[str, Any], length: int) -> int:
        """Returns the channels of the last layer times its positions."""
        last: int = settings["channels"][-1] * self.places(settings, length).after[-1]
        return last

    def build(self, settings: Mapping[str, Any], length: int) -> "TiledAutoencoder":
        """Returns the network."""
        from harness.models.generators.parameter_autoencoder import TiledAutoencoder

        decoder = settings["decoder_channels"] or settings["channels"][::-1]
        return TiledAutoencoder(length, settings["channels"], decoder, settings["kernel"], settings["norm"])
