"""The model card of an exported classifier: what it is, its accuracy with intervals, and its origin."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.stages import Trial
from harness.data.card import estimate, line, origin_lines
from harness.data.dataset import Dataset
from harness.features.extractor import About
from harness.features.tables import ACCURACY, MEAN_AVERAGE_PRECISION


def card(
    trial: Trial,
    row: Mapping[str, Any],
    origin: Mapping[str, Any],
    dataset: Dataset,
    about: About,
    notes: Sequence[str],
) -> str:
    """Returns the card in Markdown. `row` is what the trial recorded, `origin` says what it was chosen from."""
    return "\n".join(
        [
            "---",
            "library_name: harness",
            "pipeline_tag: image-classification",
            "license: other  # fill in, given the licenses of the backbone and of the training data",
            "---",
            f"# {line(origin['experiment'])}: an image classifier on diffusion features",
            "",
            *_what(trial, about),
            "",
            *_use(origin, about),
            "",
            *_how_good(row, origin, about.multilabel),
            *(f"- {note}" for note in notes),
            "",
            *origin_lines(trial, row, dataset),
            "",
        ]
    )


def _what(trial: Trial, about: About) -> list[str]:
    tuning = trial.axes.get("tuning")
    how = (
        "" if tuning in (None, "all") else f", by adapters ({line(tuning)}) that are merged into its weights"
    )
    learnt = {
        "trained": "The backbone is unchanged since its diffusion training; the head was fitted on frozen features.",
        "finetuned": f"The backbone was fine-tuned up to this block together with the head{how}.",
    }[about.features]
    noised = "noised to" if about.noised else "given without noise, as if noised to"
    draws = "from one noise draw" if about.draws == 1 else f"averaged over {about.draws} noise draws"
    several = ", of which an image may have several or none" if about.multilabel else ""
    colours = "greyscale" if about.channels == 1 else "colour"
    return [
        f"A {colours} image of {about.size}x{about.size} pixels is {noised} "
        f"timestep {about.timestep} and passed through a diffusion backbone ({line(trial.axes['backbone'])}) up to "
        f"block {about.block} (`{about.module}`). Its feature map, {draws}, is pooled to {about.pool}x{about.pool} "
        f"and classified by a head ({line(trial.axes['head'])}) into {len(about.classes)} classes{several}.",
        learnt,
    ]


def _use(origin: Mapping[str, Any], about: About) -> list[str]:
    return [
        "## Use",
        "```python",
        "import harness",
        f"classifier = harness.load({str(origin['folder'])!r})",
        "probabilities = classifier(images)  # a list of PIL images, or an array [N, C, H, W] or [N, H, W, C]",
        "```",
        f"`classifier.features(images)` returns the features [N, {', '.join(map(str, about.shape))}], "
        "`classifier.classes` lists the class names. Images are resized by their shorter side and centre-cropped. "
        "The noise is the same for every image, so results depend only on the image.",
    ]


def _how_good(row: Mapping[str, Any], origin: Mapping[str, Any], multilabel: bool) -> list[str]:
    word, column = ("mAP", MEAN_AVERAGE_PRECISION) if multilabel else ("accuracy", ACCURACY)
    left_out = ", ".join(f"{count} {line(kind)}" for kind, count in origin["left_out"].items())
    return [
        "## Mean average precision (mAP)" if multilabel else "## Accuracy",
        f"- Test {word} {estimate(row, f'test_{column}')}.",
        f"- Validation {word} {estimate(row, f'validation_{column}')}: the best of {origin['settings']} settings, "
        "hence optimistic; the test images played no part in the choice.",
        *([f"- Excluded, as they cannot be exported: {left_out}."] if left_out else []),
        f"- Trained on {row['train_n']} labelled images.",
    ]
