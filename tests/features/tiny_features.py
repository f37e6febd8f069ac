"""Study 1 at its smallest: a U-Net of a few channels, a hundred digits."""

from dataclasses import replace

import torch

from harness.core.config import parse
from harness.data.config import DataConfig
from harness.data.dataset import Images, load
from harness.features.config import FeaturesConfig
from harness.features.study import STUDY

DATA = {"labels_per_class": 4, "max_validation": 30, "max_test": 40}
FEATURES = {
    "backbone": {"name": "unet", "block_out_channels": [8, 16], "layers_per_block": 1, "timesteps": 100},
    "train": {"steps": 2, "batch": 8, "workers": 0},
    "blocks": [2, 5],
    "timesteps": [0, 50],
    "pools": [1, 2],
    "batch": 32,
}


def trials_of(seed=0, data=None, **features):
    """Returns the data set and the trials of an experiment like the above, but for what is given."""
    data = parse(DataConfig, {**DATA, **(data or {})}, "data")
    config = parse(FeaturesConfig, {**FEATURES, **features}, "features")
    images = Images.read(data, seed)
    return load(data, seed), STUDY.trials(config, images, seed)


def pick(trials, **axes):
    """Returns the one trial with these axes."""
    (found,) = [trial for trial in trials if all(trial.axes[name] == value for name, value in axes.items())]
    return found


def alone(stage):
    """Returns a stage without its siblings."""
    return replace(stage, siblings=())


def family_unet_and_process(seed=0, channels=1, size=8, **settings):
    """Returns an untrained network, ready for reading, between its family and its noise process."""
    from harness.models.backbones.family import build_network
    from harness.models.backbones.unet import UNet

    given = {"block_out_channels": [8, 16], "layers_per_block": 1, "timesteps": 100}
    plan = UNet(**{**given, **settings}).plan(size, channels)
    torch.manual_seed(seed)
    return plan.family, build_network(plan.config).eval().requires_grad_(False), plan.process
