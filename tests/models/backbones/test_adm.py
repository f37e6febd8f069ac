"""ADM checkpoints: a U-Net written here with guided-diffusion's names gives the same numbers after conversion."""

import math
import shutil

import pytest
import torch
from diffusers import DDPMPipeline
from torch import nn

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models.backbones.adm import ADM, EDITIONS, UNSEEN
from harness.models.backbones.adm_weights import _renamed, convert
from harness.models.backbones.denoiser import Denoiser, load_denoiser, save_frame
from harness.models.backbones.family import build_network
from harness.models.noise_processes.process import process_of

# The flags of all released models, from guided-diffusion's README, without dropout, fp16 and what all share.
SHARED = (
    "--attention_resolutions 32,16,8 --diffusion_steps 1000 --learn_sigma True --resblock_updown True "
    "--use_scale_shift_norm True "
)
LINEAR_256 = (
    SHARED
    + "--image_size 256 --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2 "
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
NOT_IN_FILES = {"use_new_attention_order": False, "channel_mult": [1, 1, 2, 2, 4, 4]}
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
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

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


def random_reference(flags):
    torch.manual_seed(0)
    network = Reference(flags).eval().requires_grad_(False)
    for value in network.state_dict().values():
        value.copy_(torch.randn(value.shape) * 0.1)
    return network


@pytest.fixture(scope="module")
def reference():
    return random_reference(FLAGS)


@pytest.fixture
def saved(reference, tmp_path):
    torch.save(reference.state_dict(), tmp_path / "adm.pt")
    return tmp_path / "adm.pt"


def adm(path, **flags):
    return parse(ADM, {"name": "adm", "path": str(path), **FLAGS, **flags}, "backbone")


def opened(plan, path, folder):
    """Returns the converted denoiser."""
    convert(path, plan.config, folder)
    save_frame(plan.family, plan.process, folder)
    return load_denoiser(folder)


def differences(flags, folder, size):
    """Returns the largest relative error of every block and of the output, at five noise levels."""
    original = random_reference(flags)
    torch.save(original.state_dict(), folder / "adm.pt")
    settings = parse(ADM, {"name": "adm", "path": str(folder / "adm.pt"), **flags}, "backbone")
    label = 2 if flags.get("class_cond") else None
    plan = settings.model_copy(update={"label": label}).plan(flags["image_size"], 3)
    network = opened(plan, folder / "adm.pt", folder).network
    seen = []
    for block in plan.blocks:
        network.get_submodule(block.name).register_forward_hook(lambda *given: seen.append(given[-1]))
    x = torch.randn(1, 3, size, size)
    labels_B = None if label is None else torch.tensor([label])
    last, errors = flags["diffusion_steps"] - 1, []
    for step in (0, last // 10, last // 4, last // 2, last):
        seen.clear()
        output = network(x, torch.tensor([step]), labels_B).sample
        wanted, blocks = original(x, torch.tensor([step]), labels_B)
        pairs = zip([*seen, output], [*blocks, wanted], strict=True)
        errors += [((mine - its).abs().max() / its.abs().max()).item() for mine, its in pairs]
    shutil.rmtree(folder)  # hundreds of megabytes
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("edition", WIDTHS)
def test_every_block_of_every_released_configuration_is_that_of_the_original(edition, tmp_path):
    flags = reduced(edition)
    size = min(flags["image_size"], 2 ** len(flags["channel_mult"]))  # the coarsest maps have 2 x 2 pixels
    assert max(differences(flags, tmp_path, size)) < 1e-5


@pytest.mark.parametrize("flags", VARIANTS.values(), ids=VARIANTS)
def test_every_block_of_every_setting_is_that_of_the_original(flags, tmp_path):
    flags = {**FLAGS, **flags}
    assert max(differences(flags, tmp_path, 16)) < 1e-5


def test_features_and_predictions_are_those_of_the_original(reference, saved, tmp_path):
    plan = adm(saved).plan(16, 3)
    denoiser = opened(plan, saved, tmp_path)
    x, timesteps_B = torch.randn(2, 3, 16, 16), torch.tensor([7, 800])
    output, blocks = reference(x, timesteps_B)
    torch.testing.assert_close(denoiser.run(x, timesteps_B), output, atol=1e-5, rtol=1e-5)
    seen = denoiser.reader([block.name for block in plan.blocks])(x, timesteps_B)
    assert len(seen) == len(blocks)
    for mine, original in zip(seen.values(), blocks, strict=True):
        torch.testing.assert_close(mine, original, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("flags", [{}, VARIANTS["a given number of heads"]], ids=["stock", "own"])
def test_diffusers_opens_what_was_converted(flags, tmp_path):
    flags = {**FLAGS, **flags}
    original = random_reference(flags)
    torch.save(original.state_dict(), tmp_path / "adm.pt")
    opened(adm(tmp_path / "adm.pt", **flags).plan(16, 3), tmp_path / "adm.pt", tmp_path)
    network = DDPMPipeline.from_pretrained(tmp_path, low_cpu_mem_usage=False).unet
    x, timesteps_B = torch.randn(1, 3, 16, 16), torch.tensor([90])
    with torch.no_grad():
        torch.testing.assert_close(
            network(x, timesteps_B).sample, original(x, timesteps_B)[0], atol=1e-5, rtol=1e-5
        )


def test_half_precision_files_become_float32(reference, tmp_path):
    torch.save({name: one.half() for name, one in reference.state_dict().items()}, tmp_path / "adm.pt")
    plan = adm(tmp_path / "adm.pt").plan(16, 3)
    denoiser: Denoiser = opened(plan, tmp_path / "adm.pt", tmp_path)
    assert {one.dtype for one in denoiser.network.parameters()} == {torch.float32}


def test_editions_have_the_flags_of_the_readme():
    assert EDITIONS.keys() == RELEASED.keys()
    for edition, text in RELEASED.items():
        flags = ADM(path="x.pt", edition=edition).flags()
        given = parsed(text)
        assert {name: flags[name] for name in given} == given
        absent = {"num_heads", "num_head_channels", "use_new_attention_order"} - given.keys()
        assert not any(flags[name] for name in absent)
        assert flags["channel_mult"] == MULTIPLIERS[flags["image_size"]]


def test_an_edition_is_its_flags():
    given = parsed(RELEASED["imagenet-256-uncond"]) | {"use_new_attention_order": False}
    plain, edition = ADM(path="x.pt", **given), ADM(path="x.pt", edition="imagenet-256-uncond")
    assert plain.unet() == edition.unet()
    assert plain.scheduler() == edition.scheduler()
    assert ADM(path="x.pt", edition="imagenet-256-uncond", num_channels=256).unet() == edition.unet()


def test_resolutions_may_be_given_in_any_order():
    ADM(path="x.pt", edition="imagenet-64", attention_resolutions=[8, 16, 32]).unet()


def test_the_unconditional_model_of_256_pixels_is_a_network_of_diffusers():
    settings = ADM(path="x.pt", edition="imagenet-256-uncond")
    assert settings.scheduler()["beta_end"] == 0.02
    unet = settings.unet()
    assert "_class_name" not in unet
    assert unet["block_out_channels"] == [256, 256, 512, 512, 1024, 1024]
    assert unet["down_block_types"] == ["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3
    assert unet["out_channels"] == 6


def test_the_schedule_of_64_pixels_is_a_cosine_of_1000_steps():
    noise = process_of(ADM(path="x.pt", edition="imagenet-64").scheduler())
    assert noise.timesteps == 1000
    a = [math.cos((step / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for step in (0, 501)]
    assert noise.log_snr(500) == pytest.approx(math.log(a[1] / (a[0] - a[1])), rel=1e-4)


# In millions, with the class embedding: Dhariwal and Nichol 2021, table 4 (ADM).
@pytest.mark.parametrize(
    ("edition", "size", "precision"),
    [
        ("imagenet-64", 296, 0.5),
        ("imagenet-128", 422, 0.5),
        ("imagenet-256", 554, 0.5),
        ("imagenet-256-uncond", 552.8, 0.05),
        ("imagenet-512", 559, 0.5),
    ],
)
def test_real_networks_have_their_published_sizes(edition, size, precision):
    with torch.device("meta"):
        network = build_network(ADM(path="x.pt", edition=edition).unet())
    assert sum(one.numel() for one in network.parameters()) == pytest.approx(size * 1e6, abs=precision * 1e6)


def spoilt(reference, change, path):
    tensors = dict(reference.state_dict())
    change(tensors)
    torch.save(tensors, path)
    return path


CLASSES = {"label_emb.weight": torch.zeros(10, 128)}


@pytest.mark.parametrize(
    ("change", "flags", "words"),
    [
        (lambda at: at.pop("out.2.bias"), {}, "'out.2.bias' is missing"),
        (lambda at: at.update(extra=torch.zeros(1)), {}, "'extra' is not expected"),
        (
            lambda at: at.update({"out.2.bias": torch.zeros(3)}),
            {},
            "'out.2.bias' has shape [3], these settings require [6]",
        ),
        (lambda at: at.clear(), {}, "is missing (and "),
        (
            lambda at: [at.pop(name) for name in list(at) if name.startswith("output_blocks.")],
            {},
            "a classifier, without output blocks; give a diffusion model",
        ),
        (
            lambda at: at.update({"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}),
            {},
            "reads 6 channels, as upsamplers do",
        ),
        (
            lambda at: at.update(CLASSES),
            {},
            "class_cond false; set backbone.class_cond: true and backbone.label: 0 to 9",
        ),
        (
            lambda at: None,
            {"class_cond": True, "label": 1},
            "an unconditional model (without 'label_emb.weight')",
        ),
        (lambda at: at.update(CLASSES), {"class_cond": True, "label": 1}, "set backbone.num_classes: 10"),
        (
            lambda at: at.update(CLASSES),
            {"class_cond": True, "num_classes": 10},
            "is class-conditional and its configuration names no null class; set backbone.label to "
            "a class from 0 to 9",
        ),
        (
            lambda at: at.update(CLASSES),
            {"class_cond": True, "num_classes": 10, "label": 10},
            "has classes 0 to 9",
        ),
    ],
)
def test_tensors_that_do_not_match_are_named(reference, tmp_path, change, flags, words):
    path = spoilt(reference, change, tmp_path / "adm.pt")
    with pytest.raises(UserError) as caught:
        adm(path, **flags).plan(16, 3)
    assert words in str(caught.value)


def test_the_edition_that_a_file_has_is_named(tmp_path):
    with torch.device("meta"):
        tensors = Reference({**parsed(RELEASED["imagenet-256-uncond"]), **NOT_IN_FILES}).state_dict()
    with pytest.raises(UserError) as caught:
        _renamed(tmp_path, tensors, ADM(path="x.pt", edition="imagenet-64", class_cond=None).unet())
    assert "an unconditional model" in str(caught.value)
    other = {**ADM(path="x.pt", edition="imagenet-256-uncond").unet(), "layers_per_block": 3}
    with pytest.raises(UserError) as caught:
        _renamed(tmp_path, tensors, other)
    known = "imagenet-256-uncond or lsun-bedroom or lsun-cat or lsun-horse"
    assert str(caught.value).endswith(f"these are the tensors of edition {known}")


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
        ({"num_head_channels": None, "num_heads": 3}, "num_heads 3"),
        (
            {"num_heads": 4},
            "guided-diffusion ignores it beside num_head_channels = 16; leave backbone.num_heads out",
        ),
        ({"diffusion_steps": 4000}, "does not show rescale_timesteps; set"),
        ({"label": 3}, "is unconditional; leave backbone.label out"),
        ({"resblock_updown": False}, "is missing"),
        ({"use_scale_shift_norm": False}, "has shape"),
        ({"diffusion_steps": 20, "rescale_timesteps": False}, "more than 20 steps"),
        ({"num_res_blocks": 1}, "is not expected"),
    ],
    ids=str,
)
def test_flags_that_contradict_are_refused(saved, flags, words):
    with pytest.raises(UserError) as caught:
        adm(**{"path": saved, **flags}).plan(16, 3)
    assert words in str(caught.value)


GIVEN = {"num_head_channels": 64, **{name: FLAGS[name] for name in UNSEEN if name != "image_size"}}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            {},
            "does not show num_head_channels (or num_heads), image_size, use_new_attention_order, noise_schedule, "
            "diffusion_steps; set backbone.edition, one of imagenet-64, imagenet-128, imagenet-256, ",
        ),
        (
            {"path": "lsun_cat.pt"},
            "set backbone.edition, lsun-cat by its name, or give these as the model was",
        ),
        (
            {**GIVEN, "image_size": 256, "num_head_channels": None},
            "show num_head_channels (or num_heads); set",
        ),
        ({"edition": "imagenet-32"}, "unknown backbone.edition 'imagenet-32'; did you mean 'imagenet-"),
        (
            {"edition": "imagenet-64", "num_head_channels": 32},
            "backbone.num_head_channels = 32 contradicts backbone.edition = imagenet-64, which has num_head_channels "
            "64; leave backbone.num_head_channels or backbone.edition out",
        ),
        (
            {"edition": "imagenet-128", "num_head_channels": 64},
            "backbone.edition = imagenet-128, which has num_heads 4",
        ),
        ({"edition": "imagenet-256", "num_heads": 4}, "which has num_head_channels 64"),
        ({"edition": "imagenet-64", "use_new_attention_order": False}, "has use_new_attention_order True"),
        ({"edition": "imagenet-64", "diffusion_steps": 4000}, "has diffusion_steps 1000"),
        (
            {"path": "a/64x64_diffusion.pt", "edition": "imagenet-128"},
            "64x64_diffusion.pt is the released imagenet-64, which has image_size 64, not image_size 128; set "
            "backbone.edition: imagenet-64 and no other flags, or rename the file if it is another model",
        ),
        (
            {"path": "lsun_horse.pt", **GIVEN, "image_size": 256, "use_new_attention_order": True},
            "lsun_horse.pt is the released lsun-horse, which has use_new_attention_order False, not "
            "use_new_attention_order True",
        ),
    ],
    ids=str,
)
def test_missing_and_contradictory_flags_are_refused(flags, words):
    with pytest.raises(UserError) as caught:
        parse(ADM, {"name": "adm", "path": "x.pt", **flags}, "backbone").unet()
    assert words in str(caught.value)
