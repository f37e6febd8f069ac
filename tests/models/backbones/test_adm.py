"""ADM checkpoints: a U-Net written here with guided-diffusion's names gives the same numbers after conversion."""

import math

import pytest
import torch
from torch import nn

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models.backbones.adm import ADM
from harness.models.backbones.adm_weights import convert
from harness.models.backbones.denoiser import Denoiser, load_denoiser, save_frame

# The flags of all released models, from guided-diffusion's README, without dropout, fp16 and what all share.
SHARED = (
    "--attention_resolutions 32,16,8 --diffusion_steps 1000 --learn_sigma True --resblock_updown True "
    "--use_scale_shift_norm True "
)
LINEAR_256 = (
    SHARED + "--image_size 256 --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2 "
)
RELEASED = {
    "imagenet-64": SHARED + "--class_cond True --image_size 64 --noise_schedule cosine --num_channels 192 "
    "--num_head_channels 64 --num_res_blocks 3 --use_new_attention_order True",
    "imagenet-128": SHARED + "--class_cond True --image_size 128 --noise_schedule linear --num_channels 256 "
    "--num_heads 4 --num_res_blocks 2",
    "imagenet-256": LINEAR_256 + "--class_cond True",
    "imagenet-256-uncond": LINEAR_256 + "--class_cond False",
    "imagenet-512": SHARED + "--class_cond True --image_size 512 --noise_schedule linear --num_channels 256 "
    "--num_head_channels 64 --num_res_blocks 2",
    "lsun-bedroom": LINEAR_256 + "--class_cond False",
    "lsun-cat": LINEAR_256 + "--class_cond False",
    "lsun-horse": LINEAR_256 + "--class_cond False",
}
# Reduced widths that 32 groups and the released head widths divide.
WIDTHS = {"imagenet-64": 64, "imagenet-128": 32, "imagenet-256": 32, "imagenet-512": 64}
WIDTHS["imagenet-256-uncond"] = 32  # the LSUN models have the same flags
MULTIPLIERS = {64: [1, 2, 3, 4], 128: [1, 1, 2, 3, 4], 256: [1, 1, 2, 2, 4, 4], 512: [0.5, 1, 1, 2, 2, 4, 4]}
FLAGS = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 2,
    "num_head_channels": 16,
    "attention_resolutions": [8, 4],
    "channel_mult": [1, 1, 2],
    "use_new_attention_order": False,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
}
DEFAULTS = {"class_cond": False, "resblock_updown": True, "use_scale_shift_norm": True, "learn_sigma": True}
VARIANTS = {
    "a given number of heads": {"num_head_channels": None, "num_heads": 2},
    "the new order": {"use_new_attention_order": True},
    "the new order of a given number of heads": {
        "num_head_channels": None,
        "num_heads": 4,
        "use_new_attention_order": True,
    },
    "convolutions resample": {"resblock_updown": False},
    "the timestep is added": {"use_scale_shift_norm": False},
    "both, with classes": {
        "resblock_updown": False,
        "use_scale_shift_norm": False,
        "class_cond": True,
        "num_classes": 5,
    },
    "no learnt variance": {"learn_sigma": False},
    "a first width of half": {"num_channels": 64, "channel_mult": [0.5, 1, 1]},
    "attention at no level": {"attention_resolutions": []},
    "attention at all levels": {"attention_resolutions": [16, 8, 4], "num_res_blocks": 1},
    "rescaled timesteps": {"diffusion_steps": 4000, "rescale_timesteps": True, "noise_schedule": "cosine"},
}


def parsed(text):
    """Returns flags of a command line as settings."""
    words = text.split()
    values = {"True": True, "False": False, "32,16,8": [32, 16, 8], "linear": "linear", "cosine": "cosine"}
    return {
        name.removeprefix("--"): values[value] if value in values else int(value)
        for name, value in zip(words[::2], words[1::2], strict=True)
    }


def reduced(edition):
    """Returns a released model's flags at reduced width."""
    flags = {"use_new_attention_order": False, **parsed(RELEASED[edition]), "num_channels": WIDTHS[edition]}
    return {**flags, "channel_mult": MULTIPLIERS[flags["image_size"]]}


def sines(timesteps_B, width):
    """Returns the embedding of Ho et al. 2020 as guided-diffusion orders it: cosines first."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(width // 2) / (width // 2))
    angles = timesteps_B[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


class Residual(nn.Module):
    """A residual block, scaled and shifted by the embedding or added to it; it may sample up or down."""

    def __init__(self, before, after, flags, sample=None):
        super().__init__()
        self.scales = flags["use_scale_shift_norm"]
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1)
        )
        width = 2 * after if self.scales else after
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * flags["num_channels"], width))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, after), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(after, after, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        samples = {"up": nn.Upsample(scale_factor=2), "down": nn.AvgPool2d(2), None: nn.Identity()}
        self.sample = samples[sample]

    def forward(self, x, embedded):
        hidden = self.in_layers[2](self.sample(self.in_layers[1](self.in_layers[0](x))))
        told = self.emb_layers(embedded)[:, :, None, None]
        if self.scales:
            scale, shift = told.chunk(2, 1)
            hidden = self.out_layers[1:](self.out_layers[0](hidden) * (1 + scale) + shift)
        else:
            hidden = self.out_layers(hidden + told)
        return self.skip_connection(self.sample(x)) + hidden


class Attention(nn.Module):
    """Attention whose queries, keys and values come from one convolution: head by head, or all queries first."""

    def __init__(self, width, flags):
        super().__init__()
        head = flags.get("num_head_channels")
        self.head = width // flags["num_heads"] if head is None else head
        self.queries_first = flags["use_new_attention_order"]
        self.norm = nn.GroupNorm(32, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x, embedded):
        flat = x.flatten(2)
        rows = self.qkv(self.norm(flat))
        if self.queries_first:
            heads = zip(*(part.split(self.head, 1) for part in rows.chunk(3, 1)), strict=True)
        else:
            heads = (one.split(self.head, 1) for one in rows.split(3 * self.head, 1))
        mixed = []
        for query, key, value in heads:
            weights = torch.softmax(query.transpose(1, 2) @ key / math.sqrt(self.head), -1)
            mixed.append(value @ weights.transpose(1, 2))
        return x + self.proj_out(torch.cat(mixed, 1)).reshape(x.shape)


class Downsample(nn.Module):
    """Half the size by one convolution."""

    def __init__(self, width):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x, embedded):
        return self.op(x)


class Upsample(nn.Module):
    """Twice the size, then one convolution."""

    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x, embedded):
        return self.conv(nn.functional.interpolate(x, scale_factor=2))


class Steps(nn.ModuleList):
    """Layers one after the other, each given the embedding."""

    def forward(self, x, embedded):
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, embedded)
        return x


class Reference(nn.Module):
    """The U-Net of Dhariwal and Nichol 2021, its parts named as in their checkpoints."""

    def __init__(self, given):
        super().__init__()
        flags = {**DEFAULTS, **given}
        base, layers, size = flags["num_channels"], flags["num_res_blocks"], flags["image_size"]
        scale = 1000 / flags["diffusion_steps"] if flags.get("rescale_timesteps") else 1
        self.base, self.scale, embedding = base, scale, 4 * base
        attends, residual = flags["attention_resolutions"], flags["resblock_updown"]
        self.time_embed = nn.Sequential(
            nn.Linear(base, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if flags["class_cond"]:
            self.label_emb = nn.Embedding(flags.get("num_classes", 1000), embedding)
        widths = [int(base * multiplier) for multiplier in flags["channel_mult"]]
        width, last = widths[0], len(widths) - 1
        self.input_blocks = nn.ModuleList([Steps([nn.Conv2d(3, width, 3, padding=1)])])
        skips = [width]
        for level, after in enumerate(widths):
            for _ in range(layers):
                found = [Residual(width, after, flags)]
                width = after
                found += [Attention(width, flags)] if size in attends else []
                self.input_blocks.append(Steps(found))
                skips.append(width)
            if level < last:
                sampler = Residual(width, width, flags, "down") if residual else Downsample(width)
                self.input_blocks.append(Steps([sampler]))
                skips.append(width)
                size //= 2
        self.middle_block = Steps(
            [Residual(width, width, flags), Attention(width, flags), Residual(width, width, flags)]
        )
        self.output_blocks = nn.ModuleList()
        for level, after in reversed(list(enumerate(widths))):
            for layer in range(layers + 1):
                found = [Residual(width + skips.pop(), after, flags)]
                width = after
                found += [Attention(width, flags)] if size in attends else []
                if level and layer == layers:
                    found.append(Residual(width, width, flags, "up") if residual else Upsample(width))
                    size *= 2
                self.output_blocks.append(Steps(found))
        channels = 6 if flags["learn_sigma"] else 3
        self.out = nn.Sequential(
            nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)
        )

    def forward(self, x, timesteps_B, labels_B=None):
        """Returns the output, and what every block gave out."""
        embedded = self.time_embed(sines(timesteps_B * self.scale, self.base))
        if labels_B is not None:
            embedded = embedded + self.label_emb(labels_B)
        kept, seen = [], []
        for block in self.input_blocks:
            x = block(x, embedded)
            kept.append(x)
        seen = [*kept]
        x = self.middle_block(x, embedded)
        seen.append(x)
        for block in self.output_blocks:
            x = block(torch.cat([x, kept.pop()], 1), embedded)
            seen.append(x)
        return self.out(x), seen


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    network = Reference(FLAGS).eval().requires_grad_(False)
    for value in network.state_dict().values():
        value.copy_(torch.randn(value.shape) * 0.1)
    return network


@pytest.fixture
def saved(reference, tmp_path):
    torch.save(reference.state_dict(), tmp_path / "adm.pt")
    return tmp_path / "adm.pt"


def adm(path, **flags):
    return parse(ADM, {"name": "adm", "path": str(path), **FLAGS, **flags}, "backbone")


def test_every_block_and_the_output_are_those_of_the_original(reference, saved, tmp_path):
    plan = adm(saved).plan(16, 3)
    convert(saved, plan.config, tmp_path)
    save_frame(plan.family, plan.process, tmp_path)
    denoiser = load_denoiser(tmp_path)
    x, timesteps_B = torch.randn(2, 3, 16, 16), torch.tensor([7, 800])
    output, blocks = reference(x, timesteps_B)
    torch.testing.assert_close(denoiser.run(x, timesteps_B), output, atol=1e-5, rtol=1e-5)
    seen = denoiser.reader([block.name for block in plan.blocks])(x, timesteps_B)
    assert len(seen) == len(blocks)
    for mine, original in zip(seen.values(), blocks, strict=True):
        torch.testing.assert_close(mine, original, atol=1e-5, rtol=1e-5)


def test_half_precision_files_become_float32(reference, tmp_path):
    torch.save({name: one.half() for name, one in reference.state_dict().items()}, tmp_path / "adm.pt")
    plan = adm(tmp_path / "adm.pt").plan(16, 3)
    convert(tmp_path / "adm.pt", plan.config, tmp_path)
    save_frame(plan.family, plan.process, tmp_path)
    denoiser: Denoiser = load_denoiser(tmp_path)
    assert {one.dtype for one in denoiser.network.parameters()} == {torch.float32}


def test_the_defaults_are_the_unconditional_model_of_256_pixels():
    settings = ADM(path="256x256_diffusion_uncond.pt")
    assert settings.scheduler()["beta_end"] == 0.02
    unet = settings.unet()
    assert unet["block_out_channels"] == [256, 256, 512, 512, 1024, 1024]
    assert unet["down_block_types"] == ["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3
    assert unet["out_channels"] == 6


def test_the_real_network_has_its_published_size():
    from harness.models.backbones.family import build_network

    with torch.device("meta"):
        network = build_network(ADM(path="x.pt").unet())
    assert sum(one.numel() for one in network.parameters()) == pytest.approx(552.8e6, abs=0.05e6)


def spoilt(reference, change, path):
    tensors = dict(reference.state_dict())
    change(tensors)
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda at: at.pop("out.2.bias"), "'out.2.bias' is missing"),
        (lambda at: at.update(extra=torch.zeros(1)), "'extra' is not expected"),
        (
            lambda at: at.update({"out.2.bias": torch.zeros(3)}),
            "'out.2.bias' has shape [3], these settings require [6]",
        ),
        (lambda at: at.update({"label_emb.weight": torch.zeros(10, 128)}), "without a null label"),
        (lambda at: at.clear(), "is missing (and "),
    ],
)
def test_tensors_that_do_not_match_are_named(reference, tmp_path, change, words):
    path = spoilt(reference, change, tmp_path / "adm.pt")
    with pytest.raises(UserError) as caught:
        adm(path).plan(16, 3)
    assert words in str(caught.value)


class Code:
    """What a pickle could run."""

    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b"junk"),
        lambda path: path.write_bytes(b""),
        lambda path: torch.save(Code(), path),
        lambda path: torch.save([torch.zeros(1)], path),
        lambda path: torch.save({"step": 3}, path),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_and_runs_nothing(tmp_path, write, capsys):
    write(tmp_path / "adm.pt")
    with pytest.raises(
        UserError, match=r"adm\.pt: not a (checkpoint that contains only|dictionary of) tensors"
    ):
        adm(tmp_path / "adm.pt").plan(16, 3)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"num_channels": 48}, "48 channels: not divisible by 32 groups"),
        ({"num_head_channels": 24}, "num_head_channels 24"),
        ({"attention_resolutions": [3]}, "this network's maps have sizes 16, 8, 4"),
        (
            {"channel_mult": None},
            "guided-diffusion has no default for image_size 16, only for 512, 256, 128, 64",
        ),
        ({"channel_mult": [1, 1, 1, 1, 1, 1]}, "cannot be halved 5 times"),
        ({"image_size": 32}, "set data.size=32 data.channels=3"),
        ({"path": "/no/such.pt"}, "no such file"),
        ({"diffusion_steps": 20}, "more than 20 steps"),
        ({"num_res_blocks": 1}, "is not expected"),
    ],
    ids=str,
)
def test_flags_that_contradict_are_refused(saved, flags, words):
    with pytest.raises(UserError) as caught:
        adm(**{"path": saved, **flags}).plan(16, 3)
    assert words in str(caught.value)
