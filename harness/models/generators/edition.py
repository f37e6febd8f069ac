"""The contract of an autoencoder's edition: its layers, their sizes, how it is built. No torch.

`settings` are the values of study 2's `autoencoder:` section: `channels` and `kernel` of the strided layers,
`decoder_channels`, `latent` and `norm`. P is the length of a vector.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from harness.core.registry import Registry

if TYPE_CHECKING:
    from harness.models.generators.parameter_autoencoder import VectorAutoencoder

AUTOENCODERS = Registry(
    "autoencoder",
    {
        "2024-02": "harness.models.generators.tiled:Tiled",
        "2024-12": "harness.models.generators.strided:Strided",
    },
)


class Places(NamedTuple):
    """The positions that the strided layers of an encoder output for a vector."""

    least: int  # numbers that a vector needs, so that every layer has something to stride over
    after: list[int]  # positions after each layer, for the given length


class Edition(ABC):
    """One way to build the autoencoder; `autoencoder.edition` names it. Made without arguments."""

    version: ClassVar[int] = 1  # raise it when the same settings would give other numbers

    @abstractmethod
    def check(self, settings: Mapping[str, Any]) -> None:
        """Raises `ValueError` with "KEY = VALUE: reason" for settings that contradict each other."""

    @abstractmethod
    def places(self, settings: Mapping[str, Any], length: int) -> Places:
        """Returns how many positions each strided layer outputs for a vector of `length` numbers."""

    @abstractmethod
    def latent(self, settings: Mapping[str, Any], length: int) -> int:
        """Returns the size of the latent of a vector of `length` numbers; 0 if the strides leave nothing."""

    @abstractmethod
    def build(self, settings: Mapping[str, Any], length: int) -> "VectorAutoencoder":
        """Returns the untrained network for vectors of `length` numbers; its weights come from torch's generator."""


def edition_of(settings: Mapping[str, Any]) -> Edition:
    """Returns the edition that `settings` name; raises `UserError` for an unknown one."""
    found: Edition = AUTOENCODERS.load(settings["edition"])()
    return found


def build(settings: Mapping[str, Any], length: int) -> "VectorAutoencoder":
    """Returns an untrained autoencoder of vectors with `length` numbers; `settings` are `AutoencoderConfig`'s."""
    return edition_of(settings).build(settings, length)
