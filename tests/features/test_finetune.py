"""Fine-tuning: what learns, what is left alone, and that the encoder that is kept is the one that was judged."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from safetensors.torch import load_file
from tiny_features import DATA, FEATURES, family_unet_and_process
from torch import nn

from harness.core.config import parse
from harness.core.errors import UserError
from harness.core.seeds import derive_seed
from harness.core.stages import run
from harness.core.storage import Storage
from harness.core.tables import WHEN_AND_WHERE
from harness.data.config import DataConfig
from harness.data.dataset import Images, load, open_dataset
from harness.features.extract import open_denoiser
from harness.features.finetune.config import FinetuneConfig
from harness.features.finetune.evaluate import scores
from harness.features.finetune.study import STUDY
from harness.features.finetune.task import FineTuning, fine_tuning, read_head
from harness.models.backbones.denoiser import Denoiser
from harness.sweep import studies
from harness.training import noise
from harness.training.config import Augment
from harness.training.randomness import StepRandomness

TUNE = {"steps": 4, "batch": 16, "optimizer": "sgd", "learning_rate": 0.05, "rates": {}, "workers": 0}
FINETUNE = {
    **{name: FEATURES[name] for name in ("backbone", "train", "batch")},
    "blocks": [4],
    "timesteps": [5],
    "pools": [2],
    "tune": TUNE,
}
MLP = {"name": "mlp", "hidden": [8]}


def tuned_trials(seed=0, data=None, **settings):
    """Returns the data set and the trials of the smallest experiment, but for what is given."""
    data = parse(DataConfig, {**DATA, **(data or {})}, "data")
    config = parse(FinetuneConfig, {**FINETUNE, **settings}, "finetune")
    images = Images.read(data, seed)
    return load(data, seed), STUDY.trials(config, images, seed)


def rows_of(trial, context):
    outcome = run(trial, context, "cpu")
    assert not outcome.failed, outcome.tables["features"][0]["error"]
    for name, rows in outcome.tables.items():
        assert len(studies.tables()[name].filled(rows)) == len(rows)
    return outcome.tables["features"][0], outcome.tables["correctness"][0]


def a_task(module="mid_block", augment=None, **unet):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), np.uint8))
    return FineTuning(
        Denoiser(*family_unet_and_process(**unet)),
        module,
        2,
        5,
        lambda shape: nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 3, dtype=torch.float64)),
        images,
        torch.arange(12) % 3,
        augment,
    )


def losses(task, model, positions, step=0):
    positions_N = torch.as_tensor(positions)
    return task.loss(model, positions_N, StepRandomness(0, step, positions_N))


@pytest.mark.parametrize("augment", [None, Augment()])
def test_a_step_down_the_gradient_reduces_the_loss(augment):
    task = a_task(augment=augment)
    model = task.model()
    before = losses(task, model, range(12)).mean()
    before.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter -= 0.01 * parameter.grad
    assert losses(task, model, range(12)).mean() < before


@pytest.mark.slow
@pytest.mark.parametrize(
    "module", ["conv_in", "down_blocks.0.resnets.0", "mid_block", "up_blocks.0.upsamplers.0"]
)
def test_what_learns_is_what_the_block_depends_on_and_nothing_else(module):
    """Against brute force: a parameter counts if changing it changes the block's output."""
    task = a_task(module)
    model = task.model()
    z_BCHW = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.features(z_BCHW, 5)
        for name, parameter in model.encoder.named_parameters():
            kept = parameter.detach().clone()
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
            changed = not torch.equal(model.features(z_BCHW, 5), expected)
            parameter.copy_(kept)
            assert changed <= parameter.requires_grad, name
            reaches_nothing = name.endswith(("to_k.bias", "key.bias"))  # softmax does not see it
            assert parameter.requires_grad <= (changed or reaches_nothing), name
    assert all(parameter.requires_grad for parameter in model.head.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_the_network_learns_in_training_mode():
    model = a_task().model()
    assert all(part.training for part in model.modules())


def test_noise_and_crops_are_fresh_every_step_and_the_same_for_any_number_of_workers():
    task = a_task(augment=Augment())
    model = task.model()
    with torch.no_grad():
        whole = losses(task, model, range(12))
        parts = torch.empty(12)
        for rank in range(3):
            parts[rank::3] = losses(task, model, range(rank, 12, 3))
        assert not torch.allclose(losses(task, model, range(12), step=1), whole)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_cross_entropy_of_the_noised_image_under_the_head():
    task = a_task()
    model = task.model()
    x = task._images.float() / 127.5 - 1
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 100))[5]
    address = torch.zeros(12, 3, dtype=torch.int64)
    address[:, 0] = torch.arange(12)
    epsilon = noise.normal(derive_seed(0, "noise"), address, (1, 8, 8))
    found = {}
    hook = model.encoder.mid_block.register_forward_hook(lambda m, i, o: found.update(map=o))
    with torch.no_grad():
        losses_N = losses(task, model, range(12))
        hook.remove()
        hook = model.encoder.mid_block.register_forward_hook(lambda m, i, o: found.update(map=o))
        model.encoder((np.sqrt(kept) * x + np.sqrt(1 - kept) * epsilon).float(), 5)
        hook.remove()
        pooled = found["map"].unflatten(3, (2, -1)).unflatten(2, (2, -1)).mean((3, 5))
        weight, bias = model.head[1].weight, model.head[1].bias
        scores = pooled.flatten(1) @ weight.T + bias
    expected = -torch.log_softmax(scores, 1)[torch.arange(12), torch.arange(12) % 3]
    torch.testing.assert_close(losses_N, expected, rtol=1e-4, atol=1e-4)


def test_an_average_of_the_weights_reads_with_its_own():
    task = a_task()
    model = task.model()
    average = copy.deepcopy(model)
    z_BCHW = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        before = average(z_BCHW, 5)
        model.encoder.conv_in.weight.add_(1.0)
        assert torch.equal(average(z_BCHW, 5), before)
        assert not torch.equal(model(z_BCHW, 5), before)


def test_a_small_experiment_runs_from_plan_to_rows(context):
    dataset, trials = tuned_trials(heads=["linear", MLP])
    assert len({trial.key for trial in trials}) == 2
    for trial in trials:
        row, correct = rows_of(trial, context)
        assert {name: row[name] for name in trial.axes} == dict(trial.axes)
        assert (row["features"], row["block"], row["timestep"], row["pool"]) == ("finetuned", 4, 5, 2)
        assert (row["train_n"], row["validation_accuracy_n"], row["test_accuracy_n"]) == (40, 30, 40)
        assert row["test_accuracy"] == correct["correct"].mean()
        assert row["image_passes"] == 3 * 4 * 16 + 70
        assert row["data_fingerprint"] == dataset.fingerprint
        tuned = open_denoiser(trial.needs["tuned"], context).network
        learnt = fine_tuning(trial.needs["tuned"], context).model()
        encoder = sum(one.numel() for one in learnt.encoder.parameters() if one.requires_grad)
        assert 0 < encoder < sum(one.numel() for one in tuned.parameters())
        assert row["parameter_count"] == encoder + sum(one.numel() for one in learnt.head.parameters())


def backbone(trial):
    return trial.needs["tuned"].needs["backbone"]


@pytest.mark.slow
def test_what_lies_behind_the_block_is_left_alone_to_the_bit(context):
    _, (trial,) = tuned_trials()
    before = open_denoiser(backbone(trial), context).network.state_dict()
    rows_of(trial, context)
    after = open_denoiser(trial.needs["tuned"], context).network.state_dict()
    assert trial.axes["block_name"] == "down_blocks.1.attentions.0"
    assert before.keys() == after.keys()
    behind = ("up_blocks.", "mid_block.", "conv_norm_out.", "conv_out.")
    for name, value in before.items():
        if name.startswith(behind):
            assert torch.equal(after[name], value), name
    assert not torch.equal(after["conv_in.weight"], before["conv_in.weight"])
    again = open_denoiser(backbone(trial), context).network.state_dict()
    assert all(torch.equal(again[name], value) for name, value in before.items())


def test_the_encoder_that_was_kept_gives_the_predictions_that_were_recorded(context):
    """Read with diffusers alone, noised and pooled by hand."""
    dataset, (trial,) = tuned_trials()
    _, correct = rows_of(trial, context)
    folder = context.folder(trial.needs["tuned"])
    unet = UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True).eval()
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    head = load_file(folder / "head.safetensors")
    places = torch.from_numpy(dataset.splits["test"])
    x = torch.from_numpy(dataset.images[places]).float() / 127.5 - 1
    address = torch.stack([places, torch.full_like(places, 5), torch.zeros_like(places)], 1)
    epsilon = noise.normal(derive_seed(0, "features"), address, (1, 8, 8))
    found = {}
    unet.get_submodule(trial.axes["block_name"]).register_forward_hook(lambda m, i, o: found.update(map=o))
    with torch.no_grad():
        unet(scheduler.add_noise(x, epsilon, torch.full((len(x),), 5)), 5)
        output = found["map"]
        output = output[0] if isinstance(output, tuple) else output
        pooled = nn.functional.adaptive_avg_pool2d(output, 2).flatten(1)
        scores = pooled @ head["1.weight"].T + head["1.bias"]
    np.testing.assert_array_equal(
        scores.argmax(1).numpy() == dataset.labels[dataset.splits["test"]], correct["correct"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 7])
def test_predictions_do_not_depend_on_the_batch(context, batch):
    dataset, (trial,) = tuned_trials()
    _, (other,) = tuned_trials(batch=batch)
    assert other.key == trial.key
    index_M = dataset.splits["test"]
    found = scores(trial, context, dataset, index_M).argmax(1)
    np.testing.assert_array_equal(found, scores(other, context, dataset, index_M).argmax(1))
    order = np.random.default_rng(0).permutation(len(index_M))
    np.testing.assert_array_equal(scores(trial, context, dataset, index_M[order]).argmax(1), found[order])


@pytest.mark.slow
def test_the_same_experiment_gives_the_same_rows(context, tmp_path):
    _, (trial,) = tuned_trials(heads=[MLP])
    elsewhere = replace(context, store=type(context.store)(Storage(str(tmp_path / "elsewhere"))))
    torch.manual_seed(1)
    first = rows_of(trial, context)
    torch.manual_seed(2)
    second = rows_of(trial, elsewhere)
    for one, other in zip(first, second, strict=True):
        for column in one.keys() - set(WHEN_AND_WHERE):
            np.testing.assert_array_equal(one[column], other[column], err_msg=column)


@pytest.mark.slow
def test_fine_tuning_learns_what_can_be_learnt(context):
    tune = {**TUNE, "steps": 100, "batch": 32, "learning_rate": 0.1}
    _, (trial,) = tuned_trials(tune=tune, augment=None, data={"labels_per_class": 20})
    row, _ = rows_of(trial, context)
    assert row["validation_accuracy"] > 0.6
    network = read_head(trial.needs["tuned"], context, 10)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert len(open_dataset(trial.needs["dataset"], context).classes) == 10


def test_what_only_changes_the_speed_changes_no_key():
    _, (slow,) = tuned_trials()
    _, (fast,) = tuned_trials(batch=8, tune={**TUNE, "workers": 4, "checkpoint_every": 1})
    assert slow.key == fast.key
    assert fast.needs["tuned"].trains
    assert not slow.needs["tuned"].trains


@pytest.mark.parametrize(
    "change",
    [
        {"tune": {**TUNE, "steps": 5}},
        {"tune": {**TUNE, "rates": {"head.": 0.1}}},
        {"augment": None},
        {"draws": 2},
        {"seed": 1},
        {"heads": [MLP]},
        {"train": {"steps": 3, "batch": 8}},
        {"data": {"labels_per_class": 5}},
        {"precision": "float32"},
    ],
)
def test_what_changes_a_number_changes_the_key(change):
    assert tuned_trials(**change)[1][0].key != tuned_trials()[1][0].key


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"blocks": [99]}, ["99", "blocks"]),
        ({"blocks": []}, ["blocks"]),
        ({"timesteps": [100]}, ["finetune.timesteps", "100"]),
        ({"timesteps": [5, 5]}, ["finetune.timesteps", "twice"]),
        ({"pools": [5]}, ["finetune.pools", "5 is not between 1 and 4"]),
        ({"pools": [2, 2]}, ["finetune.pools", "2 is given twice"]),
        ({"heads": ["ridge"]}, ["finetune.heads", "'ridge' is not trained by gradient descent", "linear"]),
        ({"heads": ["linear", "linear"]}, ["finetune.heads", "twice"]),
        ({"tune": {"steps": -1}}, ["finetune", "steps"]),
        ({"data": {"labels_per_class": 1000}}, ["labels_per_class = 1000"]),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(UserError) as caught:
        tuned_trials(**settings)
    for word in words:
        assert word in str(caught.value)
