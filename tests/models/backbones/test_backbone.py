"""Backbones as data: the table of blocks is what the network does, and bad settings are refused."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.utils import logging

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models.backbones.backbone import BACKBONES
from harness.models.backbones.family import blocks, build_network
from harness.models.backbones.unet import UNet

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
    UNet(block_out_channels=[8]).plan(8, 1).config,
    UNet(block_out_channels=[8, 16], layers_per_block=1).plan(8, 1).config,
    UNet(block_out_channels=[8, 8, 16], layers_per_block=2).plan(16, 3).config,
    UNet(block_out_channels=[8, 16, 24], layers_per_block=3, attention=[True, False, True])
    .plan(12, 1)
    .config,
    UNet(block_out_channels=[16, 16], attention=[False, False]).plan(6, 3).config,
    narrow(CIFAR10, 16),
    {**narrow(ADM, 32), "sample_size": 32},
]


@pytest.mark.parametrize("config", SMALL, ids=range(len(SMALL)))
def test_the_table_of_blocks_is_what_hooks_see_in_a_forward_pass(config):
    table = blocks(config)
    seen = seen_by_hooks(build_network(config).eval(), [block.name for block in table])
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
    unet, scheduler = build_network(plan.config), DDPMScheduler.from_config(plan.process.config)
    assert (unet.config.sample_size, unet.config.in_channels, unet.config.out_channels) == (8, 3, 3)
    assert (plan.timesteps, scheduler.config.num_train_timesteps) == (50, 50)
    assert scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert plan.source is None


def test_attention_is_at_all_resolutions_but_the_finest_unless_asked_for():
    kinds = UNet(block_out_channels=[8, 8, 8]).plan(8, 1).config["down_block_types"]
    assert kinds == ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]
    plan = UNet(block_out_channels=[8, 8], attention=[True, False]).plan(8, 1)
    assert plan.config["down_block_types"] == ["AttnDownBlock2D", "DownBlock2D"]
    assert plan.config["up_block_types"] == ["UpBlock2D", "AttnUpBlock2D"]


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
            "attention has 1 entries, but block_out_channels has 2",
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
        assert build_network(plan.config)(torch.zeros(1, 1, 4, 4), 1).sample.shape == (1, 1, 4, 4)


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


PLAN = UNet(block_out_channels=[8, 16]).plan(8, 1)


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        ("all", list(range(1, 14))),
        ("mid", [7]),
        ("up", list(range(8, 14))),
        (3, [3]),
        ("up_blocks.0.upsamplers.0", [10]),
        (["mid", 12, "up_blocks.0.attentions.1", "conv_in"], [7, 12, 9, 1]),
        ([5, "up"], [5, *range(8, 14)]),
    ],
    ids=str,
)
def test_blocks_go_by_number_by_path_or_by_a_word(value, numbers):
    assert [block.number for block in PLAN.select(value)] == numbers


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("midd", "unknown block 'midd'; did you mean 'mid'? a block is a number from 1 to 13, mid, up, all"),
        (["up_blocks.0.attention.1"], "did you mean 'up_blocks.0.attentions.1'?"),
        (["mid", 7], "7 is given twice"),
        (["mid", "mid_block"], "mid_block is given twice (block 7, mid_block)"),
        ([3, 3], "3 is given twice"),
        ([14], "block 14: this backbone has blocks 1 to 13"),
    ],
    ids=str,
)
def test_a_block_that_is_not_there_or_named_twice_is_refused(value, words):
    with pytest.raises(UserError) as caught:
        PLAN.select(value)
    assert words in str(caught.value)


def test_the_lines_for_people_hold_every_block_and_timestep():
    lines = PLAN.lines([0, 999])
    assert [line.split()[:2] for line in lines[1:14]] == [
        [str(block.number), block.name] for block in PLAN.blocks
    ]
    assert lines[-1].endswith("of T = 1000: 0: 0.01 / 9.21, 999: 157 / -10.1")


def test_blocks_are_read_after_their_parts():
    plan = UNet(block_out_channels=[8, 16], layers_per_block=1).plan(8, 1)
    found = plan.select(["mid", 3], after=["query", "output"])
    assert [(block.number, block.after) for block in found][:2] == [(5, "query"), (5, "output")]
    assert found[0].name == "mid_block.attentions.0.to_q"
    assert [block.after for block in plan.select("all", after=["query"])] == ["query"] * sum(
        any(point.after == "query" for point in block.points) for block in plan.blocks
    )
    with pytest.raises(
        UserError, match=r"features\.after: none of these blocks has a part 'mlp'; they have output, "
    ):
        plan.select("all", after=["mlp"])
