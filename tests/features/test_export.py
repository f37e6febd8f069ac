"""Taking the best classifier home: which it is, that it is the same one, and what its card says."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from tiny_features import DATA, FEATURES

import harness
from harness.cli import main
from harness.core.errors import UserError
from harness.core.row_store import RowStore
from harness.core.storage import Storage
from harness.data.dataset import Images, load
from harness.sweep import studies
from harness.sweep.experiment import load_experiment
from harness.sweep.export import choose
from harness.sweep.plan import all_trials

pytestmark = pytest.mark.slow


TUNE = {"steps": 3, "batch": 16, "optimizer": "sgd", "learning_rate": 0.01, "workers": 0}
EXPERIMENT = {
    "data": DATA,
    "features": {**FEATURES, "blocks": [2, 5], "timesteps": [0, 50], "pools": [2], "heads": ["linear"]},
    "finetune": {"blocks": [5], "timesteps": [0], "pools": [2], "tune": TUNE},
}
TUNED_ALONE = {
    "data": DATA,
    "finetune": {**EXPERIMENT["finetune"], **{n: FEATURES[n] for n in ("backbone", "train")}},
}


def written(folder, experiment=EXPERIMENT, name="tiny"):
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(experiment))  # which is YAML too
    return str(path)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """An experiment that has run: its file and its results."""
    folder = tmp_path_factory.mktemp("swept")
    path, results = written(folder), str(folder / "results")
    assert main(["sweep", path, "--debug", "--results", results]) == 0
    return path, results


@pytest.fixture(scope="module")
def exported(swept, tmp_path_factory):
    """The best of it, and the folder that it was written to."""
    path, results = swept
    folder = tmp_path_factory.mktemp("exported") / "mine"
    assert main(["export", path, "--results", results, "--to", str(folder)]) == 0
    return recorded(path, results), folder


def recorded(path, results):
    """Returns the trials of an experiment, its data set and its recorded tables."""
    experiment = load_experiment(path, [])
    images = Images.read(experiment.data, experiment.seed)
    return (
        all_trials(experiment, images),
        load(experiment.data, experiment.seed),
        RowStore(Storage(results), studies.tables()).tables(),
    )


def correct_of(tables, key):
    (row,) = [row for row in tables["correctness"].to_pylist() if row["key"] == key]
    return np.array(row["correct"])


def best_of(trials, tables):
    """The best on validation by plain words: no control, the first between equals."""
    rows = {row["key"]: row for row in tables["features"].to_pylist()}
    known = [trial for trial in trials if trial.axes["features"] in ("trained", "finetuned")]
    return max(known, key=lambda trial: rows[trial.key]["validation_accuracy"]), rows


def test_what_is_loaded_predicts_what_was_recorded(exported):
    (trials, dataset, tables), folder = exported
    best, rows = best_of(trials, tables)
    places = dataset.splits["test"]
    predicted = harness.load(folder, "cpu")(dataset.images[places], index=places).argmax(1).numpy()
    np.testing.assert_array_equal(predicted == dataset.labels[places], correct_of(tables, best.key))
    about = json.loads((folder / "extractor.json").read_text())
    assert [about[name] for name in ("block", "timestep", "pool")] == [
        best.axes[name] for name in ("block", "timestep", "pool")
    ]
    assert rows[best.key]["test_accuracy"] == np.mean(predicted == dataset.labels[places])


def test_noise_that_is_the_same_for_all_images_is_as_good_within_the_interval(exported):
    (trials, dataset, tables), folder = exported
    best, rows = best_of(trials, tables)
    places = dataset.splits["test"]
    found = np.mean(harness.load(folder)(dataset.images[places]).argmax(1).numpy() == dataset.labels[places])
    assert rows[best.key]["test_accuracy_low"] <= found <= rows[best.key]["test_accuracy_high"]


def test_the_card_says_what_it_is_how_good_and_where_from(exported, swept):
    (trials, _, tables), folder = exported
    best, rows = best_of(trials, tables)
    row, card = rows[best.key], (folder / "README.md").read_text()
    interval = f"{100 * row['test_accuracy_low']:.1f} to {100 * row['test_accuracy_high']:.1f}, n = 40"
    count = sum(trial.axes["features"] in ("trained", "finetuned") for trial in trials)
    for word in (
        f"Test accuracy {100 * row['test_accuracy']:.1f} % (95 % interval {interval})",
        f"the best of {count} settings",
        best.data_fingerprint,
        best.key,
        row["run"],
        "license: other",
        "harness.load('mine')",
        "untrained",
    ):
        assert word in card
    assert "warning" not in card
    assert not [
        path
        for path in folder.rglob("*")
        if path.suffix in (".pt", ".bin", ".pkl") or path.name == "manifest.json"
    ]
    everything = "".join(path.read_text() for path in folder.rglob("*.json")) + card
    assert swept[1] not in everything


def test_a_folder_with_something_in_it_is_left_alone(exported, swept, capsys):
    _, folder = exported
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["export", swept[0], "--results", swept[1], "--to", str(folder)]) == 2
    assert "the folder is not empty" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not list(folder.parent.glob(".*"))


def test_an_empty_folder_is_filled(swept, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert main(["export", swept[0], "--results", swept[1], "--to", str(tmp_path / "there")]) == 0
    assert "best on validation of" in capsys.readouterr().out
    assert (tmp_path / "there" / "extractor.json").exists()


def test_a_fine_tuned_encoder_is_taken_home(tmp_path, capsys):
    path, results = written(tmp_path, TUNED_ALONE), str(tmp_path / "results")
    assert main(["sweep", path, "--debug", "--results", results]) == 0
    assert main(["export", path, "--results", results, "--to", str(tmp_path / "mine")]) == 0
    assert "warning" not in capsys.readouterr().out
    (trial,), dataset, tables = recorded(path, results)
    places = dataset.splits["test"]
    predicted = harness.load(tmp_path / "mine", "cpu")(dataset.images[places], index=places).argmax(1).numpy()
    np.testing.assert_array_equal(predicted == dataset.labels[places], correct_of(tables, trial.key))
    assert "fine-tuned up to this block" in (tmp_path / "mine" / "README.md").read_text()
    assert sorted(one.name for one in (tmp_path / "mine" / "backbone").iterdir() if one.is_dir()) == [
        "scheduler",
        "unet",
    ]


def test_a_classifier_that_is_not_the_recorded_one_is_said_to_be(swept, tmp_path, monkeypatch, capsys):
    whole = RowStore.tables

    def other(self):
        tables = whole(self)
        rows = [
            {**row, "correct": [not one for one in row["correct"][:3]] + row["correct"][3:]}
            for row in tables["correctness"].to_pylist()
        ]
        return {**tables, "correctness": pa.Table.from_pylist(rows, schema=tables["correctness"].schema)}

    monkeypatch.setattr(RowStore, "tables", other)
    assert main(["export", swept[0], "--results", swept[1], "--to", str(tmp_path / "mine")]) == 0
    said = capsys.readouterr().out
    assert "warning: the refitted head differs from the sweep on 3 of 40 test images" in said
    assert (
        "warning: the exported classifier differs from the sweep on 3 of 40"
        in (tmp_path / "mine" / "README.md").read_text()
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "seed=5"], ["no classifier of digits", "harness sweep tiny"]),
        (["--data", "digit"], ["--data digit", "did you mean 'digits'"]),
        (["--set", "features.pools=[9]"], ["features.pools", "9"]),
    ],
)
def test_what_cannot_be_exported_is_one_line(swept, tmp_path, capsys, arguments, words):
    target = tmp_path / "mine"
    assert main(["export", swept[0], "--results", swept[1], "--to", str(target), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for word in words:
        assert word in said
    assert not target.exists()


def test_a_file_is_no_folder(swept, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["export", swept[0], "--results", swept[1], "--to", str(tmp_path / "file")]) == 2
    assert "not a folder" in capsys.readouterr().err


def test_a_backbone_that_is_gone_is_not_trained_again(swept, tmp_path, capsys):
    path, results = swept
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    shutil.rmtree(copy / "artifacts" / "backbone")
    shutil.rmtree(copy / "artifacts" / "finetuned")
    assert main(["export", path, "--results", str(copy), "--to", str(tmp_path / "mine")]) == 2
    assert "missing from the results" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [copy]


def rows(trials, accuracies, status="ok"):
    """Returns tables in which these trials have these validation accuracies."""
    found = [
        {"key": trial.key, "status": status, "validation_accuracy": value, **trial.axes}
        for trial, value in zip(trials, accuracies, strict=True)
    ]
    return {
        name: studies.tables()[name].filled(found if name == "features" else []) for name in studies.tables()
    }


def test_the_best_on_validation_is_chosen_and_the_first_between_equals(swept):
    trials, _, _ = recorded(*swept)
    able = [trial for trial in trials if trial.axes["features"] == "trained"][:4]
    control = next(trial for trial in trials if trial.axes["features"] == "untrained")
    chosen = choose(trials, rows([*able, control], [0.5, 0.8, 0.8, None, 0.9]), "digits", "tiny", "here")
    assert chosen.trial is able[1]
    assert chosen.settings == 3
    assert chosen.left_out == {"untrained": 1}
    assert chosen.row["validation_accuracy"] == 0.8


def test_failed_trials_and_other_data_sets_are_not_chosen(swept):
    trials, _, _ = recorded(*swept)
    able = [trial for trial in trials if trial.axes["features"] == "trained"][:2]
    elsewhere = replace(able[1], data="other")
    everything = [able[0], elsewhere]
    assert choose(everything, rows(everything, [0.5, 0.9]), "digits", "tiny", "here").trial is able[0]
    assert choose(everything, rows(everything, [0.5, 0.9]), "other", "tiny", "here").trial is elsewhere
    with pytest.raises(UserError, match="no classifier of digits in here"):
        choose(everything, rows(everything, [0.5, 0.9], status="failed"), "digits", "tiny", "here")


def test_an_export_works_in_a_fresh_process_elsewhere(exported, tmp_path):
    (trials, dataset, tables), folder = exported
    best, _ = best_of(trials, tables)
    np.save(tmp_path / "images.npy", dataset.images[dataset.splits["test"]])
    np.save(tmp_path / "places.npy", dataset.splits["test"])
    program = (
        "import sys, harness, numpy as np\n"
        "assert 'torch' not in sys.modules\n"
        f"classifier = harness.load({str(folder)!r})\n"
        "p = classifier(np.load('images.npy'), index=np.load('places.npy'))\n"
        "print(p.argmax(1).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    right = np.array(json.loads(done.stdout)) == dataset.labels[dataset.splits["test"]]
    np.testing.assert_array_equal(right, correct_of(tables, best.key))


@pytest.mark.parametrize(
    ("head", "protocol"),
    [
        ("ridge", "ours"),
        ("linear", "published"),
        ({"name": "mlp", "hidden": [4], "train": {"steps": 3, "batch": 8, "workers": 0}}, "ours"),
    ],
)
def test_a_streamed_head_is_taken_home(tmp_path, capsys, head, protocol):
    streamed = {**EXPERIMENT["features"], "blocks": [2], "timesteps": [0], "heads": [head], "controls": []}
    streamed |= {"caching": "streamed", "protocol": protocol}
    path, results = written(tmp_path, {"data": DATA, "features": streamed}), str(tmp_path / "results")
    assert main(["sweep", path, "--debug", "--results", results]) == 0
    assert main(["export", path, "--results", results, "--to", str(tmp_path / "mine")]) == 0
    assert "warning" not in capsys.readouterr().out
    (trial,), dataset, tables = recorded(path, results)
    places = dataset.splits["test"]
    predicted = harness.load(tmp_path / "mine", "cpu")(dataset.images[places], index=places).argmax(1).numpy()
    np.testing.assert_array_equal(predicted == dataset.labels[places], correct_of(tables, trial.key))
