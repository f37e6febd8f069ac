"""The contract of a backbone family: all that depends on the type of diffusion network. No torch at import.

Adding a family is one file with a subclass of `Family`, one line in `FAMILIES` (or an entry point
"backbone_family.CLASS" of the group `harness.plugins`), and one subclass of
`harness.testing.backbones.BackboneFamilyContract`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.core.registry import Registry, load_attribute
from harness.models.backbones import weight_files
from harness.models.backbones.blocks import Block, Step, numbered
from harness.models.backbones.pipeline import CONFIG, DTYPE, WEIGHTS, Parts, Pipeline
from harness.models.noise_processes.process import NoiseProcess, process_of

if TYPE_CHECKING:
    import torch

# By the `_class_name` of the network's config.json.
FAMILIES = Registry(
    "backbone family",
    {
        "UNet2DModel": "harness.models.backbones.unet:FAMILY",
        "UNet2DConditionModel": "harness.models.backbones.conditional_unet:FAMILY",
        "DiTTransformer2DModel": "harness.models.backbones.dit:FAMILY",
    },
)
UNNAMED = "UNet2DModel"  # the class of a config.json without `_class_name`


class Family(ABC):
    """One type of diffusion network: a diffusers class, and how to read, run and probe it.

    A family is a stateless singleton. `config` is always what `read` returned, `pipeline` the folder of a pipeline as
    published by its author, `folder` that of a backbone's artifact: the network in the family's `folder`, what
    `write_parts` adds, and the noise process. The methods from `build` on need torch; plans call all others, which
    must not import it.
    """

    network: ClassVar[str]  # "module:class" of the network, a diffusers `ModelMixin`
    folder: ClassVar[str]  # of the network in a pipeline
    needed: ClassVar[Sequence[str]]  # required fields of config.json
    defaults: ClassVar[Mapping[str, Any]] = {}  # diffusers' defaults of fields that config.json may omit
    hub_files: ClassVar[
        Sequence[str]
    ] = ()  # patterns of further files to download, besides network and scheduler; no code
    condition: ClassVar[str | None] = None  # the network's further input besides image and timestep, in words
    latent: ClassVar[bool] = False  # noise is added to (unbounded) latents, not to pixels
    version: ClassVar[int] = 1  # raise it if the same configuration now gives other numbers

    @property
    def class_name(self) -> str:
        """The network's class."""
        return self.network.rpartition(":")[2]

    def read(self, found: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Returns the configuration `found`, the content of `path`, with defaults filled in.

        Raises `UserError`, beginning with `path`, if a field is missing or `check` refuses it.
        """
        config = {**self.defaults, **found}
        missing = [name for name in self.needed if config.get(name) is None]
        if missing:
            raise UserError(f"{path}: has no {missing[0]!r}; is it the configuration of a {self.class_name}?")
        self.check(config, path)
        return config

    @abstractmethod
    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Raises `UserError`, beginning with `path`, for an unsupported network, saying why.

        It must refuse whatever `steps` cannot number or `run` cannot condition, which would silently give wrong
        features.
        """

    @abstractmethod
    def steps(self, config: Mapping[str, Any]) -> tuple[list[Step], float]:
        """Returns the steps up to each block, in the order in which they run, and the cost after the last one.

        Names, channels and sizes are those of the modules' outputs as returned by `as_map`; costs are
        multiply-accumulates per image, computed from shapes.
        """

    def blocks(self, config: Mapping[str, Any]) -> list[Block]:
        """Returns the table of blocks, numbered from 1."""
        return numbered(*self.steps(config))

    def middle(self, blocks: list[Block]) -> Block:
        """Returns the block called "mid"; unless overridden, the one at half depth."""
        return blocks[(len(blocks) - 1) // 2]

    def parts(self, pipeline: Pipeline, config: Mapping[str, Any]) -> Parts:
        """Returns the other parts of the pipeline that the network needs; none unless overridden.

        Raises `UserError`, beginning with a path, for parts that are missing or do not match the network.
        """
        return Parts(config["sample_size"], config["in_channels"], [], [], [])

    def process(self, pipeline: Pipeline) -> NoiseProcess:
        """Reads the noise process that the network was trained with; raises `UserError` if it is unknown."""
        if pipeline.scheduler is None:
            raise UserError(
                f"{pipeline.root}: has no scheduler/scheduler_config.json, and latent models have no default "
                "schedule; give the folder of the whole pipeline"
            )
        return process_of(read_json(pipeline.scheduler), str(pipeline.scheduler))

    def index(self) -> dict[str, Any] | None:
        """Returns the model_index.json with which diffusers opens an artifact as a pipeline; None if it cannot."""
        return None

    def build(self, config: Mapping[str, Any]) -> Any:
        """Returns the network with random weights, initialised from torch's current random state."""
        return load_attribute(self.network).from_config(dict(config))

    def write_parts(self, pipeline: Pipeline, folder: Path) -> None:  # noqa: B027
        """Copies the parts that `parts` returned into an artifact's folder; none unless overridden."""

    def open_network(self, folder: Path, device: "torch.device | str" = "cpu") -> Any:
        """Opens the network of an artifact on a device, in the type that `backbone.torch_dtype` chose."""
        place = folder / self.folder
        return open_weights(self.network, place, dtype=dtype_of(read_json(place / CONFIG)), device=device)

    def open_autoencoder(self, folder: Path) -> Any:
        """Opens the autoencoder that `encode` and `decode` take; None unless overridden."""
        return None

    def open_condition(self, folder: Path) -> "torch.Tensor | None":
        """Opens the condition that `run` takes besides image and timestep; None unless overridden."""
        return None

    def encode(self, autoencoder: Any, x_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns what noise is added to (float32), for images [B, C, H, W] in [-1, 1]; must be deterministic."""
        return x_BCHW

    def decode(self, autoencoder: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns images in [-1, 1], the inverse of `encode`."""
        return z_BCHW

    @abstractmethod
    def run(
        self, network: Any, z_BCHW: "torch.Tensor", time_B: "torch.Tensor", condition: "torch.Tensor | None"
    ) -> "torch.Tensor":
        """Returns all output channels of the network under the null condition.

        The first channels, as many as in the noised samples, are the prediction; a learnt variance may follow.
        """

    def as_map(self, network: Any, activation: "torch.Tensor") -> "torch.Tensor":
        """Returns a block's output as a feature map [B, C', H', W']; unchanged unless overridden."""
        return activation


def family_named(name: str) -> Family:
    """Returns the family of a diffusers class; raises `UserError` with the closest name if there is none."""
    family: Family = FAMILIES.load(name)
    return family


def family_of(config: Mapping[str, Any]) -> Family:
    """Returns the family of a network's configuration."""
    return family_named(config.get("_class_name", UNNAMED))


def blocks(config: Mapping[str, Any]) -> list[Block]:
    """Returns the table of blocks of a network's configuration."""
    return family_of(config).blocks(config)


def build_network(config: Mapping[str, Any]) -> Any:
    """Returns an untrained network, initialised from torch's current random state."""
    return family_of(config).build(config)


def network_folders() -> list[str]:
    """Returns the folders in which pipelines keep their network."""
    return list(dict.fromkeys(family_named(name).folder for name in FAMILIES.names()))


def hub_patterns(variant: str | None = None) -> list[str]:
    """Returns patterns of all files that any family reads: configurations and safetensors, no code or pickles.

    Weights are those of a variant, or those that have none.
    """
    own = [pattern for name in FAMILIES.names() for pattern in family_named(name).hub_files]
    networks = [f"{folder}/{file}" for folder in network_folders() for file in ("*.json", WEIGHTS)]
    found = ["*.json", WEIGHTS, "scheduler/*.json", *networks, *own]
    return list(dict.fromkeys(form for pattern in found for form in _forms(pattern, variant)))


def _forms(pattern: str, variant: str | None) -> list[str]:
    return weight_files.patterns(pattern, variant) if pattern.endswith(".safetensors") else [pattern]


def dtype_of(config: Mapping[str, Any]) -> str:
    """Returns the type in which a network's weights are held, by torch's name, from its configuration."""
    return str(config.get(DTYPE, "float32"))


def open_weights(
    network: str, folder: Path, *, dtype: str = "float32", device: "torch.device | str" = "cpu"
) -> Any:
    """Opens a diffusers network, "module:class", from its folder, directly in a type and on a device.

    No other copy of it is held: each tensor is converted and moved on its own. Nothing stays mapped to the file,
    which may be evicted or damaged meanwhile.
    """
    import torch
    from diffusers.utils import logging

    logging.disable_progress_bar()  # it would overwrite the sweep's display
    found = load_attribute(network).from_pretrained(
        folder,
        use_safetensors=True,
        low_cpu_mem_usage=True,
        torch_dtype=getattr(torch, dtype),
        device_map={"": str(device)},
    )
    for tensor in [*found.parameters(), *found.buffers()]:
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
    return found


def read_network(folder: Path) -> dict[str, Any]:
    """Returns the config.json of a supported network; raises `UserError` for any other."""
    path = folder / CONFIG
    found = read_json(path)
    kind = found.get("_class_name", UNNAMED)
    if kind not in FAMILIES.names():
        raise UserError(
            f"{folder}: holds a {kind}; backbone 'pretrained' reads {', '.join(FAMILIES.names())}"
        )
    return family_named(kind).read(found, path)


def check_numbers(values: Mapping[str, Any], path: Path) -> None:
    """Raises `UserError`, beginning with `path`, unless all values are positive integers."""
    for name, value in values.items():
        if not positive(value):
            raise UserError(f"{path}: {name} = {value!r}: expected a positive integer")


def positive(value: Any) -> bool:
    """Returns whether a JSON value is a positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
