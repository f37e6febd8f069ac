"""The contract of a backbone family: all that depends on the type of diffusion network. No torch at import.

Adding a family is one file with a subclass of `Family`, one line in `FAMILIES` (or an entry point
"backbone_family.CLASS" of the group `harness.plugins`), and one subclass of
`harness.testing.backbones.BackboneFamilyContract`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.apart import apart
from harness.core.config import read_json
from harness.core.errors import UserError
from harness.core.registry import Registry, load_attribute
from harness.models.autoencoders.autoencoder import AUTOENCODERS, latent_parts
from harness.models.backbones import weight_files
from harness.models.backbones.blocks import Block, Point, Step, numbered
from harness.models.backbones.condition import Condition, ConditionPlan
from harness.models.backbones.pipeline import CONFIG, DTYPE, WEIGHTS, Parts, Pipeline
from harness.models.backbones.unsupported import unsupported
from harness.models.noise_processes.process import NoiseProcess

if TYPE_CHECKING:
    import torch

# By the `_class_name` of the network's config.json.
FAMILIES = Registry(
    "backbone family",
    {
        "UNet2DModel": "harness.models.backbones.unet:FAMILY",
        "UNet2DConditionModel": "harness.models.backbones.conditional_unet:FAMILY",
        "DiTTransformer2DModel": "harness.models.backbones.dit:FAMILY",
        "OriginalDiTTransformer2DModel": "harness.models.backbones.dit:ORIGINAL",
        "Transformer2DModel": "harness.models.backbones.transformer_2d:FAMILY",
        "PixArtTransformer2DModel": "harness.models.backbones.pixart:FAMILY",
        "HunyuanDiT2DModel": "harness.models.backbones.hunyuan_dit:FAMILY",
        "SD3Transformer2DModel": "harness.models.backbones.sd3:FAMILY",
        "ADMUNet2DModel": "harness.models.backbones.adm:FAMILY",
        "FluxTransformer2DModel": "harness.models.backbones.flux:FAMILY",
        "Flux2Transformer2DModel": "harness.models.backbones.flux2:FAMILY",
        "AuraFlowTransformer2DModel": "harness.models.backbones.aura_flow:FAMILY",
        "ChromaTransformer2DModel": "harness.models.backbones.chroma:FAMILY",
        "QwenImageTransformer2DModel": "harness.models.backbones.qwen_image:FAMILY",
        "SanaTransformer2DModel": "harness.models.backbones.sana:FAMILY",
        "Lumina2Transformer2DModel": "harness.models.backbones.lumina2:FAMILY",
        "ZImageTransformer2DModel": "harness.models.backbones.z_image:FAMILY",
    },
)
UNNAMED = "UNet2DModel"  # the class of a config.json without `_class_name`
# Of diffusers' `EMAModel`, which writes its state into the network's config.json.
AVERAGING = (
    "decay",
    "min_decay",
    "optimization_step",
    "update_after_step",
    "use_ema_warmup",
    "inv_gamma",
    "power",
)


class Family(ABC):
    """One type of diffusion network: a diffusers class, and how to read, run and probe it.

    A family is a stateless singleton. `config` is always what `read` returned, `pipeline` the folder of a pipeline as
    published by its author, `folder` that of a backbone's artifact: the network in the family's `folder`, the
    autoencoder, and the noise process. Noise is added to a map [C, S, S] of `size` S: images, or latents of the
    pipeline's autoencoder. The methods from `build` on need torch; plans call all others, which must not import it.
    """

    network: ClassVar[str]  # "module:class" of the network, a diffusers `ModelMixin`
    folder: ClassVar[str]  # of the network in a pipeline
    needed: ClassVar[Sequence[str]]  # required fields of config.json
    defaults: ClassVar[Mapping[str, Any]] = {}  # diffusers' defaults of fields that config.json may omit
    hub_files: ClassVar[
        Sequence[str]
    ] = ()  # patterns of further files to download, besides network, autoencoder and scheduler; no code
    autoencoders: ClassVar[Sequence[str]] = ()  # folders of a pipeline that may hold the autoencoder
    latent: ClassVar[bool] = False  # the network has no pixel variant: an autoencoder is required
    conditions: ClassVar[Sequence[str]] = ()  # settings of `Condition` that the network takes
    original: ClassVar[str | None] = None  # "module:function" that converts files of its authors' own code
    # By the path of a list of blocks, the field of config.json with their number; in the order in which they run.
    stacks: ClassVar[Mapping[str, str]] = {"transformer_blocks": "num_layers"}
    version: ClassVar[int] = 1  # raise it if the same configuration now gives other numbers

    @property
    def class_name(self) -> str:
        """The network's class."""
        return self.network.rpartition(":")[2]

    def variants(self) -> "Sequence[Family]":
        """Returns the families of this class of network: itself, unless it has uses that differ in condition."""
        return (self,)

    def variant(self, config: Mapping[str, Any]) -> "Family":
        """Returns that of `variants` which reads a configuration; `config` is a content of config.json."""
        return self

    # Reading.

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

    def trained_by(self, config: Mapping[str, Any], code: str) -> dict[str, Any]:
        """Returns the configuration of the network as one of two codes trains it: "original" or "diffusers".

        Raises `UserError` for a family of which both build the same network, unless overridden.
        """
        raise UserError(
            f"backbone.trained_by = {code} is for DiT, whose original code differs from diffusers'; a "
            f"{self.class_name} takes none, so leave it out"
        )

    def notes(self, config: Mapping[str, Any]) -> list[str]:
        """Returns lines for plans: what of the network was chosen where its files do not tell; none by default."""
        return []

    def map_size(self, config: Mapping[str, Any]) -> int | None:
        """Returns the size of the noised maps that the network was built for; None if it reads maps of any size."""
        return config["sample_size"]

    def patch(self, config: Mapping[str, Any]) -> int:
        """Returns the height and width of the patches that become tokens, which must divide the map; 1 for none."""
        return config.get("patch_size", 1)

    def channels(self, config: Mapping[str, Any]) -> int:
        """Returns the channels of the noised maps."""
        return config["in_channels"]

    def parts(self, pipeline: Pipeline, config: Mapping[str, Any], size: int) -> Parts:
        """Returns the other parts of the pipeline that the network needs, for images of `size` pixels.

        Raises `UserError`, beginning with a path, for parts that are missing or do not match the network.
        """
        name = next((name for name in self.autoencoders if pipeline.part(name)), None)
        channels, map_size = self.channels(config), self.map_size(config)
        if name is not None:
            return latent_parts(
                pipeline.root / name, self.class_name, channels, map_size, size, self.patch(config)
            )
        if self.latent:
            raise UserError(
                f"{pipeline.root}: a {self.class_name} denoises latents, but there is no folder "
                f"{' or '.join(self.autoencoders)}; give the folder of the whole pipeline"
            )
        return Parts(map_size or size, channels, map_size or size)

    def process(
        self, found: NoiseProcess, config: Mapping[str, Any], path: Path, map_size: int
    ) -> NoiseProcess:
        """Returns the noise process of the network, given that of the scheduler; the same unless overridden.

        `map_size` is the height and width of the noised maps. A family adds what a sampler must know of the network,
        such as its number of tokens, or raises `UserError`, beginning with `path`, for a process that its network
        cannot have been trained with.
        """
        return found

    def index(self, folder: Path) -> dict[str, Any] | None:
        """Returns the model_index.json with which diffusers opens an artifact as a pipeline; None if it cannot."""
        return None

    # Blocks.

    def block_names(self, config: Mapping[str, Any]) -> list[str]:
        """Returns the paths of the modules after which features can be read: every block of `stacks`, by default."""
        return [f"{path}.{number}" for path, count in self.stacks.items() for number in range(config[count])]

    def steps(self, config: Mapping[str, Any], size: int) -> tuple[list[Step], float]:
        """Returns the steps up to each block, in the order in which they run, and the cost after the last one.

        `size` is that of the noised map. Names, channels and sizes are those of the modules' outputs as returned by
        `as_map`; costs are multiply-accumulates per image. Unless overridden, all of it is counted in a pass without
        data in another process.
        """
        found = _counted(self.class_name, json.dumps(config, sort_keys=True), size)
        steps = [
            Step(name, channels, side, cost, tuple(Point(*point) for point in points))
            for name, channels, side, cost, points in found["steps"]
        ]
        return steps, found["rest"]

    def blocks(self, config: Mapping[str, Any], size: int) -> list[Block]:
        """Returns the table of blocks, numbered from 1."""
        return numbered(*self.steps(config, size))

    def middle(self, blocks: list[Block]) -> Block:
        """Returns the block called "mid"; unless overridden, the one at half depth."""
        return blocks[(len(blocks) - 1) // 2]

    # The condition.

    def condition(
        self, source: Pipeline | None, config: Mapping[str, Any], given: Condition
    ) -> ConditionPlan | None:
        """Returns the condition under which the network runs; None if it takes none, unless overridden.

        `source` is None for a network that has no pipeline. Raises `UserError` for settings that the network does not
        take, or that it needs and that are not given.
        """
        self.refuse_conditions(given)
        return None

    def refuse_conditions(self, given: Condition) -> None:
        """Raises `UserError` for settings that the network does not take."""
        for name in given.given:
            if name not in self.conditions:
                takes = f"takes {', '.join(self.conditions)}" if self.conditions else "takes no condition"
                raise UserError(f"backbone.{name} is given, but a {self.class_name} {takes}")

    def condition_shapes(self, config: Mapping[str, Any]) -> Mapping[str, Sequence[int]]:
        """Returns the shapes of the condition's tensors, with the usual number of prompt tokens; none by default.

        Those whose names begin with "label" are integers, with "mask" booleans, all others float32.
        """
        return {}

    # With torch.

    def build(self, config: Mapping[str, Any]) -> Any:
        """Returns the network with random weights, initialised from torch's current random state."""
        return load_attribute(self.network).from_config(dict(config))

    def open_network(self, folder: Path, device: "torch.device | str" = "cpu") -> Any:
        """Opens the network of an artifact on a device, in the type that `backbone.torch_dtype` chose."""
        place = folder / self.folder
        return open_weights(self.network, place, dtype=dtype_of(read_json(place / CONFIG)), device=device)

    def make_condition(
        self, source: Pipeline | None, config: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> "dict[str, torch.Tensor]":
        """Returns the tensors of a condition, without a batch dimension; `settings` are those of `condition`."""
        return {}

    @abstractmethod
    def run(
        self,
        network: Any,
        z_BCHW: "torch.Tensor",
        time_B: "torch.Tensor",
        condition: "Mapping[str, torch.Tensor]",
    ) -> "torch.Tensor":
        """Returns all output channels of the network, as a map, under a condition with a batch dimension.

        The first channels, as many as in the noised samples, are the prediction, in the convention of the noise
        process; a learnt variance may follow.
        """

    def as_map(self, network: Any, module: str, output: Any, z_BCHW: "torch.Tensor") -> "torch.Tensor":
        """Returns what a module put out, for the network's input `z_BCHW`, as a feature map [B, C', H', W'].

        `module` is its path: of a block, or of one of its parts.

        Unless overridden, takes the first of several outputs, and arranges tokens [B, N, C'] in a square.
        """
        activation = output[0] if isinstance(output, tuple) else output
        return activation if activation.ndim == 4 else square(activation)

    def points(self, block: str, modules: Sequence[str]) -> dict[str, str]:
        """Returns the parts of a block that can be read: names of `AFTER` to paths of modules.

        `modules` are the paths of all modules of the network. Unless overridden, parts are those within the block's
        module that have the names of diffusers' transformer blocks.
        """
        return parts_of_transformer(block, modules)


@lru_cache(maxsize=64)
def _counted(class_name: str, config: str, size: int) -> dict[str, Any]:
    """Returns what `counting.count` does, of a configuration in JSON; plans of other conditions ask for the same."""
    return apart("harness.models.backbones.counting:count", class_name, json.loads(config), size)


def parts_of_transformer(block: str, modules: Sequence[str]) -> dict[str, str]:
    """Returns the parts of a transformer block of diffusers, names of `AFTER` to paths of modules."""
    known = set(modules)

    def first(*names: str) -> str | None:
        return next((f"{block}.{name}" for name in names if f"{block}.{name}" in known), None)

    attention = first("attn1", "attn", "self_attn", "attention")
    found = {
        "attention": attention,
        "cross-attention": first("attn2", "cross_attn"),
        "mlp": first("ff", "mlp", "feed_forward"),
    }
    if attention is not None:
        inner = {"query": "to_q", "key": "to_k", "value": "to_v"}
        found |= {part: f"{attention}.{path}" for part, path in inner.items()}
    return {part: path for part, path in found.items() if path in known}


def square(tokens_BNC: "torch.Tensor") -> "torch.Tensor":
    """Returns tokens [B, H * W, C] of a square map, row by row, as a map [B, C, H, W]."""
    side = isqrt(tokens_BNC.shape[1])
    if side**2 != tokens_BNC.shape[1]:
        raise ValueError(f"{tokens_BNC.shape[1]} tokens are no square map")
    return tokens_BNC.transpose(1, 2).unflatten(2, (side, side))


def family_named(name: str) -> Family:
    """Returns the family of a diffusers class; raises `UserError` with the closest name if there is none."""
    family: Family = FAMILIES.load(name)
    return family


def family_of(config: Mapping[str, Any]) -> Family:
    """Returns the family of a network's configuration."""
    return family_named(config.get("_class_name", UNNAMED)).variant(config)


def blocks(config: Mapping[str, Any]) -> list[Block]:
    """Returns the table of blocks of a network that was built for one size of maps."""
    family = family_of(config)
    size = family.map_size(config)
    assert size is not None
    return family.blocks(config, size)


def build_network(config: Mapping[str, Any]) -> Any:
    """Returns an untrained network, initialised from torch's current random state."""
    return family_of(config).build(config)


def network_folders() -> list[str]:
    """Returns the folders in which pipelines keep their network."""
    return list(dict.fromkeys(family_named(name).folder for name in FAMILIES.names()))


def hub_patterns(variant: str | None = None, network: str | None = None) -> list[str]:
    """Returns patterns of all files that any family reads: configurations and safetensors, no code or pickles.

    Weights are those of a variant, or those that have none; `network` is the folder of a further network.
    """
    families = [family for name in FAMILIES.names() for family in family_named(name).variants()]
    own = [pattern for family in families for pattern in family.hub_files]
    further = [] if network is None else [network]
    folders = [*network_folders(), *further, *(name for family in families for name in family.autoencoders)]
    networks = [f"{folder}/{file}" for folder in folders for file in ("*.json", WEIGHTS)]
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
    found = {name: value for name, value in read_json(path).items() if name not in AVERAGING}
    kind = found.get("_class_name", UNNAMED)
    if kind not in FAMILIES.names():
        what = unsupported(kind)
        if what is not None:
            raise UserError(f"{folder}: holds a {kind}, {what}")
        raise UserError(
            f"{folder}: holds a {kind}; backbone 'pretrained' reads {', '.join(FAMILIES.names())}; install the "
            "package that adds it, if there is one"
        )
    return family_named(kind).variant(found).read(found, path)


def refuse_unread(folder: Path) -> None:
    """Raises `UserError` if a part of a pipeline's folder is a network of no family, such as one not installed."""
    for path in sorted(folder.glob(f"*/{CONFIG}")):
        kind = read_json(path).get("_class_name")
        if kind is not None and kind not in (*FAMILIES.names(), *AUTOENCODERS.names()):
            read_network(path.parent)


def check_numbers(values: Mapping[str, Any], path: Path) -> None:
    """Raises `UserError`, beginning with `path`, unless all values are positive integers."""
    for name, value in values.items():
        if not positive(value):
            raise UserError(f"{path}: {name} = {value!r}: expected a positive integer")


def check_patches(config: Mapping[str, Any], path: Path) -> None:
    """Raises `UserError`, beginning with `path`, unless patches divide the map."""
    if config["sample_size"] % config["patch_size"]:
        raise UserError(
            f"{path}: patch_size = {config['patch_size']} does not divide sample_size = {config['sample_size']}"
        )


def positive(value: Any) -> bool:
    """Returns whether a JSON value is a positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
