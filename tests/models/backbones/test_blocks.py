"""What blocks cost: the counts from shapes alone are those of PyTorch's own counter, and ADM's published ones."""

import pytest
import torch

from harness.models.backbones.blocks import multiplications
from harness.models.backbones.condition_tensors import like
from harness.models.backbones.denoiser import Denoiser
from harness.models.backbones.family import blocks, build_network, family_of
from harness.models.backbones.unet import UNet
from harness.models.noise_processes.process import process_of
from harness.testing.backbones import counted

ADM = {
    "sample_size": 256,
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": [256, 256, 512, 512, 1024, 1024],
    "layers_per_block": 2,
    "attention_head_dim": 64,
    "resnet_time_scale_shift": "scale_shift",
    "upsample_type": "resnet",
    "downsample_type": "resnet",
    "down_block_types": ["ResnetDownsampleBlock2D"] * 3 + ["AttnDownBlock2D"] * 3,
    "up_block_types": ["AttnUpBlock2D"] * 3 + ["ResnetUpsampleBlock2D"] * 3,
}
SMALL_ADM = {**ADM, "sample_size": 32, "block_out_channels": [8, 8, 16, 16, 32, 32], "attention_head_dim": 8}
SMALL_ADM |= {"norm_num_groups": 4, "attn_norm_num_groups": 4}
ADM_512 = {
    **SMALL_ADM,
    "_class_name": "ADMUNet2DModel",
    "block_out_channels": [8, 16, 16, 32, 32, 64],
    "model_channels": 16,
    "time_embedding_dim": 64,
    "attention_head_dim": None,
    "num_attention_heads": 2,
}
STABLE_DIFFUSION = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 24,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
DIT = {
    "_class_name": "DiTTransformer2DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 4,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 3,
}
CONFIGURATIONS = {
    "one resolution": UNet(block_out_channels=[8]).plan(8, 1).config,
    "three": UNet(block_out_channels=[8, 8, 16], layers_per_block=2).plan(16, 3).config,
    "no attention": UNet(block_out_channels=[8, 16], attention=[False, False]).plan(8, 3).config,
    "no attention in the middle": {
        **UNet(block_out_channels=[8, 16]).plan(8, 1).config,
        "add_attention": False,
    },
    "heads that do not divide the channels": {
        **UNet(block_out_channels=[8, 16]).plan(8, 1).config,
        "attention_head_dim": 3,
    },
    "learnt times": {
        **UNet(block_out_channels=[8, 16]).plan(8, 1).config,
        "time_embedding_type": "learned",
        "num_train_timesteps": 1000,
    },
    "ADM": SMALL_ADM,
    "ADM of 512 pixels": ADM_512,
    "ADM without residual samplers": {
        **SMALL_ADM,
        "down_block_types": ["DownBlock2D"] * 3 + ["AttnDownBlock2D"] * 3,
        "up_block_types": ["AttnUpBlock2D"] * 3 + ["UpBlock2D"] * 3,
        "upsample_type": "conv",
        "downsample_type": "conv",
        "resnet_time_scale_shift": "default",
    },
    "Stable Diffusion": STABLE_DIFFUSION,
    "two layers of attention": {**STABLE_DIFFUSION, "transformer_layers_per_block": 2},
    "DiT": DIT,
}


def middle(config):
    """Returns what "mid" names."""
    return family_of(config).middle(blocks(config))


def denoiser_of(config):
    """Returns a denoiser with random weights."""
    torch.manual_seed(0)
    condition = like(family_of(config).condition_shapes(config))
    return Denoiser(family_of(config), build_network(config), process_of({}), condition=condition)


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_costs_are_what_pytorch_counts(config):
    denoiser, table = denoiser_of(config), blocks(config)
    z = torch.zeros(1, config["in_channels"], config["sample_size"], config["sample_size"])
    total = counted(lambda: denoiser.run(z, torch.tensor([3])))
    for block in {*table[::6], middle(config), table[-1]}:
        taps = denoiser.reader([block.name])
        assert block.cost == pytest.approx(counted(lambda taps=taps: taps(z, 3)), rel=1e-3)
        taps.remove()
        assert block.share == pytest.approx(block.cost / total, rel=1e-3)


@pytest.mark.parametrize("name", ["Stable Diffusion", "DiT"])
def test_the_table_is_what_a_pass_gives_out(name):
    config = CONFIGURATIONS[name]
    denoiser, table = denoiser_of(config), blocks(config)
    taps = denoiser.reader([block.name for block in table])
    seen = taps(torch.zeros(2, 4, 8, 8), 3)
    assert [tuple(one.shape) for one in seen.values()] == [
        (2, block.channels, block.size, block.size) for block in table
    ]


def test_adms_shares_are_the_published_ones():
    table = blocks(ADM)
    assert table[-1].cost / table[-1].share == pytest.approx(1120e9, rel=1e-3)
    shares = {number: 100 * table[number - 1].share for number in (19, 24, 30, 33)}
    assert shares == pytest.approx({19: 25.9, 24: 28.5, 30: 41.1, 33: 56.9}, abs=0.05)
    assert multiplications(table[:24]) == table[23].cost


def test_shares_grow_towards_one():
    for config in CONFIGURATIONS.values():
        shares = [block.share for block in blocks(config)]
        assert all(before < after for before, after in zip([0, *shares], shares, strict=False))
        assert shares[-1] < 1


def test_the_middle_of_a_transformer_is_at_half_its_depth():
    assert middle(DIT).number == 2
    assert middle({**DIT, "num_layers": 5}).number == 3
    assert middle({**DIT, "num_layers": 1}).number == 1
    assert middle(ADM).name == "mid_block"


def test_stable_diffusion_has_25_blocks_numbered_as_adms_are():
    real = {
        **STABLE_DIFFUSION,
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    }
    table = blocks(real)
    assert (len(table), table[12].name) == (25, "mid_block")
    assert table[18].name == "up_blocks.1.upsamplers.0"  # what DIFT reads
    assert (table[18].channels, table[18].size) == (1280, 32)
