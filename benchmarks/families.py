"""Which families of diffusion models can do what, and how far are they from their own pipelines?

    python benchmarks/families.py                  # all families, about ten minutes
    python benchmarks/families.py Flux SDXL        # those whose names contain one of these

Makes each model of the contract tests (`tests/models/backbones/test_*families.py`) at its smallest, with diffusers
and random weights, and prints a table in Markdown: how many blocks `describe` lists and how far their costs are from
those that torch counts in a pass, the largest relative difference of any block from the pipeline's own network at
five noise levels, that of sampled images, whether a sweep of features, samples and fine-tuning succeeds, and the
largest relative difference of an export's features, opened by `harness.load`, from those that the sweep stored.
Where it says "no", the reason follows below the table.
"""

import argparse
import contextlib
import importlib
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import harness
from harness.cli import main as command
from harness.core.artifacts import ArtifactStore
from harness.core.stages import Context
from harness.core.storage import Storage
from harness.data.dataset import Images, load
from harness.features.probe import read_features
from harness.sweep.experiment import load_experiment
from harness.sweep.plan import all_trials
from harness.testing.backbones import LEVELS, BackboneFamilyContract, counted

TESTS = Path(__file__).parents[1] / "tests" / "models"
HEADER = ("network", "model", "blocks", "costs off by", "blocks off by", "samples off by")
STEPS = ("features", "generation", "fine-tuning", "export off by")


def contracts(wanted: list[str]) -> Iterator[tuple[str, type[BackboneFamilyContract]]]:
    """Yields the name of each model, and the class of its contract tests."""
    sys.path[:0] = [str(TESTS), str(TESTS / "backbones")]
    for file in sorted((TESTS / "backbones").glob("test_*families.py")):
        module = importlib.import_module(file.stem)
        for name, kind in vars(module).items():
            own = isinstance(kind, type) and issubclass(kind, BackboneFamilyContract)
            chosen = not wanted or any(one.lower() in name.lower() for one in wanted)
            if own and chosen and name.startswith("Test") and kind.__module__ == file.stem:
                yield name.removeprefix("Test"), kind


def compared(
    contract: BackboneFamilyContract, folder: Path, plan: Any, denoiser: Any, image: torch.Tensor
) -> tuple[str, str]:
    """Returns the largest differences of blocks and of samples from the pipeline's own, as text."""
    steps = [round(fraction * (plan.timesteps - 1)) for fraction in LEVELS]
    found = [contract.block_errors(folder, plan, denoiser, image, step) for step in steps]
    errors = [error for one in found if one is not None for error in one.values()]
    off = contract.sample_error(folder, plan, denoiser, image)
    samples = "-" if off is None else f"{127.5 * off:.2g} grey levels"
    return f"{max(errors):.1e}" if errors else "-", samples


def costs(contract: BackboneFamilyContract, plan: Any, denoiser: Any, image: torch.Tensor) -> str:
    """Returns the largest relative difference of a block's share of the cost from the counted one, as text."""
    z, steps = contract.noised(denoiser, image, 3)
    total, worst = counted(lambda: denoiser.run(z, steps)), 0.0
    for block in plan.blocks:
        read = denoiser.reader([block.name])
        share = counted(partial(read, z, 3)) / total
        read.remove()
        worst = max(worst, abs(block.share / share - 1))
    return f"{100 * worst:.2g} %"


def swept(contract: Any, folder: Path, plan: Any, place: Path) -> tuple[list[str], list[str]]:
    """Returns "yes" or "no" for each of `STEPS`, and the reasons of every "no"."""
    label = (plan.condition.settings if plan.condition else {}).get("label")
    told = {} if label is None or plan.condition.name == "null label" else {"label": label}
    backbone = {"name": "pretrained", "path": str(folder), **told}
    data = {"name": "digits", "size": contract.size, "channels": 3, "labels_per_class": 2}
    data |= {"max_validation": 10, "max_test": 10}
    block, shared = plan.blocks[-1].number, {"backbone": backbone}
    tune = {"steps": 2, "batch": 4, "workers": 0}
    sections = {
        "features": {**shared, "blocks": [1, block], "timesteps": [3], "pools": [1], "heads": ["ridge"]},
        "generation": {**shared, "steps": 2, "samples": 4, "encoders": ["random"]},
        "finetune": {**shared, "blocks": [block], "timesteps": [3], "tune": tune, "batch": 8},
    }
    done, reasons = [], []
    for section, values in sections.items():
        file = place / f"{section}.yaml"
        file.write_text(json.dumps({"data": data, section: values}))
        status, said = quietly(["sweep", str(file), "--debug", "--results", str(place / "results")])
        done.append("yes" if status == 0 else "no")
        reasons += [] if status == 0 else [said]
    target = place / "exported"
    file = place / "features.yaml"
    status, said = quietly(["export", str(file), "--results", str(place / "results"), "--to", str(target)])
    done.append(f"{exported(target, file, place / 'results'):.1e}" if status == 0 else "no")
    return done, reasons + ([] if status == 0 else [said])


def exported(target: Path, file: Path, results: Path) -> float:
    """Returns the largest relative difference of an export's features from those that the sweep stored."""
    experiment, found = load_experiment(str(file), []), harness.load(target, "cpu")
    reading = Images.read(experiment.data, experiment.seed)
    place = found.about.features, found.about.module
    (trial,) = [
        one
        for one in all_trials(experiment, reading)
        if (one.axes["features"], one.axes["block_name"]) == place
    ]
    context = Context(ArtifactStore(Storage(str(results))), {"run": "export"}, ray=False, accelerators=False)
    dataset = load(experiment.data, experiment.seed)
    stored = np.asarray(read_features(trial, context, dataset)[0][:])
    index = dataset.probed(experiment.data.labels_per_class)
    off = np.abs(found.features(dataset.images[index], index=index).numpy() - stored).max()
    return float(off / np.abs(stored).max())


def quietly(arguments: list[str]) -> tuple[int, str]:
    """Returns the exit status of a command, and the last line that it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = command(arguments)
    return status, (said.getvalue().strip().splitlines() or [""])[-1]


def main() -> None:
    """Prints the table, a line when a model is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of the names of models")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    header = (*HEADER, *STEPS)
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    reasons = []
    for name, kind in contracts(chosen.names):
        with tempfile.TemporaryDirectory() as place:
            folder, contract = Path(place) / "published", kind()
            folder.mkdir()
            contract.save(folder, 0)
            plan = contract.planned(folder)
            denoiser = contract.opened(plan, Path(place) / "opened")
            draw = torch.Generator().manual_seed(3)
            image = torch.rand(1, contract.channels, contract.size, contract.size, generator=draw) * 2 - 1
            off = compared(contract, folder, plan, denoiser, image)
            done, said = swept(contract, folder, plan, Path(place))
            row = (
                f"`{plan.config.get('_class_name', 'UNet2DModel')}`",
                name,
                str(len(plan.blocks)),
                costs(contract, plan, denoiser, image),
                *off,
                *done,
            )
            print(f"| {' | '.join(row)} |", flush=True)
            reasons += [f"{name}: {one}" for one in said]
    print("\n".join(["", *reasons]) if reasons else "")


if __name__ == "__main__":
    main()
