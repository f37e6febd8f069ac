"""Exports generated networks of a trial: the best on validation, or new ones from the same generator."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file

import harness
from harness.core.errors import UserError
from harness.core.stages import Context, Stage, Trial
from harness.data.card import estimate, line, origin_lines
from harness.data.dataset import open_dataset
from harness.weights import exported
from harness.weights.checkpoints import LAYOUT, NETWORK, VECTORS
from harness.weights.layout import Layout
from harness.weights.predict import predict, read_predictions
from harness.weights.vectors import unflatten

Row = Mapping[str, Any]


def write_best(
    trial: Trial, row: Row, correct_N: Any, origin: Row, folder: Path, context: Context
) -> list[str]:
    """Writes the `origin["networks"]` generated networks that are best on validation. Returns lines to show.

    Raises `UserError` where they are no longer in the results.
    """
    contenders = trial.needs["contenders"]
    for stage in (trial.needs["network"], contenders, *trial.reads["contenders"]):
        _there(stage, context)
    groups = json.loads(context.file(contenders, "groups.json").read_text(encoding="utf-8"))
    before = [group["kind"] for group in groups].index("generated")
    begin = sum(group["count"] for group in groups[:before])
    end = begin + groups[before]["count"]
    vectors_GP = load_arrays(context.file(contenders, VECTORS))["vectors"][begin:end]
    predicted_GM = read_predictions(trial.reads["contenders"], context)[begin:end]
    said = _write(trial, row, origin, vectors_GP, predicted_GM, 0, folder, context)
    if origin["networks"] > len(vectors_GP):
        said.append(f"the sweep generated only {len(vectors_GP)}; `python -m harness generate` draws more")
    return said


def write_more(
    trial: Trial, row: Row, correct_N: Any, origin: Row, folder: Path, context: Context
) -> list[str]:
    """Draws `origin["networks"]` further networks from the trial's generator, as it was trained, and writes them all.

    They continue the numbering of the trial's own networks, and differ from them. Raises `UserError` if the generator
    is no longer in the results.
    """
    drawn = trial.needs["contenders"].needs["generated"]
    for stage in (trial.needs["network"], trial.needs["checkpoints"], *drawn.needs.values()):
        _there(stage, context)
    first = drawn.config["generate"]
    more = replace(drawn, config={**drawn.config, "generate": origin["networks"], "first": first})
    vectors_GP = load_arrays(context.file(more, VECTORS))["generated"]
    predicted_GM = predict(vectors_GP, trial.needs, context)
    return _write(trial, row, origin, vectors_GP, predicted_GM, first, folder, context)


def _there(stage: Stage, context: Context) -> None:
    if not context.has(stage):
        raise UserError(
            f"the {stage.kind} {stage.key[:6]} of the best trial is no longer in the results; run the sweep again "
            "where they are, or give --results"
        )


def _write(
    trial: Trial,
    row: Row,
    origin: Row,
    vectors_GP: np.ndarray,
    predicted_GM: np.ndarray,
    first: int,
    folder: Path,
    context: Context,
) -> list[str]:
    """Writes networks, the best on validation first; they are numbered from `first`."""
    dataset = open_dataset(trial.needs["dataset"], context)
    validation, test = (dataset.labels[dataset.splits[name]] for name in ("validation", "test"))
    right_V = (predicted_GM[:, : len(validation)] == validation).mean(1)
    right_T = (predicted_GM[:, len(validation) :] == test).mean(1)
    best = np.argsort(-right_V, kind="stable")[: origin["networks"]]
    layout = Layout.load(context.file(trial.needs["checkpoints"], LAYOUT))
    base = load_file(context.file(trial.needs["network"], NETWORK))
    written = []
    for place, number in enumerate(best):
        varied = unflatten(torch.from_numpy(vectors_GP[number : number + 1]), layout)
        name = f"network-{place:03d}.safetensors"
        save_file({**base, **{key: value[0].contiguous() for key, value in varied.items()}}, folder / name)
        written.append(
            exported.Written(
                file=name,
                number=first + int(number),
                validation_accuracy=float(right_V[number]),
                test_accuracy=float(right_T[number]),
            )
        )
    about = exported.About(
        harness_version=harness.__version__,
        network=dict(trial.needs["network"].config["network"]),
        parameters=list(layout.names),
        classes=list(dataset.classes),
        networks=written,
    )
    exported.save_about(about, folder)
    (folder / exported.CARD).write_text(_card(trial, row, origin, about, layout, dataset), encoding="utf-8")
    top = written[0]
    return [
        f"{len(written)} generated networks of K = {trial.axes['k']}, {layout.length:,} numbers each; the "
        f"best on validation has {100 * top.test_accuracy:.1f} % on test (originals' best "
        f"{100 * row['original_best_accuracy']:.1f} %)"
    ]


def _card(trial: Trial, row: Row, origin: Row, about: exported.About, layout: Layout, dataset: Any) -> str:
    settings = {name: value for name, value in about.network.items() if name != "checkpoint"}
    accuracies = [one.test_accuracy for one in about.networks]
    return "\n".join(
        [
            "---",
            "library_name: harness",
            "pipeline_tag: image-classification",
            "license: other  # fill in: that of the data and of the network that the parameters belong to",
            "---",
            f"# {line(origin['experiment'])}: {len(about.networks)} networks that a diffusion model wrote",
            "",
            f"A network (`{line(settings)}`) whose {layout.length:,} numbers in {len(layout.names)} tensors, "
            f"{', '.join(f'`{line(name)}`' for name in _few(layout.names))}, were generated after Neural Network "
            f"Diffusion (arXiv 2402.13144) from K = {trial.axes['k']} checkpoints; all other tensors are those of "
            "the trained base network.",
            "",
            "## Use",
            "```python",
            "import harness",
            f"networks = harness.load({str(origin['folder'])!r})  # the best on validation first",
            "logits = networks[0](x)  # a torch module of the original class; x [N, C, H, W] in [-1, 1]",
            "probabilities = networks(images)  # of the first; PIL images, or an array [N, C, H, W] or [N, H, W, C]",
            "```",
            "Each file holds the whole state dict of one network: "
            "`model.load_state_dict(safetensors.torch.load_file('network-000.safetensors'))`.",
            "",
            "## How good they are, and how new",
            f"- Test accuracy of the first {100 * accuracies[0]:.2f} %, of all {100 * min(accuracies):.2f} to "
            f"{100 * max(accuracies):.2f} %. They are ordered by validation accuracy; the test split played no part.",
            f"- In the sweep: best generated {estimate(row, 'generated_best_accuracy')}, best original "
            f"{estimate(row, 'original_best_accuracy')}, average of all weights "
            f"{estimate(row, 'ensemble_accuracy')}.",
            f"- Copying score Z_U {_number(row, 'copying_z')} (far below 0: nearer to the checkpoints that the "
            f"generator learnt from than held-out checkpoints are); variance {_number(row, 'variance_ratio')} times "
            f"that of the originals; {_share(row, 'new_share')} new, {_share(row, 'new_and_good_share')} new and as "
            "accurate as the median original.",
            "",
            *origin_lines(trial, row, dataset),
            "",
        ]
    )


def _few(names: Sequence[str], most: int = 6) -> list[str]:
    return (
        list(names) if len(names) <= most else [*names[: most - 1], f"... and {len(names) - most + 1} more"]
    )


def _number(row: Row, name: str) -> str:
    return "not measured" if row.get(name) is None else f"{row[name]:.2f}"


def _share(row: Row, name: str) -> str:
    return "an unknown share" if row.get(name) is None else f"{100 * row[name]:.0f} %"
