"""Every backbone family through a whole sweep: features, CKA, samples, fine-tuning, a search, export and loading."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from tiny_models import PIXELS, save_adm, save_ddpm, save_dit, save_sd3, save_stable_diffusion

import harness
from harness.cli import main
from harness.core.artifacts import ArtifactStore
from harness.core.registry import load_attribute
from harness.core.stages import Context
from harness.core.storage import Storage
from harness.data.dataset import Images, load
from harness.features.probe import read_features
from harness.models.backbones.family import family_named
from harness.sweep.experiment import load_experiment
from harness.sweep.plan import all_trials

pytestmark = pytest.mark.slow

ERROR = 5e-7  # relative to the largest feature
DATA = {
    "name": "digits",
    "size": PIXELS,
    "channels": 3,
    "labels_per_class": 3,
    "max_validation": 20,
    "max_test": 20,
}
TUNE = {"steps": 3, "batch": 8, "optimizer": "sgd", "learning_rate": 0.01, "workers": 0}


class Case(NamedTuple):
    """A family: how a tiny pipeline of it is saved, and what of it is swept."""

    save: Callable[[Path], object]
    blocks: list[int]  # two
    timesteps: list[int]  # two
    part: str  # of both blocks, to read besides their output
    lora: bool = False  # fine-tune by adapters
    search: str = "grid"
    condition: str | None = None  # as rows show it


CASES = {
    "UNet2DModel": Case(save_ddpm, [4, 5], [5, 60], "resnet"),
    "ADMUNet2DModel": Case(save_adm, [4, 5], [5, 60], "resnet"),
    "UNet2DConditionModel": Case(
        save_stable_diffusion, [2, 5], [5, 60], "cross-attention", condition='prompt ""'
    ),
    "DiTTransformer2DModel": Case(save_dit, [1, 3], [5, 60], "query", lora=True, condition="null label"),
    "SD3Transformer2DModel": Case(
        save_sd3, [1, 2], [2, 12], "mlp", lora=True, search="auto", condition='prompt ""'
    ),
}


class Swept(NamedTuple):
    """A sweep that has ended."""

    family: str  # name
    case: Case
    folder: Path  # that holds the experiments and the results

    @property
    def results(self):
        return str(self.folder / "results")

    def table(self, name):
        return pd.read_parquet(f"{self.results}/all/{name}.parquet")

    def written(self, name, **sections):
        """Returns the file of an experiment on the same data."""
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps({"data": DATA, **sections}))  # which is YAML too
        return str(path)


@pytest.fixture(scope="module", params=CASES)
def swept(request, tmp_path_factory):
    folder, case = tmp_path_factory.mktemp(request.param), CASES[request.param]
    case.save(folder / "model")
    backbone = {"backbone": {"name": "pretrained", "path": str(folder / "model")}}
    tuned = {
        "blocks": case.blocks[1:],
        "timesteps": case.timesteps[:1],
        "pools": [2],
        "heads": ["linear"],
        "tune": TUNE,
        "lora": {"rank": 2} if case.lora else None,
        "gradient_checkpointing": True,
    }
    sections = {
        "features": {
            **backbone,
            "blocks": case.blocks,
            "after": ["output", case.part],
            "noise": ["fresh", "clean"],
            "timesteps": case.timesteps,
            "pools": [2],
            "heads": ["ridge"],
            "batch": 32,
        },
        "cka": {"blocks": case.blocks, "timesteps": case.timesteps[:1], "images": 20, "encoders": ["pixels"]},
        "generation": {
            "steps": 2,
            "samples": 6,
            "encoders": [{"name": "random", "widths": [8], "size": 16}],
            "batch": 4,
        },
        "finetune": tuned,
        "search": case.search,
    }
    one = Swept(request.param, case, folder)
    path = one.written("all", **sections)
    assert main(["sweep", path, "--debug", "--results", one.results]) == 0
    one.written("frozen", features=sections["features"], search=case.search)
    one.written("tuned", finetune={**backbone, **tuned})
    return one


def loaded(swept, name):
    """Returns the exported classifier, its trial, the data set, a context, and the experiment's rows."""
    path, target = str(swept.folder / f"{name}.yaml"), swept.folder / f"{name}-exported"
    if not target.exists():
        assert main(["export", path, "--results", swept.results, "--to", str(target)]) == 0
    experiment = load_experiment(path, [])
    trials = all_trials(experiment, Images.read(experiment.data, experiment.seed))
    found = harness.load(target, "cpu")
    about = found.about
    (trial,) = [
        one
        for one in trials
        if (one.axes["block_name"], one.axes["timestep"], one.axes["features"])
        == (about.module, about.timestep, about.features)
        and (one.axes["noise"] == "fresh") == about.noised
    ]
    context = Context(
        ArtifactStore(Storage(swept.results)), {"run": "test-run"}, ray=False, accelerators=False
    )
    return found, trial, load(experiment.data, experiment.seed), context


def recorded(swept, trial):
    """Returns which test images a trial classified correctly."""
    rows = swept.table("correctness").set_index("key")
    return np.asarray(rows.loc[trial.key, "correct"])


def test_every_trial_has_its_rows(swept):
    for name in ("features", "similarity", "generation"):
        rows = swept.table(name)
        assert (rows.status == "ok").all()
        assert len(rows)
    features, case = swept.table("features"), swept.case
    trained = features[features.features == "trained"]
    if case.search == "grid":
        assert len(trained) == 2 * 2 * 2 * 2
    else:
        assert 0 < len(trained) < 2 * 2 * 2 * 2
        assert (features.features == "screen").any()
    assert set(trained.after) == {"output", case.part}
    assert set(trained.noise) == {"fresh", "clean"}
    assert set(trained.condition.fillna("")) == {case.condition or ""}
    (tuned,) = features[features.features == "finetuned"].to_dict("records")
    assert tuned["tuning"] == ("lora rank 2" if case.lora else "all")
    assert np.isfinite(swept.table("generation").frechet).all()
    assert np.isfinite(swept.table("similarity").cka).all()


def test_the_exported_probe_has_the_features_and_predictions_of_the_sweep(swept):
    found, trial, dataset, context = loaded(swept, "frozen")
    stored_MCPP, _ = read_features(trial, context, dataset)
    index_M = dataset.probed(DATA["labels_per_class"])
    features_MCPP = found.features(dataset.images[index_M], index=index_M).numpy()
    stored_MCPP = np.asarray(stored_MCPP[:])
    assert np.abs(features_MCPP - stored_MCPP).max() <= ERROR * np.abs(stored_MCPP).max()
    check_predictions(swept, found, trial, dataset)


def test_the_exported_fine_tuned_encoder_has_the_predictions_of_the_sweep(swept):
    found, trial, dataset, _ = loaded(swept, "tuned")
    check_predictions(swept, found, trial, dataset)
    card = (swept.folder / "tuned-exported/README.md").read_text()
    assert ("by adapters (lora rank 2) that are merged" in card) == swept.case.lora


def check_predictions(swept, found, trial, dataset):
    places = dataset.splits["test"]
    predicted = found(dataset.images[places], index=places).argmax(1).numpy()
    np.testing.assert_array_equal(predicted == dataset.labels[places], recorded(swept, trial))


def test_the_fine_tuned_network_is_a_plain_one(swept):
    """Opened by diffusers: no tensor of an adapter is left, and none is missing."""
    _, trial, _, context = loaded(swept, "tuned")
    family = family_named(swept.family)
    place = context.folder(trial.needs["tuned"]) / family.folder
    _, about = load_attribute(family.network).from_pretrained(
        place, output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(about.values())


def test_running_again_computes_nothing(swept, capsys):
    assert (
        main(["sweep", str(swept.folder / "all.yaml"), "--debug", "--results", swept.results, "--json"]) == 0
    )
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["missing"] == facts["done_now"] == facts["image_passes"] == 0
