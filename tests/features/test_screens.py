"""Screens: a part of the images, spread evenly, read in the way of the grid; a row without a test accuracy."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from tiny_features import pick, trials_of

from harness.core.errors import UserError
from harness.core.stages import run
from harness.features.extract import images_of
from harness.features.probe import read_features
from harness.features.screening_probe import best_left_out, left_out
from harness.features.study import STUDY
from harness.sweep import studies

SETTINGS = {"timesteps": [0, 20, 50], "heads": ["linear", "ridge"], "controls": []}


def screens_of(**settings):
    dataset, grid = trials_of(**{**SETTINGS, **settings})
    return dataset, grid, STUDY.auto.screens("screening", grid)


@pytest.mark.parametrize(
    ("images", "expected"), [(20, (10, 10)), (61, (31, 30)), (70, (40, 30)), (500, (40, 30)), (1, (0, 1))]
)
def test_a_thinned_data_set_has_evenly_spread_images_and_none_to_test_on(images, expected):
    dataset, _ = trials_of()
    thin = dataset.thinned(4, images)
    train, validation = thin.splits["train"], thin.splits["validation"]
    assert (len(train), len(validation), len(thin.splits["test"])) == (*expected, 0)
    assert len({*train, *validation}) == sum(expected)
    assert set(train) <= set(dataset.labelled(4))
    assert set(validation) <= set(dataset.splits["validation"])
    if len(train) >= 10:  # the labelled images are sorted by class
        assert set(dataset.labels[train]) == set(range(10))
    assert thin.images is dataset.images, "the same noise for the same image"


def test_there_is_one_screen_for_every_block_timestep_and_pool():
    _, grid, screens = screens_of()
    places = [(one.axes["block"], one.axes["timestep"], one.axes["pool"]) for one in screens]
    assert len(places) == len(set(places)) == 2 * 3 * 2
    assert not {one.key for one in screens} & {one.key for one in grid}
    assert {(one.axes["features"], one.axes["head"], one.searchable) for one in screens} == {
        ("screen", "ridge", False)
    }


def test_a_screen_has_features_of_its_own_which_the_whole_timestep_shares():
    _, grid, screens = screens_of(shard=64)
    images = 50
    by_timestep = {}
    for screen in screens:
        (stage,) = screen.reads["features"]
        assert stage.part["images"] == [0, images]
        assert stage.work.image_passes == images
        assert stage.job in {sibling.job for sibling in stage.siblings}
        by_timestep.setdefault(screen.axes["timestep"], set()).add(stage.job)
    assert [len(jobs) for jobs in by_timestep.values()] == [1, 1, 1]
    whole = {stage.key for trial in grid for stage in trial.reads["features"]}
    assert not whole & {stage.key for screen in screens for stage in screen.reads["features"]}


@pytest.mark.parametrize(
    ("data", "images"),
    [({}, 50), ({"max_test": 530}, 90), ({"max_test": 5, "max_validation": 5, "labels_per_class": 2}, 30)],
)
def test_a_screen_takes_a_share_of_the_images_but_not_too_few(data, images):
    _, _, screens = screens_of(data=data)
    assert {screen.config["images"] for screen in screens} == {images}


def test_a_screen_reads_the_features_that_the_grid_has_of_the_same_images(context):
    dataset, grid, screens = screens_of(blocks=[5], timesteps=[20], pools=[2], heads=["linear"], batch=16)
    (screen,), (trial,) = screens, grid
    thin = dataset.thinned(4, screen.config["images"])
    few = read_features(screen, context, thin)[0][:]
    whole, _ = read_features(trial, context, dataset)
    places = {image: place for place, image in enumerate(dataset.probed(4))}
    read = np.concatenate([images_of(stage, context) for stage in screen.reads["features"]])
    np.testing.assert_array_equal(read, thin.probed(None))
    np.testing.assert_allclose(few, whole[[places[image] for image in read]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("samples", "numbers"), [(30, 7), (20, 50)])
def test_what_is_left_out_is_predicted_as_if_it_had_never_been_there(samples, numbers):
    draw = np.random.default_rng(0)
    x, labels = draw.normal(3, 2, (samples, numbers)), draw.integers(0, 3, samples)
    x[:, 0] = 5.0
    z = StandardScaler().fit_transform(x)
    y = np.where(labels[:, None] == np.arange(3), 1.0, -1.0)
    for strength, scores in zip([1e-3, 0.3], left_out(z, y, [1e-3, 0.3]), strict=True):
        for place in range(samples):
            others = np.arange(samples) != place
            model = Ridge(alpha=strength * samples).fit(z[others], y[others])
            np.testing.assert_allclose(scores[place], model.predict(z[place : place + 1])[0], rtol=1e-6)


def test_the_strength_of_a_screen_is_that_which_predicts_most():
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 4, 60)
    x = np.eye(4)[labels] @ draw.normal(0, 1, (4, 80)) + draw.normal(0, 1.5, (60, 80))
    scores, strength = best_left_out(x, labels, 4, [1e-6, 1.0, 1e6])
    y = np.where(labels[:, None] == np.arange(4), 1.0, -1.0)
    shares = [float((one.argmax(1) == labels).mean()) for one in left_out(x, y, [1e-6, 1.0, 1e6])]
    assert (scores.argmax(1) == labels).mean() == max(shares)
    assert shares[[1e-6, 1.0, 1e6].index(strength)] == max(shares)


def test_a_screen_ends_in_a_row_of_the_images_that_were_passed(context):
    _, _, screens = screens_of(data={"labels_per_class": 12, "max_validation": 120})
    screen = pick(screens, block=5, timestep=20, pool=2)
    outcome = run(screen, context, "cpu")
    assert not outcome.failed, outcome.tables["features"][0]["error"]
    (row,) = outcome.tables["features"]
    studies.tables()["features"].filled([row])
    assert set(outcome.tables) == {"features"}
    assert row["features"] == "screen"
    assert row.get("test_accuracy") is None
    assert (
        row["image_passes"] == row["train_n"] + 1 == row["validation_accuracy_n"] == screen.config["images"]
    )
    assert row["validation_accuracy"] > 0.2, "an untrained network's features are better than luck"


def test_rows_of_one_pass_say_the_same_number_of_passes(context):
    _, grid, _ = screens_of(timesteps=[20], pools=[1], draws=2, views=2)
    rows = [run(trial, context, "cpu").tables["features"][0] for trial in grid]
    assert {row["image_passes"] for row in rows} == {2 * (40 + 30 + 40) + 2 * 40}
    _, trials = trials_of(controls=["pixels"], blocks=[2], timesteps=[20], pools=[1], heads=["ridge"])
    pixels = run(pick(trials, features="pixels"), context, "cpu")
    assert pixels.tables["features"][0]["image_passes"] == 0


def test_features_that_are_not_kept_cannot_be_screened():
    _, grid, _ = screens_of()
    streamed = [replace(trial, reads={"streamed": trial.reads["features"]}) for trial in grid]
    with pytest.raises(UserError, match=r"features\.caching=cached"):
        STUDY.auto.screens("screening", streamed)
