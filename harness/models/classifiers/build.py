"""Builds the original networks of study 2: images in [-1, 1] to logits. Their configuration is in `networks`."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel
from transformers.models.auto.image_processing_auto import get_image_processor_config

from harness.core.errors import UserError
from harness.core.registry import load_attribute
from harness.core.stages import Context, Stage
from harness.models.classifiers.convnet import ConvNet
from harness.models.classifiers.networks import NETWORKS, Outline, ResNets, Transformers
from harness.models.encoders.vision import Preparation, preparation_of, quiet

WEIGHTS = "network.safetensors"
HEAD_SEED = 0  # of the head that replaces that of a checkpoint for other classes
NOT_ARCHITECTURE = (  # of a config.json: its origin, and the names of its classes
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "num_labels",
    "torch_dtype",
    "transformers_version",
)


class Classifier(nn.Module):
    """A classifier of transformers that returns logits. Its tensors keep their names."""

    def __init__(self, network: PreTrainedModel, preparation: Preparation | None) -> None:
        super().__init__()
        self.__dict__["network"] = network  # not a child module, whose name would prefix all others
        self._parameters, self._buffers = network._parameters, network._buffers
        self._modules = network._modules
        self.preparation = preparation

    def train(self, mode: bool = True) -> Self:
        """Sets the network's own mode too."""
        self.__dict__["network"].training = mode
        return super().train(mode)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns logits [B, classes] for images in [-1, 1], prepared as the pretrained checkpoint expects them."""
        if self.preparation is not None:
            x_BCHW = self.preparation(x_BCHW)
        logits: torch.Tensor = self.__dict__["network"](pixel_values=x_BCHW).logits
        return logits


def build(settings: Mapping[str, Any]) -> nn.Module:
    """Returns an untrained network with `.forward(x_BCHW in [-1, 1])` -> logits [B, classes].

    `settings` are those of `Network.settings`: the network's options, the images' channels and size, the number of
    classes.
    """
    network: nn.Module = load_attribute(NETWORKS.load(settings["name"]).builder)(settings)
    return network


def build_convnet(settings: Mapping[str, Any]) -> nn.Module:
    """Returns a ConvNet."""
    return ConvNet(settings["channels"], settings["widths"], settings["classes"], settings["groups"])


def build_mlp(settings: Mapping[str, Any]) -> nn.Module:
    """Returns a perceptron on flattened images."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = settings["channels"] * settings["size"] ** 2
    for number, after in enumerate(settings["widths"], start=1):
        layers[f"hidden{number}"] = nn.Linear(width, after)
        layers[f"relu{number}"] = nn.ReLU()
        width = after
    layers["fc"] = nn.Linear(width, settings["classes"])
    return nn.Sequential(layers)


def build_transformers(settings: Mapping[str, Any]) -> nn.Module:
    """Returns an untrained classifier of transformers, with the architecture of its checkpoint if it has one."""
    checkpoint = settings["checkpoint"]
    if checkpoint is not None:
        config = _config(checkpoint["config"], settings["classes"])
        return Classifier(_drawn(config), _preparation(checkpoint["preparation"]))
    model = NETWORKS.load(settings["name"])
    options = {name: value for name, value in settings.items() if name in model.model_fields}
    network: Transformers = model.model_validate(options)
    values = network.architecture(settings["channels"], settings["size"])
    built = _drawn(_config({"model_type": network.kind, **values}, settings["classes"]))
    if isinstance(network, ResNets) and network.small_stem(settings["size"]):
        _shrink_stem(built)
    mean, deviation = settings["image_mean"], settings["image_std"]
    values = {
        "size": None,
        "crop": None,
        "mode": "bilinear",
        "scale": 1.0,
        "mean": mean,
        "deviation": deviation,
    }
    return Classifier(built, _preparation(values) if mean is not None else None)


def outline_of(settings: Mapping[str, Any]) -> Outline:
    """Returns names and shapes of a network's tensors; raises `UserError` if such images cannot pass through it."""
    channels, size = settings["channels"], settings["size"]
    _check_channels(settings)
    with torch.device("meta"):
        network = build(settings).eval()
        try:
            with torch.no_grad():
                network(torch.zeros(2, channels, size, size))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"weights.network: images of {channels} x {size} x {size} cannot pass through {settings['name']} "
                f"({_first_line(error)}); {_other_size(settings)}"
            ) from None
    return tensors(network)


def tensors(network: nn.Module) -> Outline:
    """Returns names and shapes of a network's parameters, and of its floating-point buffers that are saved."""
    saved = network.state_dict(keep_vars=True)
    return Outline(
        {name: tuple(value.shape) for name, value in network.named_parameters()},
        {
            name: tuple(value.shape)
            for name, value in network.named_buffers()
            if name in saved and value.is_floating_point()
        },
    )


def read_checkpoint(path: str, folder: str) -> dict[str, Any]:
    """Returns `config`, the architecture of an image classifier of transformers, and its `preparation` of images.

    `folder` holds the configuration files of what the user calls `path`. Raises `UserError` if there is none.
    """
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            settings = get_image_processor_config(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"weights.network.path {path!r}: transformers finds no model there ({_first_line(error)}); give a folder "
            "that save_pretrained wrote, or an id of the Hub"
        ) from None
    if type(config) not in AutoModelForImageClassification._model_mapping:
        raise UserError(
            f"weights.network.path {path!r}: transformers has no image classifier of the type {config.model_type}; "
            "give one such as microsoft/resnet-18"
        )
    values = {name: value for name, value in config.to_dict().items() if name not in NOT_ARCHITECTURE}
    preparation = preparation_of(settings, config)._replace(size=None, crop=None)
    plain: dict[str, Any] = json.loads(json.dumps({"config": values, "preparation": preparation._asdict()}))
    return plain


def make_start(stage: Stage, folder: Path, context: Context) -> None:
    """Writes a checkpoint's tensors, with a random head if the classes differ. Raises `UserError`."""
    path, revision = stage.options["path"], stage.options["revision"]
    settings = stage.config["network"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(HEAD_SEED)
        drawn = build(settings).state_dict()
    found = _load(path, revision)
    with torch.device("meta"):
        other = build({**settings, "classes": settings["classes"] + 1}).state_dict()
    head = {name for name, value in drawn.items() if value.shape != other[name].shape}
    for name, value in drawn.items():
        if name not in head and (name not in found or found[name].shape != value.shape):
            raise UserError(
                f"weights.network.path {path!r}: the weights lack {name!r} of {list(value.shape)}; save the complete "
                "classifier with save_pretrained"
            )
    kept = all(name in found and found[name].shape == drawn[name].shape for name in head)
    taken = {name for name in drawn if kept or name not in head}
    state = {name: (found[name] if name in taken else drawn[name]).contiguous() for name in drawn}
    save_file(state, folder / WEIGHTS)


def _load(path: str, revision: str | None) -> dict[str, torch.Tensor]:
    """Returns the tensors that a checkpoint has, without those that transformers initialises."""
    try:
        with quiet():
            network, info = AutoModelForImageClassification.from_pretrained(
                path,
                revision=revision,
                trust_remote_code=False,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"weights.network.path {path!r}: cannot be read by transformers: {_first_line(error)}"
        ) from None
    state: dict[str, torch.Tensor] = network.state_dict()
    return {name: value for name, value in state.items() if name not in info["missing_keys"]}


def _config(values: Mapping[str, Any], classes: int) -> PretrainedConfig:
    return AutoConfig.for_model(**values, num_labels=classes)


def _drawn(config: PretrainedConfig) -> PreTrainedModel:
    # Attention written out, as `torch.func.vmap` runs it for many networks at once.
    network: PreTrainedModel = AutoModelForImageClassification.from_config(
        config, trust_remote_code=False, attn_implementation="eager"
    )
    return network


def _preparation(values: Mapping[str, Any]) -> Preparation:
    mean, deviation = tuple(values["mean"]), tuple(values["deviation"])
    return Preparation(**{**values, "mean": mean, "deviation": deviation})


def _shrink_stem(network: PreTrainedModel) -> None:
    """Gives a ResNet 3 x 3 pixels with stride 1 as its first convolution, and no pooling after it."""
    stem = network.resnet.embedder
    large = stem.embedder.convolution
    stem.embedder.convolution = nn.Conv2d(large.in_channels, large.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.embedder.convolution.weight, mode="fan_out", nonlinearity="relu")
    stem.pooler = nn.Identity()


def _check_channels(settings: Mapping[str, Any]) -> None:
    """Raises `UserError` for images that a network cannot read; pretrained ones repeat a single channel."""
    reads = settings["checkpoint"]["config"].get("num_channels", 3) if settings["checkpoint"] else None
    if reads is not None and settings["channels"] not in (1, reads):
        raise UserError(
            f"weights.network.path: the checkpoint reads images of {reads} channels, the data has "
            f"{settings['channels']}; give other data, or a network without path"
        )
    for option in ("image_mean", "image_std"):
        given = settings.get(option)
        if given is not None and len(given) != settings["channels"]:
            raise UserError(
                f"weights.network.{option} = {given}: expected one number per channel of "
                f"the images, {settings['channels']}"
            )


def _other_size(settings: Mapping[str, Any]) -> str:
    checkpoint = settings["checkpoint"]
    size = checkpoint["config"].get("image_size") if checkpoint else None
    return f"set data.size to {size}" if size else "give a larger data.size or a smaller network"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
