"""Several conditions of one backbone in one sweep, and what a family cannot do: refused by the plan."""

import json
import re

import pandas as pd
import pytest
from tiny_models import PIXELS, save_ddpm, save_dit, save_sd3, save_stable_diffusion

from harness.cli import main
from harness.core.errors import UserError
from harness.data.dataset import Images
from harness.sweep.experiment import load_experiment
from harness.sweep.plan import all_trials

pytestmark = pytest.mark.slow

DATA = {
    "name": "digits",
    "size": PIXELS,
    "channels": 3,
    "labels_per_class": 2,
    "max_validation": 20,
    "max_test": 20,
}
SAVED = {"unet": save_ddpm, "sd": save_stable_diffusion, "dit": save_dit, "sd3": save_sd3}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a tiny pipeline of each kind."""
    folder = tmp_path_factory.mktemp("models")
    for name, save in SAVED.items():
        save(folder / name)
    return folder


def written(folder, model, name="conditions", **sections):
    """Returns the file of an experiment on a pretrained backbone, which each of the sections gets."""
    backbone = {"name": "pretrained", "path": str(model)}
    given = {section: {"backbone": backbone, **values} for section, values in sections.items()}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"data": DATA, **given}))  # which is YAML too
    return str(path)


@pytest.fixture(scope="module")
def swept(models, tmp_path_factory):
    """The results of a sweep under two prompts."""
    folder = tmp_path_factory.mktemp("swept")
    features = {
        "conditions": [{"prompt": ""}, {"prompt": "a"}],
        "noise": ["fresh", "clean"],
        "blocks": [2],
        "after": ["output", "cross-attention"],
        "timesteps": [5],
        "pools": [2],
        "heads": ["ridge"],
        "controls": [],
    }
    path = written(
        folder,
        models / "sd",
        features=features,
        generation={"steps": 2, "samples": 6},
        cka={
            "blocks": [2, 5],
            "timesteps": [5],
            "images": 20,
            "encoders": ["pixels"],
            "against": ["blocks", "encoders"],
        },
    )
    assert main(["sweep", path, "--debug", "--results", str(folder / "results")]) == 0
    return folder / "results"


def test_rows_say_the_condition(swept):
    tables = {
        name: pd.read_parquet(swept / f"conditions/{name}.parquet")
        for name in ("features", "generation", "similarity")
    }
    assert all((table.status == "ok").all() for table in tables.values())
    features = tables["features"]
    assert set(features.condition) == {'prompt ""', 'prompt "a"'}
    assert len(features) == 2 * 2 * 2
    assert tables["generation"].condition.tolist() == ['prompt ""']
    similar = tables["similarity"]
    assert set(similar.a_condition) == {'prompt ""'}
    assert similar.b_condition[similar.b_model == "pixels"].isna().all()


def test_conditions_share_one_copy_of_the_network(swept):
    kept = [one for one in (swept / "artifacts/backbone").iterdir() if one.is_dir()]
    conditions = [one for one in (swept / "artifacts/condition").iterdir() if one.is_dir()]
    assert (len(kept), len(conditions)) == (1, 2)
    assert all(not any(one.rglob("diffusion_pytorch_model*")) for one in conditions)


def test_the_page_lets_the_reader_choose_the_condition_and_says_it_beside_the_samples(swept):
    page = (swept / "conditions/report.html").read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for title in ("Condition", "Noise", "Read after"):
        assert title in text
    learner = text[text.index("measured here") :][:200]
    assert re.search(
        r"condition prompt (\"|&#34;)a?(\"|&#34;), noise (fresh|clean), after (output|cross-attention)",
        learner,
    )


@pytest.mark.parametrize(
    ("model", "sections", "words"),
    [
        (
            "unet",
            {"features": {"conditions": [{"prompt": "a"}]}},
            ["features.conditions.0.prompt", "unconditional"],
        ),
        (
            "dit",
            {"features": {"conditions": [{"label": 77}]}},
            ["features.conditions.0.label = 77", "classes 0 to 4"],
        ),
        (
            "dit",
            {"features": {"conditions": [{"prompt": "a"}]}},
            ["features.conditions.0.prompt", "takes label"],
        ),
        ("sd", {"features": {"conditions": [{}, {"prompt": ""}]}}, ["features.conditions", "is given twice"]),
        (
            "unet",
            {"features": {"conditions": [{}, {}]}},
            ["features.conditions", "takes no condition; leave it out"],
        ),
        (
            "sd3",
            {"features": {"after": ["resnet"]}},
            ["features.after", "none of these blocks has a part 'resnet'", "mlp"],
        ),
        ("sd3", {"features": {"pools": [5]}}, ["features.pools: 5 is not between 1 and 4"]),
        ("sd3", {"features": {"pools": [1], "timesteps": [20]}}, ["features.timesteps", "20", "19"]),
        ("sd3", {"generation": {"steps": 21}}, ["generation.steps = 21: the backbone has 20 timesteps"]),
        (
            "dit",
            {"generation": {"steps": 2, "regularisers": ["dispersive"]}},
            ["this one is already trained"],
        ),
        (
            "dit",
            {"finetune": {"timesteps": [5], "blocks": [1], "regularisers": ["self_conditioning"]}},
            ["already trained"],
        ),
        (
            "sd3",
            {"finetune": {"timesteps": [5], "blocks": [1], "lora": {"targets": ["to_add_q"]}}},
            [
                "finetune.lora.targets",
                "SD3Transformer2DModel is called 'to_add_q'",
                "did you mean",
                "add_q_proj",
            ],
        ),
        (
            "unet",
            {"finetune": {"timesteps": [5], "blocks": [1], "lora": {}}},
            ["finetune.lora.targets: block 1 (conv_in) depends on no layer called to_q"],
        ),
    ],
)
def test_what_a_family_cannot_do_is_refused_by_the_plan(models, tmp_path, model, sections, words):
    experiment = load_experiment(written(tmp_path, models / model, **sections), [])
    with pytest.raises(UserError) as caught:
        all_trials(experiment, Images.read(experiment.data, experiment.seed))
    for word in words:
        assert word in str(caught.value)
