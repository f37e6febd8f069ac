"""The encoder of the FID: refused without its library, and what it executor to the library."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from torch import nn

from harness.core.errors import UserError
from harness.models.encoders import inception
from harness.models.encoders.encoder import ENCODERS, open_encoder


class InceptionV3(nn.Module):
    """Stands for the library's network: returns a list of one map [B, 3, 1, 1]."""

    BLOCK_INDEX_BY_DIM = {64: 0, 2048: 3}

    def __init__(self, blocks):
        super().__init__()
        assert blocks == [3]
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        assert x.shape[1] == 3
        assert 0 <= float(x.min()) <= float(x.max()) <= 1
        return [(x * self.weight.view(3, 1, 1)).mean((2, 3), keepdim=True)]


@pytest.fixture
def library(monkeypatch):
    package, module = ModuleType("pytorch_fid"), ModuleType("pytorch_fid.inception")
    package.__spec__ = ModuleSpec("pytorch_fid", None)
    module.InceptionV3 = InceptionV3
    monkeypatch.setitem(sys.modules, "pytorch_fid", package)
    monkeypatch.setitem(sys.modules, "pytorch_fid.inception", module)


def test_without_its_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(inception, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'harness\[fid\]'"):
        ENCODERS.load("inception")().stage(3)


def test_it_has_one_layer(library):
    with pytest.raises(UserError, match="layer"):
        ENCODERS.load("inception")(layers=["layer.1"]).stage(3)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_gives_the_library_three_channels_between_0_and_1(library, context, channels):
    encoder = open_encoder(ENCODERS.load("inception")().stage(channels), context, torch.device("cpu"))
    x = torch.rand(4, channels, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = encoder.pooled(x)
    expected = ((x + 1) / 2).mean((2, 3)).expand(4, 3)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert list(encoder.features(x)) == encoder.layers
