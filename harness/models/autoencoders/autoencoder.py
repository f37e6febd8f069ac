"""The contract of an autoencoder kind: all that depends on the type of autoencoder. No torch at import.

Adding a kind is one file with a subclass of `Autoencoder` and one line in `AUTOENCODERS` (or an entry point
"image_autoencoder.CLASS" of the group `harness.plugins`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.config import read_json
from harness.core.errors import UserError, did_you_mean
from harness.core.registry import Registry
from harness.models.backbones.pipeline import CONFIG, WEIGHTS, Latents, Parts, Weights

if TYPE_CHECKING:
    import torch

# By the `_class_name` of the autoencoder's config.json.
AUTOENCODERS = Registry(
    "image autoencoder",
    {
        "AutoencoderKL": "harness.models.autoencoders.kl:AUTOENCODER",
        "AutoencoderKLFlux2": "harness.models.autoencoders.flux2:AUTOENCODER",
        "AutoencoderKLQwenImage": "harness.models.autoencoders.qwen_image:AUTOENCODER",
        "VQModel": "harness.models.autoencoders.vq:AUTOENCODER",
        "AutoencoderDC": "harness.models.autoencoders.dc:AUTOENCODER",
        "AutoencoderTiny": "harness.models.autoencoders.tiny:AUTOENCODER",
        "AutoencoderRAE": "harness.models.autoencoders.rae:AUTOENCODER",
    },
)
UNNAMED = "AutoencoderKL"  # the class of a config.json without `_class_name`


class Autoencoder(ABC):
    """One type of autoencoder. A stateless singleton; `config` is always what `read` returned.

    The methods `encode` and `decode` need torch; plans call all others, which must not import it.
    """

    network: ClassVar[str]  # "module:class", a diffusers `ModelMixin`
    defaults: ClassVar[Mapping[str, Any]] = {}  # diffusers' defaults of fields that config.json may omit
    widths: ClassVar[str] = "block_out_channels"  # the field with the channels of each level of the encoder
    version: ClassVar[int] = 1  # raise it if the same configuration now gives other numbers

    def read(self, found: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Returns the configuration `found`, the content of `path`, with defaults filled in.

        Raises `UserError`, beginning with `path`, for one that is not supported.
        """
        config = {**self.defaults, **found}
        self.check(config, path)
        return config

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Raises `UserError`, beginning with `path`, for values that `encode` cannot handle.

        Unless overridden, for a configuration without channel counts.
        """
        widths = config[self.widths]
        if not isinstance(widths, list) or not widths:
            raise UserError(f"{path}: {self.widths} = {widths!r}: expected a list of channel counts")

    def channels(self, config: Mapping[str, Any]) -> int:
        """Returns the channels of what `encode` returns: latent_channels, unless overridden."""
        return config["latent_channels"]

    def factor(self, config: Mapping[str, Any]) -> int:
        """Returns how many times images are larger than latents, in height and in width.

        Unless overridden, two to the power of the number of downsamplers, one between levels.
        """
        return 2 ** (len(config[self.widths]) - 1)

    def map_size(self, config: Mapping[str, Any]) -> int | None:
        """Returns the only height and width of latents; None, unless overridden, if they follow the images'."""
        return None

    def image_channels(self, config: Mapping[str, Any]) -> int:
        """Returns the channels of images."""
        return config["in_channels"]

    @abstractmethod
    def encode(self, autoencoder: Any, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns what noise is added to, for images in [-1, 1]: latents as the diffusion network sees them.

        Deterministic (the mode of a distribution) and float32: in bfloat16 the lowest noise levels would round to
        no noise at all.
        """

    @abstractmethod
    def decode(self, autoencoder: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns images in [-1, 1], the inverse of `encode`."""


def autoencoder_of(config: Mapping[str, Any]) -> Autoencoder:
    """Returns the kind of an autoencoder's configuration."""
    found: Autoencoder = AUTOENCODERS.load(config.get("_class_name", UNNAMED))
    return found


def factor_of(folder: Path) -> int | None:
    """Returns how many times images are larger than the latents of the autoencoder in a folder; None without one."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    found = read_json(path)
    kind = autoencoder_of(found)
    return kind.factor(kind.read(found, path))


def latent_parts(
    folder: Path, network: str, channels: int, map_size: int | None, size: int, patch: int
) -> Parts:
    """Returns the parts of a pipeline whose network denoises the latents of the autoencoder in `folder`.

    `network` is the class of the denoising network, which reads maps of `channels` and of `map_size` (None: of any
    size that patches divide); `size` is that of images, in pixels. Raises `UserError`, beginning with the path of the
    configuration, for an autoencoder that is unknown or does not match the network.
    """
    path = folder / CONFIG
    found = read_json(path)
    kind = found.get("_class_name", UNNAMED)
    if kind not in AUTOENCODERS.names():
        raise UserError(f"{path}: holds a {kind}, which is no known autoencoder: {_near(kind)}")
    autoencoder = autoencoder_of(found)
    config = autoencoder.read(found, path)
    latents, factor = autoencoder.channels(config), autoencoder.factor(config)
    if latents != channels:
        raise UserError(
            f"{path}: the autoencoder's latents have {latents} channels, but the {network} reads {channels}; "
            "models with inputs other than latents (inpainting, editing, upscaling) are not supported"
        )
    fixed = autoencoder.map_size(config)
    if fixed is not None and map_size not in (None, fixed):
        raise UserError(
            f"{path}: the autoencoder's latents have {fixed} rows, but the {network} reads {map_size}; give the "
            "autoencoder that it was trained with"
        )
    map_size = fixed or map_size
    if map_size is None:
        unit = factor * patch
        if size % unit:
            nearest = max(unit, round(size / unit) * unit)
            raise UserError(
                f"{folder.parent}: reads images of a multiple of {unit} pixels, but the data has {size}; "
                f"set data.size={nearest}"
            )
        map_size = size // factor
    weights = folder / WEIGHTS
    return Parts(
        map_size * factor,
        autoencoder.image_channels(config),
        map_size,
        Latents(folder.name, config),
        [weights],
        [Weights(weights, autoencoder.network, config)],
    )


def _near(kind: str) -> str:
    names: Sequence[str] = AUTOENCODERS.names()
    return did_you_mean(kind, names)
