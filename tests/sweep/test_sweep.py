"""A sweep from an experiment to its tables, in one process without Ray."""

import json

import pandas as pd
import pytest
from tables import recordings, rows
from tiny import write_tiny

from harness.cli import main
from harness.core.artifacts import ArtifactStore
from harness.core.storage import Storage

pytestmark = pytest.mark.slow


def sweep(experiment, results, *options):
    return main(["sweep", str(experiment), "--results", str(results), "--debug", *options])


def manifests(results, kind):
    store = ArtifactStore(Storage(str(results)))
    return [store.manifest(kind, key) for key in store.storage.names(f"artifacts/{kind}")]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep: the experiment's file and its results."""
    folder = tmp_path_factory.mktemp("swept")
    experiment = write_tiny(folder)
    assert sweep(experiment, folder / "results") == 0
    return experiment, folder / "results"


def test_every_trial_has_a_row_and_every_network_too(swept):
    tables = rows(swept[1])
    features = tables["features"]
    assert len(features) == 3 * 3 * 3 + 3 * 3 + 1
    assert features.groupby("features").size().to_dict() == {"pixels": 1, "trained": 27, "untrained": 9}
    assert (features.status == "ok").all()
    kinds = tables["networks"].groupby(["k", "kind"]).size()
    assert kinds[4].to_dict() == {
        "original": 4, "held_out": 18, "ensemble": 1, "vote": 1, "generated": 6, "reconstructed": 4, "noise": 9,
        "gaussian": 3,
    }  # fmt: skip
    assert kinds[8]["original"] == 8
    assert tables["networks"].groupby(["k", "kind", "setting"], dropna=False).selected.sum().eq(1).all()


def test_accuracies_are_those_of_the_recorded_predictions(swept):
    tables = rows(swept[1])
    correct = (
        tables["correctness"].query("study == 'features'").set_index("key").correct.map(lambda x: x.mean())
    )
    joined = tables["features"].set_index("key").test_accuracy
    pd.testing.assert_series_equal(joined, correct.reindex(joined.index), check_names=False)


def test_running_again_computes_nothing(swept, capsys):
    before = {path: path.stat().st_mtime_ns for path in (swept[1] / "artifacts").rglob("*")}
    assert sweep(*swept, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["done"] == facts["trials"] == 39
    assert facts["missing"] == facts["done_now"] == facts["image_passes"] == 0
    assert before == {path: path.stat().st_mtime_ns for path in (swept[1] / "artifacts").rglob("*")}


def test_one_more_timestep_costs_one_more_pass_and_only_its_trials(swept, capsys):
    passes = [found["image_passes"] for found in manifests(swept[1], "features")]
    assert sweep(*swept, "--json", "--set", "features.timesteps=[0, 90, 300, 30]") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["done_now"] == 9
    images = 50 + 359 + 539
    assert facts["image_passes"] == images
    assert sum(found["image_passes"] for found in manifests(swept[1], "features")) == sum(passes) + images
    assert set(recordings(swept[1])) == {1}


def test_a_plan_writes_nothing(tmp_path, capsys):
    assert main(["plan", str(write_tiny(tmp_path)), "--results", str(tmp_path / "results"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["missing"] == facts["trials"] == 39
    assert facts["stages_to_make"]["features"] == 4
    assert not (tmp_path / "results").exists()


def test_a_failed_trial_is_a_row_with_its_traceback_and_is_tried_again(swept, monkeypatch, capsys):
    from harness.features.heads.linear import Linear

    def explode(*arguments):
        raise MemoryError("out of memory in a head")

    settings = ["--set", "features.timesteps=[0]", "--set", "weights=null", "--set", "features.draws=2"]
    with monkeypatch.context() as patch:
        patch.setattr(Linear, "fit", explode)
        assert sweep(*swept, "--set", "name=failing", *settings) == 1
    failed = pd.read_parquet(swept[1] / "failing/features.parquet")
    failed = failed[failed.features == "trained"]
    assert len(failed) == 9
    assert (failed.status == "failed").all()
    assert failed.error.str.contains("out of memory in a head").all()
    assert failed.error.str.contains("Traceback").all()
    assert failed.test_accuracy.isna().all()
    capsys.readouterr()
    assert sweep(*swept, "--set", "name=failing", *settings, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["failed_before"] == facts["done_now"] == 18


def test_a_failed_stage_fails_its_trials_and_spares_the_rest(tmp_path):
    settings = [
        "--set",
        "weights.train={steps: 20, batch: 16, learning_rate: 1.0e+30}",
        "--set",
        "features.controls=[]",
    ]
    settings += ["--set", "features.timesteps=[0]", "--set", "features.train.steps=0"]
    assert sweep(write_tiny(tmp_path), tmp_path / "results", *settings) == 1
    weights = pd.read_parquet(tmp_path / "results/tiny/weights.parquet")
    assert (weights.status == "failed").all()
    assert weights.error.str.contains("the loss is nan|the loss is inf").all()
    features = pd.read_parquet(tmp_path / "results/tiny/features.parquet")
    assert (features.status == "ok").all()


def test_results_on_an_object_store_are_those_on_a_disk(swept):
    from fsspec.implementations.memory import MemoryFileSystem

    assert sweep(swept[0], "memory://bucket/results", "--set", "features=null") == 0
    files = MemoryFileSystem()
    with files.open("/bucket/results/tiny/weights.parquet") as file:
        weights = pd.read_parquet(file)
    expected = rows(swept[1])["weights"]
    pd.testing.assert_frame_equal(weights[expected.columns], expected, check_exact=True)
    assert files.exists("/bucket/results/tiny/report.html")
