"""What the package's author runs: the contract suites on each part."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from my_parts.backbone_network import Convolutions
from my_parts.control import Midpoint
from my_parts.encoder import Brightness
from my_parts.figure import FIGURE
from my_parts.head import NearestMean

from harness.data.config import DataConfig
from harness.report.tables import from_arrow
from harness.sweep import studies
from harness.testing.backbones import BackboneFamilyContract
from harness.testing.controls import ControlContract
from harness.testing.datasets import DataSetContract
from harness.testing.encoders import EncoderContract
from harness.testing.figures import FigureContract
from harness.testing.generators import AutoencoderContract
from harness.testing.heads import HeadContract


class TestNearestMean(HeadContract):
    @pytest.fixture
    def head(self):
        return NearestMean()


class TestBrightness(EncoderContract):
    @pytest.fixture
    def encoder(self):
        return Brightness()


class TestConvolutions(BackboneFamilyContract):
    def save(self, folder, seed):
        torch.manual_seed(seed)
        Convolutions().save_pretrained(folder / "denoiser")
        DDPMScheduler().save_pretrained(folder / "scheduler")


class TestMidpoint(ControlContract):
    @pytest.fixture
    def control(self):
        return Midpoint(networks=5)


def write(folder, seed):
    draw = np.random.default_rng(seed)
    np.save(folder / "images.npy", draw.integers(0, 256, (20, 8, 8), np.uint8))
    np.save(folder / "labels.npy", np.arange(20) % 2)


class TestNpy(DataSetContract):
    @pytest.fixture
    def config(self, tmp_path):
        write(tmp_path, 0)
        return DataConfig(name="npy", path=str(tmp_path))

    def change(self, config):
        write(Path(config.path), 1)


class TestLinear(AutoencoderContract):
    @pytest.fixture
    def settings(self):
        return {"edition": "linear", "channels": [1], "decoder_channels": None, "kernel": 3, "latent": 4}


class TestFigure(FigureContract):
    @pytest.fixture
    def figure(self):
        return FIGURE

    @pytest.fixture
    def tables(self):
        rows = [
            {"key": head, "status": "ok", "features": "trained", "head": head, "validation_accuracy": 0.5}
            for head in ("linear", "nearest_mean")
        ]
        return from_arrow(
            {
                name: table.filled(rows if name == "features" else [])
                for name, table in studies.tables().items()
            }
        )
