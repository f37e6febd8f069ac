"""Searches as planned: what each decides on, what it takes at most, and that a sweep keeps to it."""

import json

import pytest
import yaml

from harness.cli import main
from harness.core.errors import UserError
from harness.core.row_store import RowStore
from harness.core.storage import Storage
from harness.sweep import studies
from harness.sweep.experiment import SearchConfig, load_experiment
from harness.sweep.run import plan_experiment
from harness.sweep.search_plan import plan_searches

SMALL = {
    "data": {"name": "digits", "labels_per_class": 10, "max_validation": 100, "max_test": 60},
    "features": {
        "backbone": {"name": "unet", "block_out_channels": [8, 16], "layers_per_block": 1},
        "train": {"steps": 2, "batch": 8, "workers": 0},
        "blocks": [2, 5],
        "timesteps": [0, 10, 30, 90, 200, 400],
        "pools": [1, 2],
        "heads": ["ridge", {"name": "linear", "strengths": [0.1]}],
        "controls": ["pixels"],
    },
}
IMAGES = 100 + 100 + 60


@pytest.fixture
def planned(tmp_path):
    """Returns a function from `--set` options to a plan on empty results."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return lambda *options: plan_experiment(load_experiment(str(path), list(options)), Storage(str(tmp_path)))


def test_a_grid_has_no_search_and_no_screens(planned):
    plan = planned()
    assert plan.searches == []
    assert plan.search_stages == []
    assert {trial.axes["features"] for trial in plan.trials} == {"trained", "pixels"}
    assert plan.to_run == 6 * 2 * 2 * 2 + 2


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_a_search_by_optuna_takes_its_budget_and_all_passes_at_most(planned, name):
    plan = planned(f"search={{name: {name}, trials: 7}}")
    (search,) = plan.searches
    assert (search.budget, len(search.candidates), plan.to_run) == (7, 48, 7 + 2)
    assert search.summary()["image_passes"] == search.summary()["grid_image_passes"] == 6 * IMAGES
    assert f"{name} search: at most 7 of 48 features trials" in "\n".join(plan.lines())


BUDGET, SCREENS = 18, 9  # two for each of five timesteps that are screened, 2 blocks, 2 pools, 2 x 2 heads


def test_auto_counts_its_screens_in_the_budget_that_it_states(planned):
    plan = planned("search={name: auto}")
    (search,) = plan.searches
    fits = [trial for trial in search.most if trial.searchable]
    screens = [trial for trial in search.most if not trial.searchable]
    assert (len(fits), len(screens)) == (BUDGET - SCREENS, SCREENS)
    assert search.budget == len(search.most) == BUDGET
    facts = plan.summary()["searches"][0]
    assert facts["trials"] == BUDGET
    assert 4 * IMAGES < facts["image_passes"] <= (4 + 5 * 0.15) * IMAGES
    assert plan.image_passes == facts["image_passes"] + 3 * 2 * 8
    said = "at most 18 trials, 9 of them on some of the images, instead of 48 features trials"
    assert said in "\n".join(plan.lines())


@pytest.mark.parametrize("trials", [1, 5, 12])
def test_a_smaller_budget_holds_for_fits_and_screens_together(planned, trials):
    (search,) = planned(f"search={{name: auto, trials: {trials}}}").searches
    assert search.budget == len(search.most) == trials


def test_the_published_methods_are_asked_for_by_name(planned):
    (local,) = planned("search={name: auto, method: local}").searches
    assert (local.budget, len(local.most), {one.searchable for one in local.most}) == (BUDGET, BUDGET, {True})
    assert local.summary()["image_passes"] == 6 * IMAGES
    (frequency,) = planned("search={name: auto, method: frequency}").searches
    measured = [trial for trial in frequency.most if not trial.searchable]
    assert [trial.axes["features"] for trial in measured] == ["frequency"] * 6
    assert len(frequency.most) == 6 + BUDGET
    assert frequency.summary()["image_passes"] == 6 * 64 + 3 * IMAGES


def test_a_method_that_is_not_there_or_not_read_is_refused(planned):
    with pytest.raises(UserError, match=r"unknown search\.method 'frequencies'.*did you mean 'frequency'"):
        planned("search={name: auto, method: frequencies}")
    with pytest.raises(UserError, match="method = 'local' is for name = 'auto' only"):
        planned("search={name: tpe, method: local}")


def test_what_is_known_is_taken_off_only_where_the_search_comes_by(planned):
    (search,) = planned("search={name: auto}").searches
    wanted = search.chooser.longest()
    config = SearchConfig(name="auto")
    grid = [trial for trial in search.candidates if trial.searchable]
    screens = [trial for trial in search.candidates if not trial.searchable]

    def left(known):
        found = plan_searches(config, grid, screens, dict.fromkeys(known, 0.5))
        return found[0].budget if found else 0

    assert left([]) == len(wanted)
    assert left([trial.key for trial in grid]) == len(wanted), "screens come first"
    assert left(search.chooser.next({})[:3]) == len(wanted) - 3
    assert left([trial.key for trial in [*grid, *screens]]) == 0


def test_a_search_chooses_within_a_data_set_and_not_between_them(planned):
    other = "features.transfer=[{name: digits, label: few, labels_per_class: 6, max_validation: 50, max_test: 40}]"
    plan = planned(other, "search={name: auto}")
    assert len(plan.searches) == 2
    assert len({trial.data_fingerprint for search in plan.searches for trial in search.candidates}) == 2
    for search in plan.searches:
        assert len({trial.data_fingerprint for trial in search.candidates}) == 1


def test_auto_is_refused_where_features_are_not_kept(planned):
    with pytest.raises(UserError, match=r"features\.caching=cached"):
        planned("features.caching=streamed", "features.heads=[ridge]", "search={name: auto}")


def test_a_study_that_does_not_choose_is_run_whole(tmp_path):
    path = tmp_path / "both.yaml"
    weights = {
        "network": {"name": "convnet", "channels": [8, 8]},
        "parameters": ["norm"],
        "checkpoints": {"workers": 0},
        "k": [2, 4],
        "autoencoder": {"channels": [4, 4], "latent": 8},
    }
    path.write_text(
        yaml.safe_dump(
            {
                **SMALL,
                "weights": {**weights, "autoencoder": {"channels": [4], "latent": 2}},
                "search": {"name": "auto"},
            }
        )
    )
    plan = plan_experiment(load_experiment(str(path), []), Storage(str(tmp_path)))
    assert [search.study for search in plan.searches] == ["features"]
    assert sum(trial.study == "weights" for trial in plan.missing) == 2


@pytest.mark.slow
def test_a_sweep_by_auto_keeps_to_its_plan_and_has_nothing_to_do_the_second_time(tmp_path, capsys):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "search": {"name": "auto"}}))
    command = ["sweep", str(path), "--results", str(tmp_path / "results"), "--debug", "--json"]
    assert main(command) == 0
    facts = json.loads(capsys.readouterr().out)
    rows = RowStore(Storage(str(tmp_path / "results")), studies.tables()).tables()["features"].to_pylist()
    kinds = [row["features"] for row in rows]
    passes = {(row["features"], row["timestep"]): row["image_passes"] for row in rows}
    most = facts["searches"][0]
    assert kinds.count("trained") + kinds.count("screen") == most["trials"] == BUDGET
    assert kinds.count("screen") <= SCREENS
    assert 2 <= len({row["timestep"] for row in rows if row["features"] == "trained"}) <= 4
    assert sum(passes.values()) <= most["image_passes"] <= (4 + 5 * 0.15) * IMAGES
    assert main(command) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["missing"], again["done_now"], again["searches"]) == (0, 0, [])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["frequency", "local"])
def test_the_published_methods_run_in_a_sweep(tmp_path, capsys, method):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "search": {"name": "auto", "method": method, "trials": 9}}))
    command = ["sweep", str(path), "--results", str(tmp_path / "results"), "--debug", "--json"]
    assert main(command) == 0
    capsys.readouterr()
    rows = RowStore(Storage(str(tmp_path / "results")), studies.tables()).tables()["features"].to_pylist()
    kinds = [row["features"] for row in rows]
    assert kinds.count("trained") == 9
    assert kinds.count("frequency") == (6 if method == "frequency" else 0)
    assert all((row["high_frequency_ratio"] is None) == (row["features"] != "frequency") for row in rows)
    assert main(command) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["missing"], again["done_now"], again["searches"]) == (0, 0, [])


def test_seeds_are_searched_one_by_one(tmp_path):
    """Trials of two seeds have the same axes: in one search, one of them would never be run."""
    weights = {
        "network": {"name": "mlp", "widths": [4]},
        "parameters": ["fc"],
        "k": [2, 3, 4],
        "seeds": [0, 1],
    }
    path = tmp_path / "seeds.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "weights": {**weights, "autoencoder": {"channels": [4], "latent": 2}},
                "search": {"name": "random", "trials": 2},
            }
        )
    )
    plan = plan_experiment(load_experiment(str(path), []), Storage(str(tmp_path)))
    assert [len(search.candidates) for search in plan.searches] == [3, 3]
    assert [{trial.seed for trial in search.candidates} for search in plan.searches] == [{0}, {1}]
