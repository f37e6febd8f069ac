"""A backbone family of another package keeps the contract, is swept, fine-tuned, exported and opened again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DDPMScheduler
from mixer.network import MixerModel
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import harness

pytestmark = pytest.mark.slow  # processes, some seconds each
MINE = Path(__file__).parent / "mixer"
EXPERIMENT = """
data: {name: digits, max_train: 80}
features:
  backbone: {name: pretrained, path: MODEL}
  blocks: [layers.0, layers.2]
  after: [output, mlp]
  conditions: [{}, {label: 3}]
  noise: [clean]
  timesteps: [10]
  pools: [2]
  heads: [ridge]
generation: {steps: 5, samples: 16}
finetune:
  blocks: [layers.1]
  timesteps: [10]
  tune: {steps: 2, batch: 8, workers: 0}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with a model, an experiment, and the package as pip leaves it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(MINE, folder / "mixer", ignore=shutil.ignore_patterns("__pycache__"))
    info = folder / "mixer-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mixer\nVersion: 1.0\n")
    shutil.copy(MINE / "entry_points.txt", info)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    torch.manual_seed(0)
    MixerModel().save_pretrained(folder / "model" / "mixer")
    process = DDPMScheduler(num_train_timesteps=100, prediction_type="v_prediction")
    process.save_pretrained(folder / "model" / "scheduler")
    (folder / "mine.yaml").write_text(EXPERIMENT.replace("MODEL", str(folder / "model")))
    return folder


def started(folder, *arguments):
    """Runs python in a folder, whose packages are installed."""
    path = os.pathsep.join([str(folder), str(Path(harness.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def run(site, *arguments):
    """Runs python where the package is installed, and returns what it prints."""
    done = started(site, *arguments)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def test_it_keeps_the_contract(site):
    printed = run(site, "-m", "pytest", "-p", "no:cacheprovider", "-q", "mixer/contracts_of_my_family.py")
    assert " passed" in printed
    assert "failed" not in printed


@pytest.fixture(scope="module")
def swept(site):
    """The folder after a sweep, and what the sweep says of itself."""
    return site, json.loads(run(site, "-m", "harness", "sweep", "mine.yaml", "--debug", "--json"))


def rows(folder, table, name="mine"):
    """Returns the rows of a table as dictionaries."""
    return pq.read_table(folder / "results" / name / f"{table}.parquet").to_pylist()


def test_it_is_swept(swept):
    folder, facts = swept
    assert facts["by_study"] == {"features": 17, "finetune": 1, "generation": 1}
    assert (facts["trials"], facts["done_now"], facts["failed_now"]) == (19, 19, 0)
    found = rows(folder, "features")
    assert {row["condition"] for row in found} == {None, "null label", "label 3"}
    read = {"layers.0", "layers.0.within", "layers.2", "layers.2.within"}
    assert {row["block_name"] for row in found} == {None, "layers.1", *read}  # of pixels, fine-tuned, frozen
    (made,) = rows(folder, "generation")
    assert np.isfinite(made["frechet"])


@pytest.fixture(scope="module")
def exported(site, swept):
    """The folder of the best classifier."""
    run(site, "-m", "harness", "export", "mine.yaml", "--to", "exported")
    return site / "exported"


def test_its_export_has_the_features_of_the_network_driven_by_hand(site, exported):
    program = (
        "import harness, numpy, sklearn.datasets\n"
        "images = numpy.round(sklearn.datasets.load_digits().images[:5, None] * 255 / 16).astype('uint8')\n"
        "loaded = harness.load('exported')\n"
        "numpy.savez('out.npz', features=loaded.features(images), scores=loaded(images))\n"
    )
    run(site, "-c", program)
    out = np.load(site / "out.npz")
    about = json.loads((exported / "extractor.json").read_text())
    (label,) = load_file(exported / "backbone" / "condition.safetensors").values()
    found = []
    network = MixerModel.from_pretrained(site / "model" / "mixer")
    network.get_submodule(about["module"]).register_forward_hook(lambda *passed: found.append(passed[2]))
    images = np.round(load_digits().images[:5] * 255 / 16)
    with torch.no_grad():
        network(
            torch.from_numpy(images / 127.5 - 1).float()[:, None], torch.tensor([10] * 5), label.expand(5)
        )
    maps = found[0][:, 1:].reshape(5, 2, 2, 2, 2, -1)  # rows and columns of tokens, each as pool and place
    np.testing.assert_allclose(out["features"], maps.mean((2, 4)).permute(0, 3, 1, 2), rtol=1e-5, atol=1e-6)
    assert out["scores"].shape == (5, 10)
    assert np.allclose(out["scores"].sum(1), 1)


def test_without_the_package_the_network_is_named(site, exported, tmp_path):
    opened = f"import harness; harness.load({str(exported)!r})"
    for arguments in (["-m", "harness", "plan", str(site / "mine.yaml")], ["-c", opened]):
        done = started(tmp_path, *arguments)
        assert done.returncode != 0
        assert "mixer: holds a MixerModel; backbone 'pretrained' reads UNet2DModel" in done.stderr


def test_auto_reads_its_maps_whole(site):
    """By the high-frequency ratio, which takes maps before pooling."""
    features = EXPERIMENT.partition("generation")[0].replace("MODEL", str(site / "model"))
    (site / "auto.yaml").write_text(f"{features}search: {{name: auto, method: frequency}}\n")
    facts = json.loads(run(site, "-m", "harness", "sweep", "auto.yaml", "--debug", "--json"))
    assert facts["failed_now"] == 0
    assert {row["features"] for row in rows(site, "features", "auto")} >= {"frequency", "trained"}
