"""Backbones as data: the table of blocks is what the network does, and bad settings are refused."""

import json

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.utils import logging

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models.backbone import BACKBONES, Pretrained, UNet, blocks
from harness.models.denoiser import Denoiser, build_unet, load_denoiser, save_pipeline

logging.disable_progress_bar()

CIFAR10 = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [128, 256, 256, 256],
    "layers_per_block": 2,
    "attention_head_dim": None,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
ADM = {
    "sample_size": 256,
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": [256, 256, 512, 512, 1024, 1024],
    "layers_per_block": 2,
    "attention_head_dim": 64,
    "attn_norm_num_groups": 32,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "scale_shift",
    "upsample_type": "resnet",
    "downsample_type": "resnet",
    "down_block_types": ["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3,
    "up_block_types": ["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"] * 3,
}


def narrow(config, divide):
    """Returns a configuration with fewer channels and pixels, and the same blocks."""
    widths = [width // divide for width in config["block_out_channels"]]
    heads = {"attention_head_dim": config["attention_head_dim"] and config["attention_head_dim"] // divide}
    return {**config, **heads, "block_out_channels": widths, "norm_num_groups": 4, "attn_norm_num_groups": 4}


def seen_by_hooks(unet, names):
    """Runs the network once; returns name, channels and size of the modules as they end."""
    seen = []
    for name in names:
        unet.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.append(
                (name, *(output[0] if isinstance(output, tuple) else output).shape[1:])
            )
        )
    size = unet.config.sample_size
    with torch.no_grad():
        unet(torch.zeros(1, unet.config.in_channels, size, size), 3)
    return seen


SMALL = [
    UNet(block_out_channels=[8]).plan(8, 1).unet,
    UNet(block_out_channels=[8, 16], layers_per_block=1).plan(8, 1).unet,
    UNet(block_out_channels=[8, 8, 16], layers_per_block=2).plan(16, 3).unet,
    UNet(block_out_channels=[8, 16, 24], layers_per_block=3, attention=[True, False, True]).plan(12, 1).unet,
    UNet(block_out_channels=[16, 16], attention=[False, False]).plan(6, 3).unet,
    narrow(CIFAR10, 16),
    {**narrow(ADM, 32), "sample_size": 32},
]


@pytest.mark.parametrize("config", SMALL, ids=range(len(SMALL)))
def test_the_table_of_blocks_is_what_hooks_see_in_a_forward_pass(config):
    table = blocks(config)
    seen = seen_by_hooks(build_unet(config).eval(), [block.name for block in table])
    assert [(block.name, block.channels, block.size, block.size) for block in table] == seen
    assert [block.number for block in table] == list(range(1, len(table) + 1))


@pytest.mark.parametrize("config", SMALL, ids=range(len(SMALL)))
def test_every_resolution_layer_and_the_middle_are_blocks(config):
    """Counts conv_in, layers and a down-sampler a level, the middle, and one more layer a level upwards."""
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    assert len(blocks(config)) == 1 + levels * layers + (levels - 1) + 1 + levels * (layers + 1)


def test_ddpm_cifar10_has_25_blocks():
    table = blocks(CIFAR10)
    assert len(table) == 25
    assert table[12].name == "mid_block"


def test_adms_numbering_is_the_published_one():
    table = blocks(ADM)
    assert len(table) == 37
    channels = [256] * 7 + [512] * 6 + [1024] * 12 + [512] * 6 + [256] * 6
    sizes = [256] * 3 + [128] * 3 + [64] * 3 + [32] * 3 + [16] * 3 + [8] * 6
    sizes += [16] * 3 + [32] * 3 + [64] * 3 + [128] * 3 + [256] * 4
    assert [block.channels for block in table] == channels
    assert [block.size for block in table] == sizes
    assert (table[0].name, table[18].name) == ("conv_in", "mid_block")
    assert table[23].name == "up_blocks.1.attentions.1"
    assert table[21].name == "up_blocks.0.upsamplers.0"
    for level in range(6):
        for layer in range(3):
            part = "attentions" if level < 3 else "resnets"
            last = layer == 2 and level < 5
            name = f"up_blocks.{level}.upsamplers.0" if last else f"up_blocks.{level}.{part}.{layer}"
            assert table[20 + 3 * level + layer - 1].name == name


def test_the_plan_builds_the_network_it_describes():
    plan = UNet(block_out_channels=[8, 16], timesteps=50, schedule="squaredcos_cap_v2").plan(8, 3)
    unet, scheduler = build_unet(plan.unet), DDPMScheduler.from_config(plan.scheduler)
    assert (unet.config.sample_size, unet.config.in_channels, unet.config.out_channels) == (8, 3, 3)
    assert (plan.timesteps, scheduler.config.num_train_timesteps) == (50, 50)
    assert scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert plan.source is None


def test_attention_is_at_all_resolutions_but_the_finest_unless_asked_for():
    kinds = UNet(block_out_channels=[8, 8, 8]).plan(8, 1).unet["down_block_types"]
    assert kinds == ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]
    plan = UNet(block_out_channels=[8, 8], attention=[True, False]).plan(8, 1)
    assert plan.unet["down_block_types"] == ["AttnDownBlock2D", "DownBlock2D"]
    assert plan.unet["up_block_types"] == ["UpBlock2D", "AttnUpBlock2D"]


@pytest.mark.parametrize(
    "change",
    [{"block_out_channels": [8, 8]}, {"layers_per_block": 1}, {"timesteps": 10}, {"norm_num_groups": 4}],
)
def test_the_fingerprint_of_a_plan_names_its_settings(change):
    one = UNet(block_out_channels=[8, 16]).plan(8, 1)
    assert UNet(**{"block_out_channels": [8, 16], **change}).plan(8, 1).fingerprint != one.fingerprint
    assert UNet(block_out_channels=[8, 16]).plan(8, 1).fingerprint == one.fingerprint


@pytest.mark.parametrize(
    ("settings", "size", "words"),
    [
        ({"block_out_channels": [8, 8, 8, 8, 8]}, 8, "images of 8 pixels cannot be halved 4 times"),
        ({"block_out_channels": [8, 8]}, 9, "images of 9 pixels cannot be halved 1 times"),
        ({"block_out_channels": [12]}, 8, "block_out_channels = 12: not divisible"),
        ({"block_out_channels": [0]}, 8, "block_out_channels"),
        ({"block_out_channels": [-8]}, 8, "block_out_channels"),
        ({"block_out_channels": [16], "attention_head_dim": 5}, 8, "attention_head_dim 5"),
        (
            {"block_out_channels": [8, 8], "attention": [True]},
            8,
            "attention has 1 entries, block_out_channels 2",
        ),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_by_the_plan(settings, size, words):
    with pytest.raises(UserError) as caught:
        parse(UNet, settings, "backbone").plan(size, 1)
    assert words in str(caught.value)


@pytest.mark.parametrize("width", [4, 8, 12, 16])
@pytest.mark.parametrize("head_dim", [4, 8, 16])
@pytest.mark.parametrize("groups", [2, 4, 8])
def test_what_the_plan_allows_runs(width, head_dim, groups):
    settings = {"attention_head_dim": head_dim, "norm_num_groups": groups, "layers_per_block": 1}
    try:
        plan = UNet(block_out_channels=[width, width], **settings).plan(4, 1)
    except UserError:
        return
    with torch.no_grad():
        assert build_unet(plan.unet)(torch.zeros(1, 1, 4, 4), 1).sample.shape == (1, 1, 4, 4)


@pytest.mark.parametrize("number", [0, -1, 14, 99])
def test_a_block_that_is_not_there_is_refused(number):
    plan = UNet(block_out_channels=[8, 16]).plan(8, 1)
    assert len(plan.blocks) == 13
    with pytest.raises(UserError, match="1"):
        plan.find(number)


def test_a_block_is_found_by_its_number():
    plan = UNet(block_out_channels=[8, 16]).plan(8, 1)
    assert [plan.find(number).number for number in range(1, 14)] == list(range(1, 14))


@pytest.mark.parametrize("name", BACKBONES.names())
def test_every_registered_backbone_carries_its_name(name):
    assert BACKBONES.load(name).model_fields["name"].default == name


@pytest.fixture
def saved(tmp_path):
    """A pipeline as this software writes it."""
    torch.manual_seed(0)
    plan = UNet(block_out_channels=[8, 16], layers_per_block=1, timesteps=40).plan(8, 1)
    unet = build_unet(plan.unet)
    save_pipeline(unet, plan.scheduler, tmp_path / "pipeline")
    return tmp_path / "pipeline", unet


def test_a_saved_pipeline_comes_back_ready_for_reading(saved):
    folder, unet = saved
    denoiser = load_denoiser(folder)
    loaded, scheduler = denoiser.network, denoiser.scheduler
    assert scheduler.config.num_train_timesteps == 40
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for name, value in unet.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_diffusers_reads_a_saved_pipeline(saved):
    folder, unet = saved
    pipeline = DDPMPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    assert torch.equal(pipeline.unet.conv_in.weight, unet.conv_in.weight)


@pytest.mark.parametrize("below", ["", "unet"])
def test_a_folder_of_diffusers_is_read_whether_of_the_pipeline_or_of_its_network(saved, below):
    folder, unet = saved
    plan = Pretrained(path=str(folder / below)).plan(8, 1)
    assert plan.source == str(folder / "unet")
    assert plan.blocks == blocks(unet.config)
    assert plan.timesteps == (1000 if below else 40)


def test_what_diffusers_itself_saves_is_read(tmp_path):
    plan = UNet(block_out_channels=[8, 16], layers_per_block=1).plan(8, 3)
    pipeline = DDPMPipeline(
        build_unet(plan.unet), DDPMScheduler(num_train_timesteps=30, beta_schedule="linear")
    )
    pipeline.save_pretrained(tmp_path)
    found = Pretrained(path=str(tmp_path)).plan(8, 3)
    assert found.timesteps == 30
    assert [block.name for block in found.blocks] == [block.name for block in plan.blocks]


def test_other_weights_are_another_backbone(saved):
    folder, unet = saved
    one = Pretrained(path=str(folder)).plan(8, 1)
    unet.conv_in.weight.data[0, 0, 0, 0] += 1
    unet.save_pretrained(folder / "unet")
    other = Pretrained(path=str(folder)).plan(8, 1)
    assert one.fingerprint != other.fingerprint


def test_images_of_another_size_or_colour_are_refused_with_the_settings_that_fit(saved):
    with pytest.raises(
        UserError, match=r"8 pixels and 1 channels.*16 and 3; set data\.size=8 data\.channels=1"
    ):
        Pretrained(path=str(saved[0])).plan(16, 3)


def write(folder, **values):
    (folder / "unet" / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "unet" / "config.json").unlink(), "config.json: cannot be read"),
        (lambda folder: (folder / "unet" / "config.json").write_text("{"), "config.json: cannot be read"),
        (
            lambda folder: (folder / "unet" / "config.json").write_text("[]"),
            "config.json: expected a JSON object",
        ),
        (lambda folder: write(folder, _class_name="DiTTransformer2DModel"), "holds a DiTTransformer2DModel"),
        (lambda folder: write(folder, sample_size=8), "config.json: has no 'in_channels'"),
        (
            lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
            "diffusion_pytorch_model.safetensors: not there; save the model with",
        ),
        (
            lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text("{"),
            "scheduler_config.json: cannot be read",
        ),
    ],
)
def test_a_folder_that_is_no_backbone_is_refused_with_the_reason(saved, spoil, words):
    spoil(saved[0])
    with pytest.raises(UserError) as caught:
        Pretrained(path=str(saved[0])).plan(8, 1)
    assert words in str(caught.value)


def test_a_pretrained_backbone_needs_a_path():
    with pytest.raises(UserError, match="'path' is missing"):
        parse(Pretrained, {"name": "pretrained"}, "backbone")


@pytest.fixture
def unet():
    torch.manual_seed(0)
    plan = UNet(block_out_channels=[8, 16], layers_per_block=1).plan(8, 1)
    return build_unet(plan.unet).eval().requires_grad_(False)


def denoiser(unet):
    return Denoiser(unet, DDPMScheduler())


def test_taps_read_what_the_modules_give_out(unet):
    names = ["conv_in", "down_blocks.1.attentions.0", "mid_block"]
    x = torch.randn(3, 1, 8, 8)
    taps = denoiser(unet).taps(names)
    found = taps(x, 5)
    taps.remove()
    assert list(found) == names
    hidden = unet.conv_in(x)
    torch.testing.assert_close(found["conv_in"], hidden)
    embedded = unet.time_embedding(unet.time_proj(torch.full((3,), 5)))
    hidden, _ = unet.down_blocks[0](hidden, embedded)
    hidden, kept = unet.down_blocks[1](hidden, embedded)
    torch.testing.assert_close(found["down_blocks.1.attentions.0"], kept[0])
    torch.testing.assert_close(found["mid_block"], unet.mid_block(hidden, embedded))


def test_nothing_runs_after_the_deepest_module(unet):
    table = [block.name for block in blocks(unet.config)]
    ran = []
    for name in table:
        unet.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    denoiser(unet).taps([table[2], table[4]])(torch.zeros(1, 1, 8, 8), 0)
    assert ran == table[:5]


def test_the_whole_network_may_be_read_and_read_again(unet):
    names = [block.name for block in blocks(unet.config)]
    read = denoiser(unet).taps(names)
    first = read(torch.ones(2, 1, 8, 8), 0)
    read(torch.zeros(1, 1, 8, 8), 9)
    again = read(torch.ones(2, 1, 8, 8), 0)
    assert list(first) == names
    for name in names:
        assert torch.equal(first[name], again[name])


def test_taps_that_are_removed_leave_the_network_as_it_was(unet):
    x = torch.randn(2, 1, 8, 8)
    before = unet(x, 3).sample
    shallow = denoiser(unet).taps(["conv_in"])
    shallow(x, 3)
    shallow.remove()
    assert torch.equal(unet(x, 3).sample, before)
    assert list(denoiser(unet).taps(["mid_block"])(x, 3)) == ["mid_block"]


def test_a_module_that_is_not_there_cannot_be_tapped(unet):
    with pytest.raises(AttributeError, match="no_block"):
        denoiser(unet).taps(["no_block"])


def test_a_module_that_does_not_run_is_reported(unet):
    unet.add_module("unused", torch.nn.Identity())
    with pytest.raises(RuntimeError, match="never reached"):
        denoiser(unet).taps(["unused"])(torch.zeros(1, 1, 8, 8), 0)


def test_the_saved_network_is_stock_diffusers(saved):
    assert isinstance(load_denoiser(saved[0]).network, UNet2DModel)
    names = {path.suffix for path in saved[0].rglob("*") if path.is_file()}
    assert names == {".json", ".safetensors"}
