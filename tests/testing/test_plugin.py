"""A package outside the harness: its parts pass the contract suites, and an experiment plans with them."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import harness

pytestmark = pytest.mark.slow  # processes, a second or more each
PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder as pip leaves it: the package and its metadata, with the entry points."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(PLUGIN / "my_parts", folder / "my_parts", ignore=shutil.ignore_patterns("__pycache__"))
    info = folder / "my_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n")
    shutil.copy(PLUGIN / "entry_points.txt", info)
    for name in ("contracts_of_my_parts.py", "experiment.yaml"):
        shutil.copy(PLUGIN / name, folder)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    (folder / "images").mkdir()
    np.save(folder / "images" / "images.npy", images)
    np.save(folder / "images" / "labels.npy", np.arange(60) % 2)
    return folder


def run(site, *arguments):
    """Runs python in the folder, with the package importable."""
    path = os.pathsep.join([str(site), str(Path(harness.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=site,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_each_part_passes_its_suite(site):
    done = run(site, "-m", "pytest", "-p", "no:cacheprovider", "-q", "contracts_of_my_parts.py")
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


def test_an_experiment_plans_with_them(site):
    done = run(site, "-m", "harness", "plan", "experiment.yaml")
    assert done.returncode == 0, done.stderr
    assert "missing" in done.stdout + done.stderr


def test_planning_with_them_imports_no_torch(site):
    program = (
        "import sys\n"
        "from harness.core.storage import Storage\n"
        "from harness.sweep.experiment import load_experiment\n"
        "from harness.sweep.run import plan_experiment\n"
        "plan = plan_experiment(load_experiment('experiment.yaml', []), Storage('none'))\n"
        "print({trial.study for trial in plan.trials} == {'features', 'cka', 'weights'}, 'torch' in sys.modules)"
    )
    done = run(site, "-c", program)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_they_are_listed_and_described(site):
    done = run(site, "-m", "harness", "list")
    for entry in importlib.metadata.Distribution.at(site / "my_parts-1.0.dist-info").entry_points:
        kind, _, name = entry.name.partition(".")
        if kind not in (
            "figure",
            "autoencoder",
            "backbone_family",
        ):  # which experiments do not name, or not list
            assert name in done.stdout
    described = run(site, "-m", "harness", "describe", "nearest_mean")
    assert "my_parts.head:NearestMean" in described.stdout


def test_a_package_that_takes_a_name_of_ours_is_one_line(site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site" / "my_parts-1.0.dist-info" / "entry_points.txt").write_text(
        "[harness.plugins]\nhead.linear = my_parts.head:NearestMean\n"
    )
    done = run(tmp_path / "site", "-m", "harness", "plan", "quickstart")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "entry point head.linear = my_parts.head:NearestMean of package my-parts" in done.stderr
