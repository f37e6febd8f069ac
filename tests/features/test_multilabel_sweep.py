"""Images with several labels, from a folder to the page, and home: mAP against scikit-learn."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from sklearn.metrics import average_precision_score
from tiny_features import FEATURES

import harness
from harness.cli import main
from harness.core.artifacts import ArtifactStore
from harness.core.errors import UserError
from harness.core.stages import Context
from harness.core.storage import Storage
from harness.data.dataset import Images, load
from harness.features.probe import fit_head, samples_of
from harness.sweep.experiment import load_experiment
from harness.sweep.plan import all_trials

SHAPES = ("circle", "line", "square")
HEADS = [
    "linear",
    "ridge",
    {"name": "mlp", "hidden": [16], "train": {"steps": 60, "batch": 32, "learning_rate": 1e-2, "workers": 0}},
]
TUNE = {"steps": 3, "batch": 16, "optimizer": "sgd", "learning_rate": 0.01, "workers": 0}
MEASURED = "mean_average_precision"


def picture(there, draw):
    """Returns a grey picture of 16x16 pixels with these shapes at random places, and some noise."""
    image = Image.new("L", (16, 16))
    pen = ImageDraw.Draw(image)
    for name, one in zip(SHAPES, there, strict=True):
        left, top = draw.integers(0, 9, 2).tolist()
        if one and name == "circle":
            pen.ellipse((left, top, left + 6, top + 6), fill=200)
        elif one and name == "square":
            pen.rectangle((left, top, left + 5, top + 5), outline=255)
        elif one:
            pen.line((0, top, 15, 15 - top), fill=140)
    levels = np.asarray(image).astype(int) + draw.integers(0, 40, (16, 16))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def drawn(n=160):
    """Returns pictures, and which shapes each has."""
    draw = np.random.default_rng(0)
    there = draw.random((n, 3)) < (0.5, 0.4, 0.25)
    return [picture(one, draw) for one in there], there


def folder(place):
    """Writes the pictures with metadata.jsonl; returns the section `data:`."""
    place.mkdir()
    images, there = drawn()
    lines = []
    for number, (image, row) in enumerate(zip(images, there, strict=True)):
        image.save(place / f"{number}.png")
        names = [name for name, one in zip(SHAPES, row, strict=True) if one]
        lines.append(json.dumps({"file_name": f"{number}.png", "labels": names}))
    (place / "metadata.jsonl").write_text("\n".join(lines))
    return {"name": "json", "path": str(place), "label": "shapes"}


def written(place, data, **sections):
    path = place / "shapes.yaml"
    features = {**FEATURES, "blocks": [2, 5], "timesteps": [0, 50], "pools": [2], "heads": HEADS}
    path.write_text(json.dumps({"data": data, "features": features, **sections}))
    return str(path)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    place = tmp_path_factory.mktemp("shapes")
    tune = {"blocks": [5], "timesteps": [0], "pools": [2], "tune": TUNE}
    path = written(place, folder(place / "images"), finetune=tune)
    assert main(["sweep", path, "--debug", "--results", str(place / "results")]) == 0
    return path, str(place / "results")


def recorded(results):
    """Returns the rows of study 1."""
    return pd.read_parquet(Path(results, "shapes", "features.parquet"))


def trials_of(path):
    experiment = load_experiment(path, [])
    return all_trials(experiment, Images.read(experiment.data, experiment.seed)), experiment


def expected(scores, truth):
    return np.mean([average_precision_score(truth[:, k], scores[:, k]) for k in range(3)])


@pytest.mark.slow
def test_rows_hold_the_map_of_each_head_as_scikit_learn_has_it(swept):
    path, results = swept
    trials, experiment = trials_of(path)
    features = recorded(results).set_index("key")
    assert (features.status == "ok").all()
    assert features.validation_accuracy.isna().all()
    assert features.test_accuracy.isna().all()
    assert (features[f"test_{MEASURED}_n"] == 48).all()
    assert not len(pd.read_parquet(Path(results, "shapes", "correctness.parquet")))
    context = Context(ArtifactStore(Storage(results)), {}, ray=False)
    dataset = load(experiment.data, experiment.seed)
    checked = [one for one in trials if one.axes["features"] == "trained" and one.axes["block"] == 5]
    assert {one.axes["head"] for one in checked} == {"linear", "ridge", "mlp"}
    for trial in checked:
        assert trial.objective == f"validation_{MEASURED}"
        samples = samples_of(trial, context, dataset)
        fitted = fit_head(trial, samples, 3, context)
        for split, part in (("validation", samples.validation), ("test", samples.test)):
            np.testing.assert_array_equal(part.labels_N, dataset.labels[dataset.splits[split]])
            row = features.loc[trial.key]
            assert row[f"{split}_{MEASURED}"] == pytest.approx(expected(fitted.scores(part.x), part.labels_N))
            assert (
                row[f"{split}_{MEASURED}_low"] < row[f"{split}_{MEASURED}"] < row[f"{split}_{MEASURED}_high"]
            )


@pytest.mark.slow
def test_features_tell_more_than_a_constant_answer(swept):
    features = recorded(swept[1])
    _, there = drawn()
    assert features[features.features == "trained"][f"test_{MEASURED}"].max() > there.mean() + 0.1
    assert set(features.features) == {"trained", "untrained", "pixels", "finetuned"}


@pytest.mark.slow
def test_the_page_says_map(swept):
    html = Path(swept[1], "shapes", "report.html").read_text()
    assert "by validation mAP" in html
    assert "mAP over block and timestep" in html
    assert "chance level" in html
    assert "multi-label: " in html


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["trained", "finetuned"])
def test_an_exported_classifier_gives_each_class_its_own_probability(swept, tmp_path, capsys, kind):
    path, results = swept
    if kind == "finetuned":
        alone = json.loads(Path(path).read_text())
        shared = {name: alone["features"][name] for name in ("backbone", "train")}
        alone = {"data": alone["data"], "finetune": {**alone["finetune"], **shared}}
        path = str(tmp_path / "shapes.yaml")
        Path(path).write_text(json.dumps(alone))
    assert main(["export", path, "--results", results, "--to", str(tmp_path / "mine")]) == 0
    said = capsys.readouterr().out
    assert "% mAP on test (" in said
    assert "warning" not in said
    loaded = harness.load(tmp_path / "mine", "cpu")
    assert loaded.classes == SHAPES
    dataset = load(load_experiment(path, []).data, 0)
    places = dataset.splits["test"]
    found = loaded(dataset.images[places], index=places).numpy()
    assert ((found > 0) & (found < 1)).all()
    assert not np.allclose(found.sum(1), 1)
    features = recorded(results)
    row = features[features.features == kind].sort_values(f"validation_{MEASURED}", kind="stable").iloc[-1]
    mean_ap = expected(found, dataset.labels[places])
    assert mean_ap == pytest.approx(row[f"test_{MEASURED}"], abs=1e-3)
    card = (tmp_path / "mine" / "README.md").read_text()
    assert f"Test mAP {100 * row[f'test_{MEASURED}']:.1f} %" in card
    assert "accuracy" not in card.lower()


@pytest.mark.slow
def test_a_search_screens_by_map_and_measures_part_of_the_grid(tmp_path):
    path = written(tmp_path, folder(tmp_path / "images"), search={"name": "auto"})
    values = json.loads(Path(path).read_text())
    values["features"] |= {"timesteps": [0, 20, 40, 60, 80], "heads": ["linear", "ridge"], "controls": []}
    Path(path).write_text(json.dumps(values))
    assert main(["sweep", path, "--debug", "--results", str(tmp_path / "results")]) == 0
    features = recorded(tmp_path / "results")
    screens = features[features.features == "screen"]
    assert len(screens)
    assert screens[f"validation_{MEASURED}"].between(0, 1).all()
    assert screens[f"test_{MEASURED}"].isna().all()
    assert 0 < (features.features == "trained").sum() < 2 * 5 * 2


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """The same pictures in a Parquet file, with columns of 0 and 1."""
    place = tmp_path_factory.mktemp("parquet")
    images, there = drawn(80)
    encoded = []
    for number, image in enumerate(images):
        image.save(place / f"{number}.png")
        encoded.append({"bytes": (place / f"{number}.png").read_bytes(), "path": None})
    columns = {name: there[:, number].astype(int) for number, name in enumerate(SHAPES)}
    pq.write_table(pa.table({"image": encoded, **columns}), place / "all.parquet")
    return {"name": "parquet", "path": str(place / "all.parquet"), "label_columns": list(SHAPES)}


def test_columns_of_a_parquet_file_are_the_classes(parquet, tmp_path):
    trials, experiment = trials_of(written(tmp_path, parquet))
    assert {one.objective for one in trials} == {f"validation_{MEASURED}"}
    dataset = load(experiment.data, experiment.seed)
    assert dataset.classes == SHAPES
    assert sorted(dataset.labels.tolist()) == sorted(drawn(80)[1].astype(int).tolist())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"heads": ["linear", "knn"]},
            "features.heads: head knn takes one label an image, but data set all.parquet",
        ),
        (
            {"caching": "streamed", "heads": ["ridge"]},
            "set features.caching=cached and features.protocol=ours",
        ),
        (
            {"protocol": "published", "heads": ["linear"]},
            "heads that learn from a stream take one label an image",
        ),
        ({"combined": [{"blocks": [5], "timesteps": [0], "head": "knn"}]}, "features.combined: head knn"),
    ],
)
def test_what_takes_one_label_an_image_is_refused_by_the_plan(parquet, tmp_path, changes, words):
    path = written(tmp_path, parquet)
    values = json.loads(Path(path).read_text())
    values["features"] |= changes
    Path(path).write_text(json.dumps(values))
    with pytest.raises(UserError) as caught:
        trials_of(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"data": {"labels_per_class": 2}}, "images have several labels, so images per class"),
        ({"weights": {}}, "weights: data set all.parquet is multi-label, but this study's networks"),
    ],
)
def test_other_ways_of_using_the_labels_are_refused_too(parquet, tmp_path, section, words):
    path = written(tmp_path, {**parquet, **section.pop("data", {})}, **section)
    with pytest.raises(UserError) as caught:
        trials_of(path)
    assert words in str(caught.value)
