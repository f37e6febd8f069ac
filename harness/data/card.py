"""The common sections of model cards, in Markdown: accuracies with their intervals, and provenance."""

from collections.abc import Mapping
from typing import Any

from harness.core.stages import Trial
from harness.data.dataset import Dataset

VERSIONS = ("python", "torch", "diffusers", "numpy", "scikit_learn")


def estimate(row: Mapping[str, Any], name: str) -> str:
    """Returns an accuracy with its interval, from a row."""
    value, low, high = (100 * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.1f} % (95 % interval {low:.1f} to {high:.1f}, n = {row[f'{name}_n']})"


def origin_lines(trial: Trial, row: Mapping[str, Any], dataset: Dataset) -> list[str]:
    """Returns the section on data, trial and versions."""
    commit = f", commit {row['code_commit']}" if row.get("code_commit") else ""
    changed = " with uncommitted changes" if row.get("code_dirty") else ""
    versions = ", ".join(
        f"{name} {row[f'{name}_version']}" for name in VERSIONS if row.get(f"{name}_version")
    )
    sizes = ", ".join(f"{len(places)} {split}" for split, places in dataset.splits.items())
    return [
        "## Provenance",
        f"- Data: {line(trial.data)}, fingerprint {trial.data_fingerprint}, {sizes}.",
        f"- Trial {trial.key}, run {row['run']}, seed {trial.seed}, on {line(row['device'])}.",
        f"- harness {row['harness_version']}{commit}{changed}; {versions}.",
    ]


def line(text: Any) -> str:
    """Returns a name as one line without Markdown or HTML."""
    return " ".join(str(text).split()).replace("`", "'").replace("<", "&lt;")
