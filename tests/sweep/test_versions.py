"""Keys follow the code: a raised version makes the trials that depend on it missing, and no others."""

import importlib
import pkgutil
from fnmatch import fnmatch
from functools import cache
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from tiny_encoders import saved
from tiny_models import CHANNELS, PIXELS, save_ddpm, save_dit

import harness
from harness.core.config import parse
from harness.core.stages import Code
from harness.data.dataset import Images, dataset_stage, read
from harness.models.backbones.family import FAMILIES
from harness.models.classifiers.build import build
from harness.models.encoders import inception
from harness.models.noise_processes.process import NOISE_PROCESSES
from harness.sweep.experiment import Experiment
from harness.sweep.plan import all_trials
from harness.sweep.search_plan import screening_trials
from harness.sweep.studies import STUDIES

UNET = {"name": "unet", "block_out_channels": [8, 16], "layers_per_block": 1}
NETWORK = {"name": "convnet", "channels": [8], "groups": 2}
LITTLE = {"steps": 2, "batch": 4}


def experiments(folder):
    """Returns experiments that together run every kind of stage and trial, by name."""
    save_ddpm(folder / "ddpm", size=8, channels=1)
    save_dit(folder / "dit")
    for name in ("vit", "resnet"):
        saved(folder / name, name)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    network = build({"name": "convnet", "widths": [8], "groups": 2, "channels": 1, "size": 8, "classes": 10})
    for number in range(6):
        torch.nn.init.normal_(network.norm1.weight)
        save_file(network.state_dict(), checkpoints / f"{number}.safetensors")
    features = {"backbone": UNET, "train": LITTLE, "blocks": [2, 5], "timesteps": [0, 50, 90, 150]}
    weights = {"network": NETWORK, "parameters": ["norm1"], "k": [3], "generate": 2}
    weights |= {"train": LITTLE, "autoencoder": {"channels": [4], "latent": 2, "train": LITTLE}}
    sections = {
        "cached": {
            "search": "auto",
            "features": features
            | {
                "heads": [
                    "linear",
                    "ridge",
                    "mlp",
                    "cnn",
                    "knn",
                    {"name": "attention", "width": 8, "attention_heads": 2},
                ],
                "regularisers": ["none", "dispersive", "self_conditioning"],
                "combined": [{"blocks": [2, 5], "timesteps": [0, 50], "pool": 2}],
            },
            "cka": {"encoders": ["pixels", "random", {"name": "pretrained", "path": str(folder / "vit")}]},
            "generation": {"encoders": ["pixels", "random", "inception"], "steps": 2, "samples": 4},
            "finetune": {"tune": LITTLE, "heads": ["linear"], "blocks": [2], "timesteps": [0], "pools": [1]},
            "weights": {**weights, "controls": sorted(CONTROLS)},
        },
        "streamed": {
            "features": features | {"caching": "streamed", "heads": ["ridge", "mlp"], "controls": []}
        },
        "copied": {
            "features": {
                "backbone": {"name": "pretrained", "path": str(folder / "ddpm")},
                "blocks": [2],
                "timesteps": [10],
            },
            "weights": {
                **weights,
                "network": {"name": "pretrained", "path": str(folder / "resnet")},
                "parameters": ["classifier*"],
                "controls": [],
            },
        },
        "given": {
            "weights": {**weights, "checkpoints": {"path": str(checkpoints), "held_out": 2}, "controls": []}
        },
    }
    data = {"name": "digits", "labels_per_class": 4, "max_validation": 30, "max_test": 40}
    sections["labelled"] = {
        "data": {**data, "size": PIXELS, "channels": CHANNELS},
        "features": {
            "backbone": {"name": "pretrained", "path": str(folder / "dit")},
            "blocks": [2],
            "timesteps": [10],
            "controls": [],
        },
    }
    return [
        parse(Experiment, {"name": name, "data": data, **values}, name) for name, values in sections.items()
    ]


CONTROLS = STUDIES.load("weights").registries[1].names()


def keys(experiments, datasets):
    """Returns keys of all trials by what they are."""
    found = {}
    for one, reading in zip(experiments, datasets, strict=True):
        stage = dataset_stage(one.data, one.seed, reading)
        trials = all_trials(one, Images(one.data, reading.dataset, stage))
        for trial in [*trials, *screening_trials(one.search.name, trials)]:
            found.setdefault(f"{one.name}/{label(trial)}", set()).add(trial.key)
    return found


def label(trial):
    axes = trial.axes
    parts = {
        "features": ("features", "regulariser", "head"),
        "cka": ("b_model",),
        "generation": ("regulariser", "encoder"),
        "finetune": ("regulariser", "head"),
        "weights": (),
    }[trial.study]
    return "/".join([trial.study, *(str(axes[name]) for name in parts)])


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Experiments, and their keys by the code as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "find_spec", lambda name: True)  # the library is asked for when it is run
        found = experiments(tmp_path_factory.mktemp("files"))
        datasets = [read(one.data, one.seed) for one in found]
        yield Planned(found, datasets, keys(found, datasets))


class Planned(NamedTuple):
    experiments: list
    datasets: list
    before: dict

    def now(self):
        return keys(self.experiments, self.datasets)


@cache
def codes():
    """Returns every declared code by name."""
    found = {}
    for module in pkgutil.walk_packages(harness.__path__, "harness."):
        if not module.name.endswith("__main__"):
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, Code):
                    assert found.setdefault(value.name, value) is value, f"two codes are called {value.name}"
    return found


@cache
def parts():
    """Returns every registered part with a version of its own, by registry and name."""
    registries = {one.kind: one for study in STUDIES.names() for one in STUDIES.load(study).registries}
    registries |= {one.kind: one for one in (FAMILIES, NOISE_PROCESSES)}
    found = {f"{kind} {name}": one.load(name) for kind, one in registries.items() for name in one.names()}
    return {name: kind for name, kind in found.items() if getattr(kind, "version", None) is not None}


LABELLED = "labelled/features/trained/*"
CACHED = ["cached/features/trained/*", "cached/features/untrained/*", "cached/features/combined/*"]
READ = [
    *CACHED,
    "cached/features/screen/*",
    "cached/cka/*",
    "copied/features/trained/*",
    "copied/features/untrained/*",
    LABELLED,
]
NOT_PIXELS = [*READ, "cached/generation/*", "cached/finetune/*", "streamed/*"]
COLLECTED = ["cached/weights", "copied/weights"]
WEIGHTS = [*COLLECTED, "given/weights"]
COPIED = ["copied/features/trained/*", LABELLED]
BY_TRAINING = [one for one in NOT_PIXELS if one not in COPIED]
DEPENDENTS = {
    "dataset": ["*"],
    "decoding": ["*"],
    "noise": [*NOT_PIXELS, *WEIGHTS],
    "training": [*BY_TRAINING, *WEIGHTS],
    "backbone": NOT_PIXELS,
    "trained backbone": BY_TRAINING,
    "copied backbone": COPIED,
    "condition": [LABELLED],
    "extraction": [*READ, "cached/finetune/*", "streamed/*"],
    "features": READ,
    "probe": [*CACHED, "cached/features/pixels/*", "copied/features/*", LABELLED],
    "screen": ["cached/features/screen/*"],
    "streamed probe": ["streamed/*"],
    "streamed ridge": ["streamed/*/ridge"],
    "streamed heads": ["streamed/*/mlp"],
    "cka": ["cached/cka/*"],
    "layers": ["cached/cka/pixels", "cached/cka/random", "cached/cka/vit"],
    "encoder": [
        "cached/cka/pixels",
        "cached/cka/random",
        "cached/cka/vit",
        "cached/generation/*/pixels",
        "cached/generation/*/random",
    ],
    "pixels": ["cached/cka/pixels", "cached/generation/*/pixels"],
    "random encoder": ["cached/cka/random", "cached/generation/*/random"],
    "pretrained encoder": ["cached/cka/vit"],
    "inception": ["cached/generation/*/inception"],
    "sampling": ["cached/generation/*", *WEIGHTS],
    "samples": ["cached/generation/*"],
    "encoded": ["cached/generation/*"],
    "generation": ["cached/generation/*"],
    "finetuned": ["cached/finetune/*"],
    "finetuned evaluation": ["cached/finetune/*"],
    "start": ["copied/weights"],
    "network": COLLECTED,
    "trajectory": COLLECTED,
    "user network": ["given/weights"],
    "user trajectory": ["given/weights"],
    **dict.fromkeys(
        (
            "checkpoints",
            "predictions",
            "autoencoder",
            "reconstruction",
            "denoiser",
            "generated",
            "contenders",
            "weights",
        ),
        WEIGHTS,
    ),
}
PARTS = {
    **{f"head {name}": [f"*/{name}"] for name in ("linear", "mlp", "cnn", "knn", "attention")},
    "head ridge": ["*/ridge", "*/screen/*"],
    "head difformer": ["*/combined/*"],
    "regulariser none": [],  # nothing is computed
    **{
        f"regulariser {name}": [f"cached/*/{name}/*", f"cached/features/combined/{name}/*"]
        for name in ("dispersive", "self_conditioning")
    },
    **{f"control {name}": ["cached/weights"] for name in CONTROLS},
    **{
        f"backbone family {name}": [] for name in FAMILIES.names()
    },  # no experiment here has them, but these two
    "backbone family UNet2DModel": [one for one in NOT_PIXELS if one != LABELLED],
    "backbone family DiTTransformer2DModel": [LABELLED],
    "noise process variance_preserving": [*NOT_PIXELS, *WEIGHTS],
    **{f"noise process {name}": [] for name in ("flow_matching", "edm", "continuous_euler", "consistency")},
    "autoencoder 2024-12": WEIGHTS,
    "autoencoder 2024-02": [],  # no experiment here has that edition
}


def test_every_version_is_walked():
    assert set(codes()) == set(DEPENDENTS)
    assert set(parts()) == set(PARTS)


def changed(before, after):
    """Returns what became missing as a whole; a key of which a part changed is shown as such."""
    assert before.keys() == after.keys()
    lost = {name for name in before if before[name] != after[name]}
    assert not [name for name in lost if before[name] & after[name]], "a part of a kind of trial changed"
    return lost


def expected(patterns, labels):
    found = {label for label in labels if any(fnmatch(label, pattern) for pattern in patterns)}
    idle = [pattern for pattern in patterns if not any(fnmatch(label, pattern) for label in labels)]
    assert not idle, f"no trial is like {idle}"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", DEPENDENTS)
def test_a_raised_version_makes_what_depends_on_it_missing_and_nothing_else(name, planned):
    code = codes()[name]
    try:
        object.__setattr__(code, "version", code.version + 1)
        after = planned.now()
    finally:
        object.__setattr__(code, "version", code.version - 1)
    assert changed(planned.before, after) == expected(DEPENDENTS[name], planned.before)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_raised_version_of_a_part_makes_what_uses_it_missing_and_nothing_else(name, planned, monkeypatch):
    part = parts()[name]
    monkeypatch.setattr(part, "version", part.version + 1)
    assert changed(planned.before, planned.now()) == expected(PARTS[name], planned.before)
