"""Encoders ready to run: a vision model from transformers with its preprocessing, or the pixels themselves.

A stage's folder holds `encoder.json`, with the preprocessing and the names of layers, and a model in transformers'
format. Encoders are configured in `harness.models.encoders.encoder`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, ResNetConfig, ResNetModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.utils import cached_file, logging

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.core.stages import Context, Stage
from harness.models.encoders.encoder import POOLED, PREPROCESSING, layer_names

FILE = "encoder.json"
CROPPED_BELOW = 384  # `crop_pct` applies to sizes below this many pixels
MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}  # torch's names of PIL's resampling filters


class Preparation(NamedTuple):
    """The preprocessing of an image in [0, 1]."""

    size: tuple[int, int] | None  # resized to this height and width; None: not resized
    crop: tuple[int, int] | None  # then centre-cropped to this height and width
    mode: str  # of the resizing
    scale: float  # then multiplied
    mean: tuple[float, ...]  # then standardised, one value per channel
    deviation: tuple[float, ...]

    def __call__(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Prepares images [B, C, H, W] in [-1, 1]; a single channel is repeated for models that read three."""
        x_BCHW = (x_BCHW.float() + 1) / 2
        if x_BCHW.shape[1] == 1:
            x_BCHW = x_BCHW.expand(-1, len(self.mean), -1, -1)
        if self.size is not None and tuple(x_BCHW.shape[2:]) != self.size:
            smooth = {} if self.mode == "nearest-exact" else {"antialias": True, "align_corners": False}
            for size in ((x_BCHW.shape[2], self.size[1]), self.size):  # width first, and clipped, as PIL does
                x_BCHW = functional.interpolate(x_BCHW, size, mode=self.mode, **smooth).clamp(0, 1)
        if self.crop is not None:
            top, left = (
                max(0, (side - kept) // 2) for side, kept in zip(x_BCHW.shape[2:], self.crop, strict=True)
            )
            x_BCHW = x_BCHW[:, :, top : top + self.crop[0], left : left + self.crop[1]]
        mean, deviation = (
            torch.tensor(values, device=x_BCHW.device)[:, None, None]
            for values in (self.mean, self.deviation)
        )
        return (self.scale * x_BCHW - mean) / deviation


class PixelEncoder:
    """The images themselves, flattened."""

    def __init__(self) -> None:
        self.layers = [POOLED]

    def to(self, device: torch.device) -> Self:
        """Does nothing: there are no weights to move."""
        return self

    def features(self, x_BCHW: torch.Tensor, layers: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Returns the pixels [B, C * H * W]."""
        return {POOLED: self.pooled(x_BCHW)}

    def pooled(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns the pixels [B, C * H * W]."""
        return x_BCHW.float().flatten(1)


class VisionEncoder:
    """A transformers model: its hidden states averaged over positions, and its vector for the whole image."""

    def __init__(
        self, model: PreTrainedModel, preparation: Preparation, layers: Sequence[str], pooling: str
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.preparation, self.layers, self.pooling = preparation, list(layers), pooling
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> Self:
        """Moves the model to `device`."""
        self.model.to(device)
        self._device = device
        return self

    @torch.no_grad()
    def features(self, x_BCHW: torch.Tensor, layers: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Returns float32 [B, D] by layer for images [B, C, H, W] in [-1, 1]; None means all layers."""
        output = run(self.model, self.preparation(x_BCHW.to(self._device)))
        values = [averaged(one) for one in hidden_states(output)]
        found = dict(zip(self.layers, [*values, _pooled(output, self.pooling)], strict=True))
        return {layer: found[layer] for layer in (self.layers if layers is None else layers)}

    @torch.no_grad()
    def pooled(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Returns float32 [B, D], one vector per image [B, C, H, W] in [-1, 1]."""
        return _pooled(run(self.model, self.preparation(x_BCHW.to(self._device))), self.pooling)


def run(model: PreTrainedModel, x_BCHW: torch.Tensor) -> Any:
    """Returns the output for preprocessed images. A masked autoencoder sees all patches, in order."""
    more = {}
    if model.config.model_type == "vit_mae":
        patches = model.embeddings.patch_embeddings.num_patches
        more["noise"] = torch.arange(patches, device=x_BCHW.device).float().expand(len(x_BCHW), patches)
    return model(pixel_values=x_BCHW, output_hidden_states=True, **more)


def hidden_states(output: Any) -> Sequence[torch.Tensor]:
    """Returns the first layer's input and every layer's output, as maps if the model provides them."""
    maps = getattr(output, "reshaped_hidden_states", None)
    return output.hidden_states if maps is None else maps


def averaged(hidden: torch.Tensor) -> torch.Tensor:
    """Returns [B, D], the mean over the positions of a map [B, D, H, W] or over tokens [B, N, D]."""
    if hidden.ndim == 4:
        return hidden.float().mean((2, 3))
    return hidden.float().mean(1) if hidden.ndim == 3 else hidden.float()


def _pooled(output: Any, pooling: str) -> torch.Tensor:
    if pooling == "pooler":
        return output.pooler_output.float().flatten(1)
    last = output.last_hidden_state
    return last[:, 0].float() if pooling == "class token" else averaged(last)


def open_pixels(folder: Path) -> PixelEncoder:
    """Returns the encoder that outputs the pixels."""
    return PixelEncoder()


def open_transformers(folder: Path) -> VisionEncoder:
    """Opens what `copy_pretrained` or `save_random` wrote."""
    about = json.loads((folder / FILE).read_text(encoding="utf-8"))
    with quiet():
        model = AutoModel.from_pretrained(folder, trust_remote_code=False, dtype=torch.float32)
    return VisionEncoder(model, _preparation(about["preparation"]), about["layers"], about["pooling"])


def save_pixels(stage: Stage, folder: Path, context: Context) -> None:
    """Writes metadata only."""
    (folder / FILE).write_text(json.dumps({"layers": [POOLED]}), encoding="utf-8")


def save_random(stage: Stage, folder: Path, context: Context) -> None:
    """Writes a ResNet with random weights from the stage's seed."""
    widths, size = stage.config["widths"], stage.config["size"]
    config = ResNetConfig(
        embedding_size=widths[0], hidden_sizes=widths, depths=[1] * len(widths), layer_type="basic"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.config["seed"])
        model = ResNetModel(config)
    half = (0.5, 0.5, 0.5)
    _save(model, Preparation((size, size), None, "bilinear", 1.0, half, half), True, folder)


def copy_pretrained(stage: Stage, folder: Path, context: Context) -> None:
    """Writes the vision part of a pretrained model. Raises `UserError`."""
    path, revision = stage.options["path"], stage.options["revision"]
    model, trained = load_pretrained(path, revision)
    preparation = preparation_of(_preprocessing(path, revision), model.config)
    _save(model, preparation, trained, folder)


def load_pretrained(path: str, revision: str | None = None) -> tuple[PreTrainedModel, bool]:
    """Returns the vision part of a model, and whether its pooler, if any, was trained.

    Raises `UserError` for a model that does not read images, whose code is not in transformers, or whose weights
    are incomplete.
    """
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        config = getattr(config, "vision_config", config)
        if config.model_type == "vit_mae":
            config.mask_ratio = 0.0
        with quiet():
            model, info = MODEL_MAPPING[type(config)].from_pretrained(
                path,
                revision=revision,
                config=config,
                trust_remote_code=False,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"encoder.path {path!r}: cannot be read by transformers: {error}") from None
    if model.main_input_name != "pixel_values":
        raise UserError(f"encoder.path {path!r}: a {type(model).__name__} does not read images")
    missing = {key for key in info["missing_keys"] if "mask_token" not in key}
    pooler = {key for key in missing if "pooler" in key}
    if missing - pooler:
        raise UserError(
            f"encoder.path {path!r}: the weights lack {min(missing - pooler)!r} "
            f"({len(missing - pooler)} tensors in all) of a {type(model).__name__}"
        )
    return model, not pooler


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' progress bars and its warnings about tensors that are skipped on purpose."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _pooling(model: PreTrainedModel, output: Any, trained: bool) -> str:
    """Returns the pooling that gives one vector per image. DINO's checkpoints, for one, lack their class's pooler."""
    if trained and getattr(output, "pooler_output", None) is not None:
        return "pooler"
    return "class token" if any("cls_token" in name for name, _ in model.named_parameters()) else "mean"


def _preprocessing(path: str, revision: str | None) -> dict[str, Any]:
    """Returns a model's preprocessor_config.json, or an empty dictionary."""
    for name in PREPROCESSING:
        found = cached_file(path, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        if found is not None:
            values = read_json(Path(found))
            return values.get("image_processor", values)
    return {}


def preparation_of(settings: Mapping[str, Any], config: PretrainedConfig) -> Preparation:
    """Reads a preprocessor_config.json; missing values have transformers' defaults."""
    settings = {name: value for name, value in settings.items() if value is not None}
    channels = getattr(config, "num_channels", 3)
    size = _side(settings.get("size", getattr(config, "image_size", None)))
    crop = None
    if settings.get("do_center_crop", "crop_size" in settings):
        crop = _side(settings.get("crop_size", size))
    elif size is not None and size[0] < CROPPED_BELOW and (share := _crop_share(settings)):
        size, crop = (int(size[0] / share), int(size[1] / share)), size
    if not settings.get("do_resize", True):
        size = None
    normalised = settings.get("do_normalize", True)
    mean, deviation = (
        _numbers(settings.get(name, 0.5) if normalised else neutral, channels)
        for name, neutral in (("image_mean", 0.0), ("image_std", 1.0))
    )
    factor = settings.get("rescale_factor") if settings.get("do_rescale", True) else None
    return Preparation(
        size=size,
        crop=crop,
        mode=MODES.get(settings.get("resample", 2), "bilinear"),
        scale=255.0 * factor if factor else 1.0,
        mean=mean,
        deviation=deviation,
    )


def _crop_share(settings: Mapping[str, Any]) -> float | None:
    """Returns the share of the resized image that a processor such as ConvNeXt's crops; None for others."""
    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type") or ""
    return settings.get("crop_pct", 0.875 if "ConvNext" in kind else None)


def _side(size: Any) -> tuple[int, int] | None:
    """Returns height and width from any of transformers' formats; images here are square."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or [size["height"], size["width"]]
    if isinstance(size, list | tuple):
        return (int(size[0]), int(size[1]))
    return None if size is None else (int(size), int(size))


def _numbers(value: Any, channels: int) -> tuple[float, ...]:
    return tuple(map(float, value)) if isinstance(value, list | tuple) else (float(value),) * channels


def _preparation(values: Mapping[str, Any]) -> Preparation:
    lists: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return Preparation(**lists)


@torch.no_grad()
def _save(model: PreTrainedModel, preparation: Preparation, trained: bool, folder: Path) -> None:
    """Saves a model, after passing one image through it to find its layers."""
    side = getattr(model.config, "image_size", None) or 32
    height, width = preparation.crop or preparation.size or _side(side) or (32, 32)
    blank_BCHW = torch.zeros(1, getattr(model.config, "num_channels", 3), height, width)
    try:
        output = run(model.eval(), blank_BCHW)
        layers = layer_names(len(hidden_states(output)) - 1)
        pooling = _pooling(model, output, trained)
        _pooled(output, pooling)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"encoder {type(model).__name__}: fails on an image of {height} x {width} pixels: {error}"
        ) from None
    if not trained:
        model.pooler = None  # untrained and not used
    with quiet():
        model.save_pretrained(folder)
    about = {"layers": layers, "pooling": pooling, "preparation": preparation._asdict()}
    (folder / FILE).write_text(json.dumps(about), encoding="utf-8")
