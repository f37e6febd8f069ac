"""An autoencoder of two linear layers."""

from collections.abc import Mapping
from typing import Any

from harness.models.generators.edition import Edition, Places


class Linear(Edition):
    """Has no strided layers: `channels` do not matter."""

    def check(self, settings: Mapping[str, Any]) -> None:
        """The latent has a size of its own."""
        if settings["latent"] is None:
            raise ValueError("latent = None: a linear autoencoder needs a number")

    def places(self, settings: Mapping[str, Any], length: int) -> Places:
        """All numbers are seen by every layer."""
        return Places(1, [length] * len(settings["channels"]))

    def latent(self, settings: Mapping[str, Any], length: int) -> int:
        """Returns the size that was set."""
        return settings["latent"]

    def build(self, settings: Mapping[str, Any], length: int):
        """Returns the network."""
        from my_parts.edition_modules import LinearAutoencoder

        return LinearAutoencoder(length, settings["latent"])
