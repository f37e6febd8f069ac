"""Heads on feature maps: published sizes, and what attention does and does not see."""

import numpy as np
import pytest
import torch

from harness.core.errors import UserError
from harness.features.heads.attention import Attention
from harness.features.heads.difformer import DifFormer
from harness.features.heads.head import Labelled
from harness.features.heads.linear import Linear
from harness.features.heads.map_modules import Block, build_cnn


def millions(head, shape):
    with torch.device("meta"):
        return sum(one.numel() for one in head.module(shape, 1000).parameters()) / 1e6


@pytest.mark.parametrize(("blocks", "published"), [(1, 13.6), (2, 26.2), (3, 38.8), (4, 51.4), (5, 64.0)])
def test_the_paper_counts_the_same_parameters(blocks, published):
    """On block 24 of ADM, whose 1024 channels need no projection."""
    assert round(millions(Attention(blocks=blocks), (1024, 8, 8)), 1) == published
    assert round(millions(Attention(blocks=blocks), (1024, 16, 16)), 1) == published


def test_the_released_code_counts_the_same_parameters():
    assert round(millions(Attention(edition="released"), (1024, 16, 16)), 1) == 27.8


def small(**values):
    return Attention(**{"width": 16, "attention_heads": 2, "blocks": 1, **values})


def test_other_channels_are_projected():
    assert millions(small(), (16, 4, 4)) == pytest.approx(
        millions(small(), (12, 4, 4)) - (12 * 16 + 16) / 1e6
    )


def test_a_block_is_torchs_pre_norm_encoder_layer():
    torch.manual_seed(0)
    block = Block(16, 2).eval()
    layer = torch.nn.TransformerEncoderLayer(
        16, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    layer.load_state_dict(
        {
            "self_attn.in_proj_weight": block.qkv.weight,
            "self_attn.in_proj_bias": torch.zeros(48),
            "self_attn.out_proj.weight": block.out.weight,
            "self_attn.out_proj.bias": block.out.bias,
            "linear1.weight": block.mlp[0].weight,
            "linear1.bias": block.mlp[0].bias,
            "linear2.weight": block.mlp[2].weight,
            "linear2.bias": block.mlp[2].bias,
            "norm1.weight": block.norm_attention.weight,
            "norm1.bias": block.norm_attention.bias,
            "norm2.weight": block.norm_mlp.weight,
            "norm2.bias": block.norm_mlp.bias,
        }
    )
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(block(x), layer(x), rtol=1e-5, atol=1e-5)


def test_attention_pools_large_maps_and_keeps_small_ones():
    module = small(tokens=4).module((6, 8, 8), 3)
    x = torch.randn(2, 6, 8, 8)
    again = small(tokens=4).module((6, 4, 4), 3)
    again.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), again(torch.nn.functional.avg_pool2d(x, 2)), rtol=1e-5, atol=1e-6)
    assert small().module((6, 3, 3), 3).size == (3, 3)
    assert small(edition="released").module((6, 32, 32), 3).size == (16, 16)


def test_attention_does_not_know_where_a_pixel_is_unless_its_norm_does():
    x = torch.randn(2, 6, 4, 4)
    for values, differs in (({}, False), ({"positions": True}, True), ({"edition": "released"}, True)):
        module = small(**values).module((6, 4, 4), 3)
        if "edition" in values:
            torch.nn.init.normal_(module.norm.weight)
        same = torch.allclose(module(x), module(x.flip(3)), atol=1e-5)
        assert same != differs


def test_a_convolution_knows_neighbours():
    """Stripes and checks have equal pixels on average, in another order."""
    column = np.arange(8) % 2 * 2.0 - 1
    kinds = np.stack([np.tile(column, (8, 1)), np.outer(column, column)])
    draw = np.random.default_rng(0)
    labels = np.arange(80) % 2
    signs = draw.choice([-1.0, 1.0], 80)
    x = (kinds[labels] * signs[:, None, None] + 0.3 * draw.normal(size=(80, 8, 8)))[:, None].astype(
        np.float32
    )
    train, test = Labelled(x[:40], labels[:40]), Labelled(x[40:], labels[40:])
    from harness.features.heads.cnn import CNN

    head = CNN(widths=[8, 8], train={"steps": 100, "batch": 40, "learning_rate": 0.02})
    shares = {
        one.name: np.mean(one.fit(train, test, 2, 0, "cpu").predict(test.x) == test.labels_N)
        for one in (head, Linear())
    }
    assert shares["cnn"] > 0.95
    assert shares["linear"] < 0.8


def test_the_widths_of_a_cnn_are_its_channels():
    convolutions = [one for one in build_cnn(5, [7, 9, 11], 3) if isinstance(one, torch.nn.Conv2d)]
    assert [(one.in_channels, one.out_channels) for one in convolutions] == [(5, 7), (7, 9), (9, 11)]


def parted(parts, **values):
    return DifFormer(**{"parts": parts, "width": 16, "attention_heads": 2, "blocks": 1, **values})


def test_difformer_knows_which_part_a_token_comes_from():
    torch.manual_seed(0)
    module = parted([3, 3]).module((6, 2, 2), 4)
    module.project[1].load_state_dict(module.project[0].state_dict())
    x = torch.randn(2, 6, 2, 2)
    swapped = torch.cat([x[:, 3:], x[:, :3]], 1)
    assert not torch.allclose(module(x), module(swapped), atol=1e-4)
    torch.nn.init.zeros_(module.embedding_PE)
    torch.testing.assert_close(module(x), module(swapped), rtol=1e-4, atol=1e-5)


def test_difformer_knows_places_if_asked_to():
    x = torch.randn(2, 6, 3, 3)
    for positions in (False, True):
        module = parted([2, 4], positions=positions).module((6, 3, 3), 4)
        same = torch.allclose(module(x), module(x.flip(2)), atol=1e-5)
        assert same != positions


def test_a_wider_head_is_guessed_to_take_longer():
    for head in (Attention, DifFormer):
        guesses = [head(width=width, attention_heads=8).seconds for width in (64, 256, 1024)]
        assert guesses == sorted(guesses)
        assert head(weight_decays=[0.1, 0.2]).seconds > 1.9 * head().seconds


def test_difformer_projects_each_part_by_itself():
    module = parted([3, 5]).module((8, 2, 2), 4)
    assert [(one.in_features, one.out_features) for one in module.project] == [(3, 16), (5, 16)]
    x = torch.randn(2, 8, 2, 2, requires_grad=True)
    module(x).sum().backward()
    assert float(x.grad.abs().amin((0, 2, 3)).min()) > 0


def test_parts_that_are_not_all_channels_are_refused():
    with pytest.raises(UserError, match="parts = \\[3, 4\\] have 7 channels in all, but the features have 8"):
        parted([3, 4]).module((8, 2, 2), 4)
