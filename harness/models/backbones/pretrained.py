"""Backbones in diffusers' format, by folder or by Hub id: what they are, checked before anything runs. No torch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.core.config import read_json
from harness.core.errors import UserError
from harness.core.fingerprint import checksum, fingerprint
from harness.core.registry import load_attribute
from harness.models.backbones.backbone import Backbone, BackbonePlan
from harness.models.backbones.blocks import KINDS, PROMPTED, TRANSFORMER, UNET, blocks
from harness.models.backbones.schedule import read_scheduler

WEIGHTS = "diffusion_pytorch_model.safetensors"
PROMPT = "empty_prompt.safetensors"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PARTS = ("unet", "transformer", "vae", "scheduler", "text_encoder", "tokenizer")
ON_HUB = [  # what is fetched: configurations and safetensors, no code and no pickles
    "*.json",
    WEIGHTS,
    PROMPT,
    *(f"{part}/*.json" for part in PARTS),
    *(f"{part}/{WEIGHTS}" for part in ("unet", "transformer", "vae")),
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
]
NEEDED = {
    UNET: ("sample_size", "in_channels", "block_out_channels", "down_block_types", "up_block_types"),
    PROMPTED: ("sample_size", "in_channels", "block_out_channels", "cross_attention_dim"),
    TRANSFORMER: ("sample_size", "in_channels", "num_layers", "num_attention_heads", "attention_head_dim"),
}
DEFAULTS: dict[
    str, dict[str, Any]
] = {  # of diffusers, where a config.json may leave out what blocks follow from
    UNET: {},
    PROMPTED: {
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "out_channels": 4,
    },
    TRANSFORMER: {"patch_size": 2, "num_embeds_ada_norm": 1000},
}
OTHER_CONDITIONS = (  # of a UNet2DConditionModel, beside the prompt
    "addition_embed_type",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
    "dual_cross_attention",
    "only_cross_attention",
)


class Folder(NamedTuple):
    """Where the parts of a pipeline lie; None for those that it does not have."""

    root: Path
    network: Path
    vae: Path | None
    scheduler: Path | None
    prompt: Path | None  # the embedding of the empty prompt, if it is kept as a file
    text: tuple[Path, Path] | None  # text encoder and tokenizer


class Pretrained(Backbone):
    """A diffusers model as trained elsewhere, by folder or Hub id.

    A `UNet2DModel`; a `UNet2DConditionModel` (Stable Diffusion), used with the empty prompt, or a
    `DiTTransformer2DModel`, used with the null label, on the latents of their VAE.
    """

    name: Literal["pretrained"] = "pretrained"
    path: str  # a folder that save_pretrained wrote (a pipeline's, or that of its U-Net), or a model id of the Hub
    revision: str | None = None  # of a Hub id: a commit, tag or branch

    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Reads the configurations, checks every tensor's shape and takes the checksum of the weights."""
        folder = find_parts(find_folder(self.path, self.revision))
        network = read_network(folder.network)
        latent = network.get("_class_name") in (PROMPTED, TRANSFORMER)
        vae = _read_vae(folder, network) if latent else None
        scheduler = read_scheduler(
            read_json(folder.scheduler) if folder.scheduler else {}, str(folder.scheduler or folder.root)
        )
        if latent and folder.scheduler is None:
            raise UserError(
                f"{folder.root}: has no scheduler/scheduler_config.json, and a latent model's schedule is no "
                "default; give the folder of the whole pipeline"
            )
        _check_images(folder.network, network, vae, size, channels)
        files = _files(folder, network)
        check = load_attribute("harness.models.backbones.checkpoint:check_tensors")
        check(folder.network / WEIGHTS, network)
        if vae is not None and folder.vae is not None:
            check(folder.vae / WEIGHTS, vae)
        values = [network, scheduler, *([vae] if vae else []), *(checksum(file) for file in files)]
        return BackbonePlan(
            network,
            scheduler,
            blocks(network),
            str(folder.root),
            fingerprint(values),
            dict(vae) if vae else None,
        )


def find_folder(path: str, revision: str | None) -> Path:
    """Returns a local folder: `path` itself, or what the Hub has by that id. Raises `UserError`."""
    try:
        folder = Path(path).expanduser()
        there = bool(path) and folder.is_dir()
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a null character
        there = False
    if there:
        return folder
    if not HUB_ID.fullmatch(path):
        raise UserError(
            f"backbone.path {path[:200]!r}: no such folder; give one that save_pretrained wrote, or a model id of "
            "the Hub, such as google/ddpm-cifar10-32"
        )
    return _fetched(path, revision)


def _fetched(name: str, revision: str | None) -> Path:
    """Returns the folder of a model of the Hub, fetched unless the local cache has it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=ON_HUB))
    except GatedRepoError:
        raise UserError(
            f"backbone.path {name!r}: the Hub asks you to accept its terms first: on its page, then `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"backbone.revision {revision!r}: {name} has no such commit, tag or branch") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"backbone.path {name!r}: neither a folder here nor a model of the Hub; private ones need `hf auth login`"
        ) from None
    except Exception as error:  # no network, a proxy, a full disk: the client has an error for each
        raise UserError(
            f"backbone.path {name!r}: no such folder here, and the Hub cannot be reached ({type(error).__name__}); "
            f"go online once, or copy it here (`hf download {name} --local-dir FOLDER` elsewhere) and give the folder"
        ) from None


def find_parts(root: Path) -> Folder:
    """Returns where a pipeline's parts lie: in folders of their names, or all in one as in early pipelines."""

    def part(name: str) -> Path | None:
        return root / name if (root / name).is_dir() else None

    settings = [root / "scheduler" / "scheduler_config.json", root / "scheduler_config.json"]
    encoder, tokenizer = part("text_encoder"), part("tokenizer")
    return Folder(
        root=root,
        network=part("unet") or part("transformer") or root,
        vae=part("vae"),
        scheduler=next((path for path in settings if path.is_file()), None),
        prompt=root / PROMPT if (root / PROMPT).is_file() else None,
        text=(encoder, tokenizer) if encoder and tokenizer else None,
    )


def read_network(folder: Path) -> dict[str, Any]:
    """Returns the config.json of a network that can be read; raises `UserError` for any other."""
    path = folder / "config.json"
    found = read_json(path)
    kind = found.get("_class_name", UNET)
    if kind not in NEEDED:
        raise UserError(f"{folder}: holds a {kind}; backbone 'pretrained' reads {', '.join(NEEDED)}")
    network = {**DEFAULTS[kind], **found}
    missing = [name for name in NEEDED[kind] if network.get(name) is None]
    if missing:
        raise UserError(f"{path}: has no {missing[0]!r}; is it the configuration of a {kind}?")
    if kind == TRANSFORMER:
        _check_transformer(network, path)
    else:
        _check_unet(network, kind, path)
    return network


def _check_unet(unet: Mapping[str, Any], kind: str, path: Path) -> None:
    """Raises `UserError` for a U-Net whose blocks cannot be numbered, or that asks for more than image and prompt."""
    widths, layers = unet.get("block_out_channels"), unet.get("layers_per_block", 2)
    if not isinstance(widths, list) or not widths or not all(_positive(width) for width in widths):
        raise UserError(f"{path}: block_out_channels = {widths!r}: expected a list of channel counts")
    for name, known in zip(("down_block_types", "up_block_types"), KINDS[kind], strict=True):
        kinds = unet.get(name)
        if not isinstance(kinds, list) or len(kinds) != len(widths) or not set(map(str, kinds)) <= set(known):
            raise UserError(f"{path}: {name} = {kinds!r}: expected {len(widths)} of {', '.join(known)}")
    numbers = {"layers_per_block": layers} | (
        {name: unet.get(name, 1) for name in ("cross_attention_dim", "transformer_layers_per_block")}
        if kind == PROMPTED
        else {}
    )
    _check_numbers({"sample_size": unet["sample_size"], "in_channels": unet["in_channels"], **numbers}, path)
    groups = unet.get("norm_num_groups", 32)
    if not _positive(groups) or any(width % groups for width in widths):
        raise UserError(f"{path}: norm_num_groups = {groups!r} does not divide block_out_channels = {widths}")
    centre = "UNetMidBlock2DCrossAttn" if kind == PROMPTED else "UNetMidBlock2D"
    if unet.get("mid_block_type", centre) != centre:
        raise UserError(f"{path}: mid_block_type = {unet['mid_block_type']!r}: expected {centre}")
    for name in ("downsample_type", "upsample_type"):
        if unet.get(name, "conv") not in ("conv", "resnet"):
            raise UserError(f"{path}: {name} = {unet[name]!r}: expected conv or resnet")
    for name in ("num_class_embeds", "class_embed_type"):
        if unet.get(name) is not None:
            raise UserError(
                f"{path}: {name} = {unet[name]!r}: a class-conditional {kind} has no null label to be read with; "
                "only backbones without class labels can be read, or a DiTTransformer2DModel, which has one"
            )
    if kind == PROMPTED:
        for name in OTHER_CONDITIONS:
            if unet.get(name):
                raise UserError(
                    f"{path}: {name} = {unet[name]!r}: asks for more than a prompt, which cannot be left empty; "
                    "Stable Diffusion 1 and 2 can be read"
                )


def _check_transformer(network: Mapping[str, Any], path: Path) -> None:
    names = (
        "sample_size",
        "in_channels",
        "num_layers",
        "num_attention_heads",
        "attention_head_dim",
        "patch_size",
    )
    _check_numbers({name: network[name] for name in names}, path)
    if network["sample_size"] % network["patch_size"]:
        raise UserError(
            f"{path}: patch_size = {network['patch_size']} does not divide sample_size = {network['sample_size']}"
        )
    if not _positive(network.get("num_embeds_ada_norm")):
        raise UserError(
            f"{path}: num_embeds_ada_norm = {network.get('num_embeds_ada_norm')!r}: without it there is no null label"
        )


def _read_vae(folder: Folder, network: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json of the VAE; raises `UserError` where it, or the empty prompt, is missing."""
    kind = network["_class_name"]
    if folder.vae is None:
        raise UserError(
            f"{folder.root}: a {kind} denoises latents, and there is no folder vae; give the folder of "
            "the whole pipeline"
        )
    path = folder.vae / "config.json"
    vae = read_json(path)
    if vae.get("_class_name", "AutoencoderKL") != "AutoencoderKL" or vae.get("shift_factor"):
        raise UserError(
            f"{path}: holds a {vae.get('_class_name')}: expected an AutoencoderKL without shift_factor"
        )
    widths, latents = vae.get("block_out_channels", [64]), vae.get("latent_channels", 4)
    if not isinstance(widths, list) or not widths or latents != network["in_channels"]:
        raise UserError(
            f"{path}: latent_channels = {latents!r}, the {kind} has in_channels = {network['in_channels']}; a model "
            "that sees more than latents (in-painting) cannot be read"
        )
    if kind == PROMPTED:
        _check_prompt(folder, network["cross_attention_dim"])
    return {"in_channels": 3, "block_out_channels": [64], "scaling_factor": 0.18215, **vae}


def _check_prompt(folder: Folder, width: int) -> None:
    """Raises `UserError` unless the empty prompt is there, or what makes its embedding."""
    if folder.prompt is None and folder.text is None:
        raise UserError(
            f"{folder.root}: has neither text_encoder and tokenizer nor {PROMPT}, which the empty prompt needs; "
            "give the folder of the whole pipeline"
        )
    if folder.prompt is None and folder.text is not None:
        encoder = read_json(folder.text[0] / "config.json")
        if encoder.get("hidden_size") != width:
            raise UserError(
                f"{folder.text[0] / 'config.json'}: hidden_size = {encoder.get('hidden_size')!r}, the network has "
                f"cross_attention_dim = {width}"
            )


def _check_images(
    place: Path, network: Mapping[str, Any], vae: Mapping[str, Any] | None, size: int, channels: int
) -> None:
    """Raises `UserError` for images of another size or channel count than the backbone was trained on."""
    factor = 2 ** (len(vae["block_out_channels"]) - 1) if vae else 1
    wanted = (network["sample_size"] * factor, vae["in_channels"] if vae else network["in_channels"])
    if wanted != (size, channels):
        raise UserError(
            f"{place} reads images of {wanted[0]} pixels and {wanted[1]} channels, the data has {size} and "
            f"{channels}; set data.size={wanted[0]} data.channels={wanted[1]}"
        )


def _files(folder: Folder, network: Mapping[str, Any]) -> list[Path]:
    """Returns the files that the artifact is made of, all there."""
    files = [folder.network / WEIGHTS]
    if network.get("_class_name") in (PROMPTED, TRANSFORMER) and folder.vae:
        files.append(folder.vae / WEIGHTS)
    if network.get("_class_name") == PROMPTED:
        encoded = sorted(folder.text[1].iterdir()) if folder.text else []
        text = [folder.text[0] / "config.json", folder.text[0] / "model.safetensors"] if folder.text else []
        files += [folder.prompt] if folder.prompt else [*text, *encoded]
    for file in files:
        if not file.is_file():
            raise UserError(
                f"{file}: not there; save the model with save_pretrained(safe_serialization=True)"
            )
    return files


def _check_numbers(values: Mapping[str, Any], path: Path) -> None:
    for name, value in values.items():
        if not _positive(value):
            raise UserError(f"{path}: {name} = {value!r}: expected a positive integer")


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
