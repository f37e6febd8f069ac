"""A small experiment with both studies: 37 probes and two K."""

import yaml

TINY = {
    "data": {"name": "digits", "labels_per_class": 5},
    "features": {
        "backbone": {"name": "unet", "block_out_channels": [8, 16]},
        "train": {"steps": 40, "batch": 16, "learning_rate": 0.001, "ema": 0.9},
        "blocks": [2, 7, 12],
        "timesteps": [0, 90, 300],
        "pools": [1, 2, 4],
        "heads": ["linear"],
    },
    "weights": {
        "network": {"name": "convnet", "channels": [8, 8]},
        "train": {"steps": 40, "batch": 16, "learning_rate": 0.01},
        "parameters": ["norm"],
        "checkpoints": {"learning_rate": 0.1, "batch": 16},
        "k": [4, 8],
        "autoencoder": {"channels": [4, 4], "latent": 8, "train": {"steps": 30, "batch": 8, "workers": 0}},
        "diffusion": {"channels": [4, 8], "train": {"steps": 30, "batch": 8, "workers": 0}},
        "generate": 6,
        "sampling_steps": 20,
        "controls": [{"name": "noise", "networks": 3}, {"name": "gaussian", "networks": 3}],
    },
}


def write_tiny(folder):
    """Writes the experiment and returns its path."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path
