"""Numbers do not depend on how many workers there are."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file
from tables import assert_equal, rows
from tiny import write_tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TRAINED = ("dataset", "backbone", "network", "checkpoints", "autoencoder", "denoiser")


def sweep(experiment, results, *options):
    command = [sys.executable, "-m", "harness.sweep", str(experiment), "--results", str(results), *options]
    done = subprocess.run(
        command,
        cwd=experiment.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def on_two_workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    experiment = write_tiny(folder)
    sweep(experiment, folder / "results", "--address", "local")
    return experiment, folder / "results"


def test_tables_of_one_process_and_many_shards_equal_those_of_two_workers_bit_for_bit(
    on_two_workers, tmp_path
):
    experiment, two = on_two_workers
    for kind in TRAINED:
        shutil.copytree(two / "artifacts" / kind, tmp_path / "results" / "artifacts" / kind)
    cut = ("--set", "features.shard=256", "--set", "weights.shard=16")
    sweep(experiment, tmp_path / "results", "--debug", *cut)
    assert_equal(rows(tmp_path / "results"), rows(two))


def test_the_batch_of_a_forward_pass_changes_nothing_but_rounding(on_two_workers, tmp_path):
    experiment, two = on_two_workers
    for kind in TRAINED:
        shutil.copytree(two / "artifacts" / kind, tmp_path / "results" / "artifacts" / kind)
    sweep(experiment, tmp_path / "results", "--debug", "--set", "features.batch=37", "--set", "weights=null")
    for part in (two / "artifacts" / "features").glob("*/features.safetensors"):
        ours = load_file(tmp_path / "results" / "artifacts" / "features" / part.parent.name / part.name)[
            "features"
        ]
        theirs = load_file(part)["features"]
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
    one, other = (
        rows(place)["correctness"].query("study == 'features'") for place in (tmp_path / "results", two)
    )
    assert all((a == b).all() for a, b in zip(one.correct, other.correct, strict=True))


def test_training_on_two_workers_differs_from_one_by_rounding_alone(on_two_workers, tmp_path):
    experiment, one = on_two_workers
    options = ["--set", "features.train.workers=2", "--set", "weights=null", "--set", "features.controls=[]"]
    sweep(experiment, tmp_path / "results", "--address", "local", *options)
    # Losses, not weights: where a gradient is zero by symmetry, Adam turns its rounding into steps of full size.
    kept = list((tmp_path / "results" / "artifacts" / "backbone").glob("*/history.json"))
    assert len(kept) == 1
    ours, theirs = (
        json.loads((root / "artifacts" / "backbone" / kept[0].parent.name / "history.json").read_text())
        for root in (tmp_path / "results", one)
    )
    assert len(ours) == len(theirs) == 40
    np.testing.assert_allclose([s["loss"] for s in ours], [s["loss"] for s in theirs], rtol=1e-4)
