"""Study 2 at its smallest: a ConvNet of a few channels, a dozen checkpoints, a few steps of everything."""

from harness.core.config import parse
from harness.data.config import DataConfig
from harness.data.dataset import Images, load
from harness.weights.config import WeightsConfig
from harness.weights.study import STUDY

DATA = {"max_train": 200, "max_validation": 50, "max_test": 60}
HERE = {"workers": 0}
WEIGHTS = {
    "network": {"name": "convnet", "channels": [8, 8], "groups": 2},
    "train": {"steps": 60, "batch": 50, "learning_rate": 0.02, "schedule": "constant", **HERE},
    "parameters": ["norm2"],
    "checkpoints": {"every": 2, "held_out": 4, **HERE},
    "k": [6, 12],
    "autoencoder": {"channels": [4, 4], "kernel": 3, "latent": 4, "train": {"steps": 8, "batch": 6, **HERE}},
    "diffusion": {
        "channels": [4, 8],
        "kernel": 3,
        "timesteps": 20,
        "train": {"steps": 8, "batch": 6, **HERE},
    },
    "generate": 5,
    "sampling_steps": 10,
    "controls": [
        {"name": "noise", "networks": 3, "scales": [0.01, 5.0]},
        {"name": "gaussian", "networks": 4},
        {"name": "average", "networks": 2, "of": 3},
        {"name": "decoded_gaussian", "networks": 2},
        {"name": "fine_tuned", "networks": 2},
        {"name": "other_seed", "networks": 2},
    ],
    "gate": None,
}


def trials_of(seed=0, data=None, **weights):
    """Returns the data set and the trials of an experiment like the above, but for what is given."""
    data = parse(DataConfig, {**DATA, **(data or {})}, "data")
    config = parse(WeightsConfig, {**WEIGHTS, **weights}, "weights")
    images = Images.read(data, seed)
    return load(data, seed), STUDY.trials(config, images, seed)
