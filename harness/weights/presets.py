"""The two published editions of p-diff as values for the `weights:` section (arXiv 2402.13144). No torch.

Where an edition does not say, the value is marked as inferred. What is left out here keeps the section's own default.
"""

from typing import Any

_LOCATION = ["bn-16-18"]  # layer4.1.bn{1,2}.{weight,bias}: 2048 numbers

PRESETS: dict[str, dict[str, Any]] = {
    "2024-02": {
        "network": {"name": "resnet18", "stem": "small"},
        "train": {
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "batch": 64,
            "epochs": 30,
            "schedule": "step",
            "decay_epochs": 10,
            "gamma": 0.1,
        },
        "parameters": _LOCATION,
        "buffers": "base",  # inferred
        "checkpoints": {
            "every": 1,
            "unit": "epoch",
            "learning_rate": 1e-4,  # "about"
            "optimizer": "sgd",  # inferred, with what follows: as the network was trained
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "batch": 64,
        },
        "k": [200],
        "subsets": ["first"],
        "autoencoder": {
            "edition": "2024-02",
            "channels": [4, 4, 4, 4],
            "decoder_channels": [4, 256, 256, 8],
            "kernel": 5,
            "latent": None,
            "norm": "none",  # inferred
            "normalise": "none",
            "noise": "mixed",
            "parameter_noise": 0.001,
            "latent_noise": 0.5,  # or 0.1
            "full_batch": True,
            "train": {
                "steps": 30_000,
                "optimizer": "adamw",
                "learning_rate": 1e-3,
                "schedule": "constant",  # inferred
            },
        },
        "diffusion": {
            "channels": [64, 128, 256, 512],
            "kernel": 7,  # inferred: the other edition's
            "norm": "group",  # inferred: a batch's statistics are not those of the weights' average
            "timesteps": 1000,
            "standardise": False,
            "clip": True,
            "full_batch": True,  # inferred: as the autoencoder's
            "train": {
                "steps": 30_000,
                "optimizer": "adamw",
                "learning_rate": 1e-3,  # inferred: as the autoencoder's
                "schedule": "constant",  # inferred
                "ema": 0.9999,
            },
        },
        "generate": 100,
        "sampler": "ddpm",
        "sampling_steps": 1000,
    },
    "2024-12": {
        "network": {"name": "resnet18"},  # pretrained: `network.path` says from where
        "train": {
            "optimizer": "adamw",
            "learning_rate": 5e-4,
            "weight_decay": 5e-4,
            "batch": 128,
            "epochs": 10,
            "schedule": "cosine",
        },
        "parameters": _LOCATION,
        "buffers": "base",
        "checkpoints": {
            "every": 1,
            "unit": "step",
            "learning_rate": 0.03,
            "optimizer": "adamw",
            "weight_decay": 0.0,  # inferred
            "batch": 128,
        },
        "k": [300],
        "subsets": ["first"],
        "autoencoder": {
            "edition": "2024-12",
            "channels": [64, 128, 256, 256, 32],
            "kernel": 7,
            "latent": 128,
            "norm": "batch",  # inferred: as in its denoiser
            "normalise": "tensor",
            "noise": "added",
            "parameter_noise": 0.001,
            "latent_noise": 0.1,
            "full_batch": False,
            "train": {
                "steps": 500,
                "batch": 50,
                "optimizer": "adamw",
                "learning_rate": 2e-5,
                "schedule": "constant",  # inferred
            },
        },
        "diffusion": {
            "channels": [64, 128, 256, 512],
            "kernel": 7,
            "norm": "batch",
            "timesteps": 1000,
            "standardise": False,
            "clip": False,
            "full_batch": False,
            "train": {
                "steps": 1000,
                "batch": 50,
                "optimizer": "adamw",
                "learning_rate": 1e-4,
                "schedule": "cosine",
            },
        },
        "generate": 200,
        "sampler": "ddpm",
        "sampling_steps": 1000,
    },
}

# A value given here replaces a preset's that says the same in another way: {given: the preset's}.
_INSTEAD = {"steps": "epochs", "decay_every": "decay_epochs"}

_LAYERS = (
    "channels",
    "decoder_channels",
    "kernel",
    "latent",
)  # of an autoencoder: what its edition determines


def with_preset(values: Any) -> Any:
    """Returns a `weights:` section with the values of its preset below those given; others as they are.

    A network of the user's own comes without the preset's, and another network without its parameters. With or
    without a preset, an autoencoder of another edition comes with that one's layers.
    """
    if not isinstance(values, dict):
        return values
    name, layers = values.get("preset"), _layers(values.get("autoencoder"))
    if not isinstance(name, str) or name not in PRESETS:
        return _merged({"autoencoder": layers}, values) if layers else values
    preset = dict(PRESETS[name])
    preset["autoencoder"] = preset["autoencoder"] | layers
    if "network" in values:
        published = preset.pop("network")
        if _name(values["network"]) != published["name"]:
            preset.pop("parameters")
    return _merged(preset, values)


def _layers(autoencoder: Any) -> dict[str, Any]:
    """Returns the layers of the edition that an `autoencoder:` section names, if it does."""
    edition = autoencoder.get("edition") if isinstance(autoencoder, dict) else None
    found = PRESETS.get(edition) if isinstance(edition, str) else None
    return {name: found["autoencoder"].get(name) for name in _LAYERS} if found else {}


def _name(network: Any) -> Any:
    return network.get("name") if isinstance(network, dict) else getattr(network, "name", network)


def _merged(below: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Returns a deep merge in which what is given wins."""
    dropped = {other for name, other in _INSTEAD.items() if name in given}
    if given.get("schedule", "step") != "step":
        dropped.add("decay_epochs")
    merged = {name: value for name, value in below.items() if name not in dropped}
    for name, value in given.items():
        lower = merged.get(name)
        merged[name] = _merged(lower, value) if isinstance(lower, dict) and isinstance(value, dict) else value
    return merged
