"""The original checkpoints of guided-diffusion (ADM), and the equivalent diffusers network. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness.core.apart import apart
from harness.core.errors import UserError, unknown
from harness.core.fingerprint import checksum, fingerprint
from harness.core.paths import existing_file
from harness.models.backbones.backbone import Backbone, BackbonePlan, Width
from harness.models.backbones.condition import Condition
from harness.models.backbones.family import check_numbers, positive
from harness.models.backbones.unet import UNetFamily
from harness.models.noise_processes.process import process_of

GROUPS = 32  # of every group normalisation in guided-diffusion
# Channel multipliers per resolution, finest first, by image_size; used without channel_mult.
MULTIPLIERS: dict[int, list[float]] = {
    512: [0.5, 1, 1, 2, 2, 4, 4],
    256: [1, 1, 2, 2, 4, 4],
    128: [1, 1, 2, 3, 4],
    64: [1, 2, 3, 4],
}
NEW_ORDER = (
    "_new_attention_order"  # key in the network's configuration; diffusers ignores a leading underscore
)


def _edition(image_size: int, **flags: Any) -> dict[str, Any]:
    """Returns all flags of a released model: those that most of them share, and its own."""
    return {
        "image_size": image_size,
        "num_channels": 256,
        "num_res_blocks": 2,
        "num_heads": None,
        "num_head_channels": 64,
        "use_new_attention_order": False,
        "attention_resolutions": [32, 16, 8],
        "channel_mult": MULTIPLIERS[image_size],
        "class_cond": False,
        "num_classes": 1000,
        "resblock_updown": True,
        "use_scale_shift_norm": True,
        "learn_sigma": True,
        "noise_schedule": "linear",
        "diffusion_steps": 1000,
        "rescale_timesteps": False,
        **flags,
    }


# From the README of github.com/openai/guided-diffusion (commit 22e0df8).
EDITIONS: dict[str, dict[str, Any]] = {
    "imagenet-64": _edition(
        64,
        num_channels=192,
        num_res_blocks=3,
        use_new_attention_order=True,
        noise_schedule="cosine",
        class_cond=True,
    ),
    "imagenet-128": _edition(128, num_heads=4, num_head_channels=None, class_cond=True),
    "imagenet-256": _edition(256, class_cond=True),
    "imagenet-256-uncond": _edition(256),
    "imagenet-512": _edition(512, class_cond=True),
    "lsun-bedroom": _edition(256),
    "lsun-cat": _edition(256),
    "lsun-horse": _edition(256),
}
FILES = {  # names under which they were released
    "64x64_diffusion.pt": "imagenet-64",
    "128x128_diffusion.pt": "imagenet-128",
    "256x256_diffusion.pt": "imagenet-256",
    "256x256_diffusion_uncond.pt": "imagenet-256-uncond",
    "512x512_diffusion.pt": "imagenet-512",
    "lsun_bedroom.pt": "lsun-bedroom",
    "lsun_cat.pt": "lsun-cat",
    "lsun_horse.pt": "lsun-horse",
    "lsun_horse_nodropout.pt": "lsun-horse",
}
# Flags of which a checkpoint's names and shapes show nothing, besides the number or width of attention heads. A wrong
# one gives other numbers, not an error.
UNSEEN = ("image_size", "use_new_attention_order", "noise_schedule", "diffusion_steps")


class ADM(Backbone):
    """A `.pt` of guided-diffusion, with its flags under their names there: all defined by `edition`, or given.

    Editions are imagenet-64, imagenet-128, imagenet-256, imagenet-256-uncond, imagenet-512, lsun-bedroom, lsun-cat,
    lsun-horse. Without one, a checkpoint does not show image_size, num_head_channels or num_heads,
    use_new_attention_order, noise_schedule and diffusion_steps, which are therefore required. Other flags are those
    of imagenet-256-uncond unless given, and a wrong one is refused, as names or shapes of tensors differ. A
    class-conditional model requires `label`.
    """

    name: Literal["adm"] = "adm"
    path: str  # such as 256x256_diffusion_uncond.pt
    edition: str | None = None  # a released model, which defines all flags
    label: int | None = Field(None, ge=0)  # the class under which a class-conditional model runs
    image_size: int | None = Field(None, ge=4, le=2048)
    in_channels: int = Field(3, ge=1, le=64)
    num_channels: Width | None = Field(None, ge=1)
    num_res_blocks: int | None = Field(None, ge=1, le=32)
    num_heads: int | None = Field(None, ge=1)  # of all attention layers; or else:
    num_head_channels: int | None = Field(None, ge=1)
    use_new_attention_order: bool | None = None
    attention_resolutions: list[int] | None = None  # map sizes, in pixels
    channel_mult: list[float] | None = Field(
        None, min_length=1, max_length=12
    )  # finest first; None: by image_size
    class_cond: bool | None = None
    num_classes: int | None = Field(None, ge=1)  # of a class-conditional model
    resblock_updown: bool | None = None  # residual blocks do the up- and downsampling
    use_scale_shift_norm: bool | None = None  # the timestep scales and shifts
    learn_sigma: bool | None = None
    noise_schedule: Literal["linear", "cosine"] | None = None
    diffusion_steps: int | None = Field(None, ge=1, le=100_000)
    rescale_timesteps: bool | None = None  # to 0...1000; required unless diffusion_steps is 1000

    def plan(self, size: int, channels: int) -> BackbonePlan:
        """Checks every tensor of the file against the network of these flags; computes its checksum."""
        path = existing_file(self.path)
        if path is None:
            raise UserError(
                f"backbone.path {self.path[:200]!r}: no such file; give a checkpoint of guided-diffusion, such as "
                "256x256_diffusion_uncond.pt"
            )
        flags = self.flags()
        if (flags["image_size"], self.in_channels) != (size, channels):
            raise UserError(
                f"{path} reads images of {flags['image_size']} pixels and {self.in_channels} channels, but the data "
                f"has {size} and {channels}; set data.size={flags['image_size']} data.channels={self.in_channels}"
            )
        unet, scheduler = self.unet(), self.scheduler()
        apart("harness.models.backbones.adm_weights:check", str(path), unet)
        key = fingerprint([unet, scheduler, checksum(path)])
        plan = BackbonePlan(unet, process_of(scheduler), str(path), key, flags["image_size"])
        return plan.under(Condition(label=self.label))

    def flags(self) -> dict[str, Any]:
        """Returns all flags, those given completed from the edition, or from what most released models share.

        Raises `UserError` for flags that are missing, or that contradict the edition or a released file's name.
        """
        if self.edition is not None and self.edition not in EDITIONS:
            raise unknown("backbone.edition", self.edition, EDITIONS)
        given = {name: value for name in _edition(256) if (value := getattr(self, name)) is not None}
        if self.attention_resolutions is not None:
            given["attention_resolutions"] = sorted(self.attention_resolutions, reverse=True)
        if self.edition is not None:
            edition = EDITIONS[self.edition]
            other = _difference(given, edition)
            if other is not None:
                raise UserError(
                    f"backbone.{other} = {given[other]} contradicts backbone.edition = {self.edition}, which has "
                    f"{_said(edition, other)}; leave backbone.{other} or backbone.edition out"
                )
            flags = edition
        else:
            self._check_given(given)
            flags = {
                **_edition(256),
                "num_head_channels": None,
                "channel_mult": None,
                **given,
            }
            flags["channel_mult"] = flags["channel_mult"] or MULTIPLIERS.get(flags["image_size"])
        self._check_name(flags)
        return flags

    def _check_given(self, given: Mapping[str, Any]) -> None:
        """Raises `UserError` for missing flags, and for both ways to give the attention heads."""
        missing = [name for name in UNSEEN if name not in given]
        if "num_heads" not in given and "num_head_channels" not in given:
            missing.insert(0, "num_head_channels (or num_heads)")
        if given.get("diffusion_steps", 1000) != 1000 and "rescale_timesteps" not in given:
            missing.append("rescale_timesteps")
        if missing:
            released = FILES.get(Path(self.path).name)
            advice = f"{released} by its name" if released else f"one of {', '.join(EDITIONS)}"
            raise UserError(
                f"backbone: an ADM's file does not show {', '.join(missing)}; set backbone.edition, {advice}, or "
                "give these as the model was trained"
            )
        if "num_heads" in given and "num_head_channels" in given:
            raise UserError(
                f"backbone.num_heads = {given['num_heads']}: guided-diffusion ignores it beside num_head_channels = "
                f"{given['num_head_channels']}; leave backbone.num_heads out"
            )

    def _check_name(self, flags: Mapping[str, Any]) -> None:
        """Raises `UserError` if the file has the name of a released model with other flags."""
        name = Path(self.path).name
        released = FILES.get(name)
        if released is None:
            return
        other = _difference(flags, EDITIONS[released])
        if other is not None:
            raise UserError(
                f"backbone.path: {name} is the released {released}, which has {_said(EDITIONS[released], other)}, "
                f"not {_said(flags, other)}; set backbone.edition: {released} and no other flags, or rename the file "
                "if it is another model"
            )

    def unet(self) -> dict[str, Any]:
        """Returns config.json of the equivalent network; raises `UserError` for contradictory flags.

        It is a `UNet2DModel` where that is exact, and else an `ADMUNet2DModel`.
        """
        flags = self.flags()
        size, base, multipliers = flags["image_size"], flags["num_channels"], flags["channel_mult"]
        if multipliers is None:
            raise UserError(
                f"backbone.channel_mult is missing: guided-diffusion has no default for image_size {size}, only for "
                f"{', '.join(map(str, MULTIPLIERS))}"
            )
        widths = [int(base * multiplier) for multiplier in multipliers]
        sizes = [size // 2**level for level in range(len(widths))]
        attends = [one in flags["attention_resolutions"] for one in sizes]
        if size % 2 ** (len(widths) - 1):
            raise UserError(f"backbone.image_size = {size} cannot be halved {len(widths) - 1} times")
        if not set(flags["attention_resolutions"]) <= set(sizes):
            raise UserError(
                f"backbone.attention_resolutions = {flags['attention_resolutions']}: this network's maps have sizes "
                f"{', '.join(map(str, sizes))}"
            )
        heads, head = flags["num_heads"], flags["num_head_channels"]
        for width, attend in zip(widths, [*attends[:-1], True], strict=True):
            if width < 1 or width % GROUPS or (attend and width % (heads or head)):
                divisor = f"num_heads {heads}" if heads else f"num_head_channels {head}"
                raise UserError(
                    f"backbone.num_channels x channel_mult gives {width} channels: not divisible by {GROUPS} groups "
                    f"or {divisor}"
                )
        residual = flags["resblock_updown"]
        plain = (
            ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if residual else ("DownBlock2D", "UpBlock2D")
        )
        down = ["AttnDownBlock2D" if attend else plain[0] for attend in attends]
        up = ["AttnUpBlock2D" if attend else plain[1] for attend in reversed(attends)]
        unet = {
            "sample_size": size,
            "in_channels": self.in_channels,
            "out_channels": self.in_channels * (2 if flags["learn_sigma"] else 1),
            "block_out_channels": widths,
            "layers_per_block": flags["num_res_blocks"],
            "attention_head_dim": head,
            "norm_num_groups": GROUPS,
            "attn_norm_num_groups": GROUPS,
            "norm_eps": 1e-5,
            "resnet_time_scale_shift": "scale_shift" if flags["use_scale_shift_norm"] else "default",
            "downsample_type": "resnet" if residual else "conv",
            "upsample_type": "resnet" if residual else "conv",
            "down_block_types": down,
            "up_block_types": up,
        }
        if flags["class_cond"]:
            unet["num_class_embeds"] = flags["num_classes"]
        if flags["use_new_attention_order"]:
            unet[NEW_ORDER] = True
        scale = 1000 / flags["diffusion_steps"] if flags["rescale_timesteps"] else 1.0
        if heads or widths[0] != base or scale != 1:
            unet |= {
                "_class_name": FAMILY.class_name,
                "model_channels": base,
                "time_embedding_dim": 4 * base,
                "num_attention_heads": heads,
                "timestep_scale": scale,
            }
        return unet

    def scheduler(self) -> dict[str, Any]:
        """Returns guided-diffusion's schedule: linear betas are those of 1000 steps, rescaled."""
        flags = self.flags()
        steps = flags["diffusion_steps"]
        if flags["noise_schedule"] == "cosine":
            return {"num_train_timesteps": steps, "beta_schedule": "squaredcos_cap_v2"}
        scale = 1000 / steps
        if scale * 0.02 >= 1:
            raise UserError(
                f"backbone.diffusion_steps = {steps}: the linear schedule needs more than 20 steps"
            )
        return {
            "num_train_timesteps": steps,
            "beta_schedule": "linear",
            "beta_start": scale * 1e-4,
            "beta_end": scale * 0.02,
        }


def _difference(flags: Mapping[str, Any], edition: Mapping[str, Any]) -> str | None:
    """Returns the name of the first of `flags` that has another value in the edition; None if there is none."""
    return next((name for name, value in flags.items() if edition[name] != value), None)


def _said(flags: Mapping[str, Any], name: str) -> str:
    """Returns a flag and its value as text; of the two flags of attention heads, the one that counts."""
    if flags[name] is None and name in ("num_heads", "num_head_channels"):
        name = "num_heads" if flags["num_heads"] else "num_head_channels"
    return f"{name} {flags[name]}"


class ADMFamily(UNetFamily):
    """`ADMUNet2DModel`, the network of ADM checkpoints that are no `UNet2DModel`."""

    network = "harness.models.backbones.adm_network:ADMUNet2DModel"

    def check(self, config: Mapping[str, Any], path: Path) -> None:
        """Refuses what `UNetFamily` does, and numbers of heads that do not divide channels."""
        super().check(config, path)
        check_numbers({name: config.get(name) for name in ("model_channels", "time_embedding_dim")}, path)
        heads = config.get("num_attention_heads")
        if heads is not None:
            kinds = config["down_block_types"]
            attend = [
                width
                for width, kind in zip(config["block_out_channels"], kinds, strict=True)
                if "Attn" in kind
            ]
            if not positive(heads) or any(
                width % heads for width in [*attend, config["block_out_channels"][-1]]
            ):
                raise UserError(f"{path}: num_attention_heads = {heads!r} does not divide the channels")

    def index(self, folder: Path) -> dict[str, Any] | None:
        """Returns the index of a pipeline with a network of this package."""
        index = super().index(folder)
        return None if index is None else index | {"unet": self.network.split(":")}


FAMILY = ADMFamily()
