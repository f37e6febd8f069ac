"""Heads that learn side by side from a stream: each as if it were alone, by the published protocol's steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.numpy import load_file
from tiny_features import pick, trials_of

from harness.core.seeds import derive_seed
from harness.core.stages import run
from harness.data.dataset import open_dataset
from harness.data.transforms import as_input
from harness.features.extract import open_denoiser
from harness.features.streaming import side_by_side
from harness.features.streaming.side_by_side import SideBySide, name_of
from harness.features.streaming.streamed_head import ABOUT, WEIGHTS
from harness.training.config import Augment, TrainConfig
from harness.training.loop import ProcessGroup, fit
from harness.training.randomness import StepRandomness

MLP = {"name": "mlp", "hidden": [8], "train": {"steps": 6, "batch": 16}}
PUBLISHED = {"protocol": "published", "timesteps": [50], "controls": []}


def stage_of(trial):
    (stage,) = trial.reads["streamed"]
    return stage


def weights_of(trial, context):
    return load_file(context.file(stage_of(trial), WEIGHTS))


def task_of(trials, context, augment=None, batch=64):
    cells = [stage_of(trial).config for trial in trials]
    return SideBySide(
        open_denoiser(trials[0].needs["backbone"], context),
        open_dataset(trials[0].needs["dataset"], context),
        cells,
        augment,
        batch,
        TrainConfig(),
    )


def test_rows_of_streamed_heads(context):
    _, trials = trials_of(**PUBLISHED, heads=["linear", MLP])
    for trial in trials:
        outcome = run(trial, context, "cpu")
        assert not outcome.failed, outcome.tables["features"][0]["error"]
        (row,), (correct,) = outcome.tables["features"], outcome.tables["correctness"]
        assert (row["caching"], row["train_n"], row["validation_accuracy_n"]) == ("streamed", 40, 30)
        assert row["test_accuracy"] == correct["correct"].mean()
        assert len(correct["correct"]) == 40
        assert row["image_passes"] == round(28 * 40 / 128) * 128 + 70
        channels = stage_of(trial).config["channels"]
        dimensions = channels * trial.axes["pool"] ** 2
        layers = [(dimensions, 10)] if trial.axes["head"] == "linear" else [(dimensions, 8), (8, 10)]
        assert row["parameter_count"] == sum((inputs + 1) * outputs for inputs, outputs in layers)
        assert row["dimensions"] == dimensions
        assert row["fit_seconds"] > 0
    assert len({stage_of(trial).job for trial in trials}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["ours", "published"])
def test_a_head_learns_the_same_whatever_stands_beside_it(context, tmp_path, protocol):
    given = {"protocol": protocol, "caching": "auto" if protocol == "published" else "streamed"}
    given |= {"timesteps": [50], "controls": []}
    heads = [MLP, {**MLP, "hidden": [4], "label": "small"}]
    _, alone = trials_of(**given, heads=[MLP], blocks=[2], pools=[2])
    kept = weights_of(alone[0], context)
    elsewhere = replace(context, store=type(context.store)(type(context.store.storage)(str(tmp_path))))
    _, crowd = trials_of(**given, heads=heads, blocks=[2, 5, 7], pools=[1, 2])
    (again,) = [trial for trial in crowd if stage_of(trial).key == stage_of(alone[0]).key]
    assert again.key == alone[0].key
    beside = weights_of(again, elsewhere)
    assert all(elsewhere.has(stage_of(trial)) for trial in crowd)
    for name, value in kept.items():
        np.testing.assert_array_equal(value, beside[name], err_msg=name)


def by_hand(task, cell, seed, steps, batch, rate, decay_every):
    """Learns one linear layer on one tap as the paper says: plain SGD, no norm, tenfold less every so often."""
    denoiser, dataset = task._denoiser, task._dataset
    index_M = dataset.labelled(4)
    layer = task.model()[name_of(cell)][1]
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    order = np.random.Generator(np.random.Philox(derive_seed(seed, "order", 0))).permutation(len(index_M))
    place = 0
    epoch = 0
    for step in range(steps):
        chosen = []
        while len(chosen) < batch:
            if place == len(order):
                epoch, place = epoch + 1, 0
                generator = np.random.Generator(np.random.Philox(derive_seed(seed, "order", epoch)))
                order = generator.permutation(len(index_M))
            chosen.append(order[place])
            place += 1
        randomness = StepRandomness(seed, step, torch.arange(batch))
        x = as_input(torch.from_numpy(dataset.images[index_M[chosen]]))
        x = randomness.augmented("augment", x, Augment())
        noise = randomness.normal("noise", x)
        a = DDPMScheduler.from_config(denoiser.process.config).alphas_cumprod[cell["timestep"]]
        read = denoiser.reader([cell["module"]])
        with torch.no_grad():
            activation = read(a.sqrt() * x + (1 - a).sqrt() * noise, cell["timestep"])[cell["module"]]
        read.remove()
        f = torch.nn.functional.adaptive_avg_pool2d(activation, cell["pool"]).flatten(1)
        residual = torch.softmax(f @ weight.T + bias, 1)
        residual[torch.arange(batch), torch.from_numpy(dataset.labels[index_M[chosen]])] -= 1
        now = rate * 0.1 ** (step // decay_every)
        weight -= now * residual.T @ f / batch
        bias -= now * residual.mean(0)
    return weight, bias


def test_the_published_protocol_by_hand(context):
    _, trials = trials_of(**PUBLISHED, heads=["linear"])
    trial = pick(trials, block=5, pool=2)
    kept = weights_of(trial, context)
    task = task_of([trial], context, Augment())
    weight, bias = by_hand(task, stage_of(trial).config, seed=0, steps=9, batch=128, rate=1e-2, decay_every=2)
    np.testing.assert_allclose(kept["1.weight"], weight, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(kept["1.bias"], bias, rtol=1e-4, atol=1e-6)


def test_workers_see_what_one_would(context):
    _, trials = trials_of(**PUBLISHED, heads=["linear"])
    task = task_of(trials, context, Augment(), batch=3)
    model, index = task.model(), torch.arange(12)
    whole = task.loss(model, index, StepRandomness(0, 4, index))
    for rank in (0, 1):
        mine = index[rank::2]
        part = task.loss(model, mine, StepRandomness(0, 4, mine))
        torch.testing.assert_close(part, whole[rank::2], rtol=1e-5, atol=1e-5)


def test_the_loss_is_the_sum_over_heads(context):
    _, trials = trials_of(**PUBLISHED, heads=["linear"])
    index = torch.arange(6)
    total = sum(
        task.loss(task.model(), index, StepRandomness(0, 0, index))
        for task in (task_of([trial], context) for trial in trials)
    )
    together = task_of(trials, context)
    losses = together.loss(together.model(), index, StepRandomness(0, 0, index))
    torch.testing.assert_close(losses, total, rtol=1e-5, atol=1e-5)


def test_noise_is_fresh_at_every_step(context):
    _, trials = trials_of(**PUBLISHED, heads=["linear"])
    task, index = task_of(trials[:1], context), torch.arange(5)
    (first,), (again,), (second,) = (
        task._features(index, StepRandomness(0, step, index)).values() for step in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.isclose(first, second).all()


def test_features_are_read_in_passes_as_small_as_asked(context):
    _, trials = trials_of(**PUBLISHED, heads=["linear"])
    index = torch.arange(7)
    found = [
        task_of(trials, context, Augment(), batch)._features(index, StepRandomness(0, 0, index))
        for batch in (2, 64)
    ]
    for tap in found[0]:
        torch.testing.assert_close(found[0][tap], found[1][tap], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_ours_standardises_what_heads_see_and_the_published_protocol_does_not(context):
    _, ours = trials_of(caching="streamed", timesteps=[50], controls=[], heads=[MLP])
    _, published = trials_of(**PUBLISHED, heads=[MLP])
    kept = weights_of(ours[0], context)
    assert kept["mean"].shape == (8, 1, 1)
    assert (kept["scale"] > 0).all()
    assert "mean" not in weights_of(published[0], context)
    assert stage_of(ours[0]).config["augment"] is None
    assert stage_of(published[0]).config["augment"] == {"crop": 0.8, "flip": True}


@pytest.mark.slow
def test_a_head_that_diverges_fails_alone(context, monkeypatch):
    _, trials = trials_of(**PUBLISHED, heads=["linear"], blocks=[2], pools=[1, 2])
    one, other = (stage_of(pick(trials, pool=pool)) for pool in (1, 2))
    spoilt = replace(one, options={**one.options, "train": {**one.options["train"]}})
    name = name_of(other.config)
    rates = {**one.options["train"]["rates"], name: 1e38}
    spoilt.options["train"]["rates"] = rates
    context.ensure(spoilt)
    good, bad = (run(pick(trials, pool=pool), context, "cpu") for pool in (1, 2))
    assert not good.failed
    assert bad.failed
    assert "diverged" in bad.tables["features"][0]["error"]
    assert name in bad.tables["features"][0]["error"]


@pytest.mark.slow
def test_a_run_that_was_cut_short_continues_where_it_was(context, monkeypatch):
    _, trials = trials_of(**PUBLISHED, heads=["linear"])
    stage, loss, steps = stage_of(trials[0]), SideBySide.loss, []

    def dies(self, model, index, randomness):
        steps.append(len(steps))
        if len(steps) == 6:
            raise KeyboardInterrupt
        return loss(self, model, index, randomness)

    monkeypatch.setattr(SideBySide, "loss", dies)
    with pytest.raises(KeyboardInterrupt):
        context.ensure(stage)
    context.ensure(stage)
    monkeypatch.undo()
    assert len(steps) == 6 + 9 - 5
    resumed = weights_of(trials[0], context)
    for trial in trials:
        context.store.discard(stage.kind, stage_of(trial).key)
    for name, value in weights_of(trials[0], context).items():
        np.testing.assert_array_equal(value, resumed[name])


def test_what_is_judged_is_seen_through_other_noise_than_what_is_kept(context, monkeypatch):
    seeds = []
    read_blocks = side_by_side.read_blocks
    monkeypatch.setattr(
        side_by_side, "read_blocks", lambda *a, **k: (seeds.append(k["seed"]), read_blocks(*a, **k))[1]
    )
    _, trials = trials_of(**PUBLISHED, heads=["linear"], blocks=[2], pools=[1])
    about = context.file(stage_of(trials[0]), ABOUT).read_text()
    assert '"error": null' in about
    assert seeds == [derive_seed(0, "streamed evaluation")]


@pytest.mark.slow
def test_heads_learn_something(context):
    _, trials = trials_of(
        caching="streamed", timesteps=[0], controls=[], blocks=[2], pools=[2], data={"labels_per_class": 40},
        heads=[{**MLP, "train": {"steps": 150, "batch": 64, "learning_rate": 0.01}}],
    )  # fmt: skip
    outcome = run(trials[0], context, "cpu")
    assert outcome.tables["features"][0]["test_accuracy"] > 0.5


@pytest.mark.slow
def test_the_task_is_trained_by_the_common_loop(context):
    _, trials = trials_of(**PUBLISHED, heads=["linear"], blocks=[2], pools=[1])
    from harness.core.config import parse

    config = parse(TrainConfig, stage_of(trials[0]).options["train"], "train")
    model = fit(task_of(trials, context, Augment()), config, 0, ProcessGroup(torch.device("cpu"))).model
    expected = weights_of(trials[0], context)["1.weight"]
    (head,) = model.values()
    np.testing.assert_allclose(head[1].weight.detach().numpy(), expected, atol=1e-6)
