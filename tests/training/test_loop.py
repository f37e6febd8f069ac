"""The loop: the same weights however interrupted or spread over workers; schedules, averages, failures."""

import copy
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.core.artifacts import ArtifactStore
from harness.core.config import parse
from harness.core.errors import UserError
from harness.core.storage import Storage
from harness.training import checkpoint
from harness.training.checkpoints import Checkpoints
from harness.training.config import TrainConfig
from harness.training.loop import ProcessGroup, epoch_order, fit, learning_rate
from harness.training.randomness import StepRandomness

CPU = torch.device("cpu")
X = torch.randn(23, 5, generator=torch.Generator().manual_seed(0))


class Probe:
    """A task that notes what it sees; its loss uses samples, noise and timesteps."""

    examples = len(X)

    def __init__(self, until=None, spoil_at=None):
        self.seen, self.steps = [], 0
        self._until, self._spoil_at = until, spoil_at

    def model(self):
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 5))

    def loss(self, model, index_N, randomness):
        if self.steps == self._until:
            raise KeyboardInterrupt
        self.steps += 1
        x = X[index_N]
        noise, level = randomness.normal("noise", x), randomness.integers("level", 1000)
        self.seen.append(list(zip(index_N.tolist(), level.tolist(), noise[:, 0].tolist(), strict=True)))
        losses = (model(x + level[:, None] / 1000 * noise) - noise).square().mean(1)
        return losses * math.nan if self.steps == self._spoil_at else losses

    def snapshot(self, model, step):
        return model[0].weight.detach().clone() if step % 2 == 0 else None


CONFIGS = {
    "adamw": {"learning_rate": 1e-2, "weight_decay": 0.1, "schedule": "cosine", "warmup": 3},
    "sgd": {"optimizer": "sgd", "learning_rate": 1e-2, "momentum": 0.9, "weight_decay": 1e-2},
    "ema and clipping": {"learning_rate": 1e-2, "ema": 0.7, "clip": 0.5},
}


def config(**settings):
    return TrainConfig(**{"steps": 12, "batch": 6, "checkpoint_every": 5, **settings})


def kept(folder, name="kept"):
    """Returns the checkpoints of a run, as a process that has just started sees them."""
    return Checkpoints(ArtifactStore(Storage(str(folder))), name)


def same(one, other):
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("died_after", [1, 5, 7, 11])
def test_an_interrupted_run_ends_in_the_same_weights_to_the_bit(tmp_path, settings, died_after):
    whole = fit(Probe(), config(**settings), 3, ProcessGroup(CPU))
    with pytest.raises(KeyboardInterrupt):
        fit(Probe(until=died_after), config(**settings), 3, ProcessGroup(CPU, kept(tmp_path)))
    rest = Probe()
    resumed = fit(rest, config(**settings), 3, ProcessGroup(CPU, kept(tmp_path)))
    assert rest.steps == 12 - died_after // 5 * 5
    assert same(whole.model, resumed.model)
    assert (whole.ema is None) == (resumed.ema is None)
    if whole.ema is not None:
        assert same(whole.ema, resumed.ema)
    assert torch.equal(torch.stack(whole.snapshots), torch.stack(resumed.snapshots))
    assert whole.history == resumed.history


@pytest.mark.parametrize("step", ["write", "fsync", "discard", "rename"])
@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_run_that_dies_while_it_saves_ends_in_the_same_weights(tmp_path, monkeypatch, step, which):
    settings = config(**CONFIGS["ema and clipping"])
    whole = fit(Probe(), settings, 3, ProcessGroup(CPU))
    owner, name = {
        "write": (checkpoint, "save"),
        "fsync": (os, "fsync"),
        "discard": (ArtifactStore, "discard"),
        "rename": (Path, "rename"),
    }[step]
    real, calls = getattr(owner, name), []

    def die(*arguments):
        calls.append(arguments)
        if len(calls) == which:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, die)
        with pytest.raises(KeyboardInterrupt):
            fit(Probe(), settings, 3, ProcessGroup(CPU, kept(tmp_path)))
    resumed = fit(Probe(), settings, 3, ProcessGroup(CPU, kept(tmp_path)))
    assert same(whole.model, resumed.model)
    assert same(whole.ema, resumed.ema)


@pytest.mark.parametrize(
    ("damaged", "how", "name"),
    [(1, how, "model.safetensors") for how in ("flip", "cut", "empty", "remove")]
    + [(1, "flip", name) for name in ("state.json", "optimizer.safetensors", "manifest.json")]
    + [(2, "flip", "ema.safetensors"), (2, "cut", "manifest.json")],
)
def test_a_damaged_checkpoint_is_not_trained_on(tmp_path, damaged, how, name):
    """Training falls back to the checkpoint before, or to the start."""
    settings = config(**CONFIGS["ema and clipping"], checkpoint_every=3)
    whole = fit(Probe(), settings, 3, ProcessGroup(CPU))
    with pytest.raises(KeyboardInterrupt):
        fit(Probe(until=8), settings, 3, ProcessGroup(CPU, kept(tmp_path)))
    manifests = sorted(
        (tmp_path / "artifacts").rglob("manifest.json"), key=lambda path: json.loads(path.read_text())["step"]
    )
    assert [json.loads(path.read_text())["step"] for path in manifests] == [3, 6]
    for manifest in manifests[-damaged:]:
        file = manifest.with_name(name)
        content = file.read_bytes()
        middle = len(content) // 2
        if how == "remove":
            file.unlink()
        else:
            flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            file.write_bytes({"flip": flipped, "cut": content[:middle], "empty": b""}[how])
    said, rest = [], Probe()
    checkpoints = Checkpoints(ArtifactStore(Storage(str(tmp_path))), "kept", said.append)
    resumed = fit(rest, settings, 3, ProcessGroup(CPU, checkpoints))
    assert rest.steps == {1: 9, 2: 12}[damaged]
    assert same(whole.model, resumed.model)
    assert len(said) == (0 if name == "manifest.json" else damaged)  # without its manifest there is none
    assert all("is damaged" in line for line in said)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = fit(Probe(), config(), 0, ProcessGroup(CPU, kept(tmp_path)))
    again = Probe()
    second = fit(again, config(), 0, ProcessGroup(CPU, kept(tmp_path)))
    assert again.steps == 0
    assert same(first.model, second.model)


def test_no_steps_leave_the_network_as_it_was_initialised_and_save_it(tmp_path):
    progress = fit(Probe(), config(steps=0), 0, ProcessGroup(CPU, kept(tmp_path)))
    assert progress.history == []
    with kept(tmp_path).newest() as folder:
        assert checkpoint.read_state(folder) == {"step": 0, "history": []}
    assert same(progress.model, fit(Probe(), config(steps=0), 0, ProcessGroup(CPU)).model)


def test_the_seed_decides_weights_samples_and_noise_and_nothing_else_does():
    one, other, third = Probe(), Probe(), Probe()
    first = fit(one, config(), 0, ProcessGroup(CPU)).model
    torch.manual_seed(123)
    np.random.seed(5)
    second = fit(other, config(), 0, ProcessGroup(CPU)).model
    assert same(first, second)
    assert one.seen == other.seen
    assert not same(first, fit(third, config(), 1, ProcessGroup(CPU)).model)
    assert third.seen[0] != one.seen[0]


def test_training_leaves_torchs_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(Probe(), config(steps=2), 0, ProcessGroup(CPU))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("batch", [1, 6, 23, 50])
def test_every_pass_over_the_examples_sees_each_of_them_once(batch):
    task = Probe()
    passes = 3
    fit(task, config(batch=batch, steps=-(-passes * 23 // batch)), 0, ProcessGroup(CPU))
    order = [index for step in task.seen for index, _, _ in step]
    assert all(len(step) == batch for step in task.seen)
    for number in range(passes):
        assert sorted(order[23 * number : 23 * number + 23]) == list(range(23))
    assert order[:23] != order[23:46] != sorted(order[23:46])


@given(
    examples=st.integers(1, 60),
    window=st.none() | st.integers(1, 70),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)
def test_an_epoch_holds_each_example_once_and_windows_hold_neighbours(examples, window, seed, epoch):
    order = epoch_order(examples, seed, epoch, window)
    assert sorted(order) == list(range(examples))
    if window is None or window >= examples:
        return
    runs, seen = [], 0
    while seen < examples:  # each run is a range of at most `window` neighbours
        lengths = [n for n in range(1, window + 1) if np.ptp(order[seen : seen + n]) == n - 1]
        assert lengths
        runs.append(lengths[-1])
        seen += lengths[-1]
    assert len(runs) <= -(-examples // window) + 1


def test_a_window_changes_the_order_and_the_seed_does_too():
    orders = [tuple(epoch_order(50, *values)) for values in ((0, 0, None), (0, 0, 8), (1, 0, 8), (0, 1, 8))]
    assert len(set(orders)) == 4
    assert epoch_order(50, 0, 0, 50).tolist() == epoch_order(50, 0, 0, None).tolist()


def test_storage_order_is_kept_unless_a_window_needs_neighbours():
    places = np.array([5, 1, 3])
    assert TrainConfig().storage_order(places).tolist() == [5, 1, 3]
    assert TrainConfig(shuffle_window=2).storage_order(places).tolist() == [1, 3, 5]


def test_no_draw_is_used_twice():
    task = Probe()
    fit(task, config(steps=40), 0, ProcessGroup(CPU))
    noise = [value for step in task.seen for _, _, value in step]
    assert len(set(noise)) == len(noise)


class Member(ProcessGroup):
    """One of several that train together; it stops before the first update."""

    def __init__(self, rank, size):
        super().__init__(CPU)
        self.rank, self.size = rank, size


def one_step(rank, size, batch=7, steps=1):
    """Returns what a member sees in its first step, and its gradients."""
    task, kept = Probe(), {}

    class Watch(Member):
        def wrap(self, model):
            kept["model"] = model
            return model

        def mean(self, value):
            kept["loss"] = float(value)
            return 1.0

    fit(task, TrainConfig(steps=steps, batch=batch), 0, Watch(rank, size))
    return task.seen[0], [parameter.grad for parameter in kept["model"].parameters()], kept["loss"]


@pytest.mark.parametrize("size", [2, 3, 7, 10])
@pytest.mark.parametrize("batch", [7, 8])
def test_a_crew_of_any_size_sees_the_same_samples_noise_and_timesteps(size, batch):
    seen, gradients, loss = one_step(0, 1, batch)
    shares = [one_step(rank, size, batch) for rank in range(size)]
    assert sorted(draw for share, _, _ in shares for draw in share) == sorted(seen)
    for number, gradient in enumerate(gradients):
        averaged = torch.stack([share[number] for _, share, _ in shares]).mean(0)
        torch.testing.assert_close(averaged, gradient, rtol=1e-4, atol=1e-6)
    assert np.mean([one for _, _, one in shares]) == pytest.approx(loss, rel=1e-5)


def test_the_moving_average_is_that_of_a_loop_by_hand():
    settings, decay = config(steps=9, ema=0.6, batch=4), 0.6
    weights = []

    class Watched(Probe):
        def snapshot(self, model, step):
            weights.append([parameter.detach().clone() for parameter in model.parameters()])

    progress = fit(Watched(), settings, 0, ProcessGroup(CPU))
    start = fit(Probe(), config(steps=0), 0, ProcessGroup(CPU)).model
    average = [parameter.detach().clone() for parameter in start.parameters()]
    for step, now in enumerate(weights):
        kept = min(decay, (1 + step) / (10 + step))
        average = [kept * old + (1 - kept) * new for old, new in zip(average, now, strict=True)]
    for expected, found in zip(average, progress.ema.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
    assert not same(progress.ema, progress.model)


def test_a_step_is_that_of_plain_torch():
    """Three steps of AdamW by hand, with the samples and draws that the loop says it used."""
    settings = config(steps=3, batch=5, learning_rate=1e-2, weight_decay=0.05, clip=0.1)
    task = Probe()
    found = fit(task, settings, 7, ProcessGroup(CPU)).model
    model = copy.deepcopy(fit(Probe(), config(steps=0), 7, ProcessGroup(CPU)).model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.05)
    replay = Probe()
    for step, seen in enumerate(task.seen):
        index = torch.tensor([number for number, _, _ in seen])
        loss = replay.loss(model, index, StepRandomness(7, step, torch.arange(5))).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    assert replay.seen == task.seen
    for one, other in zip(model.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_constant_learning_rate_stays():
    assert {learning_rate(config(learning_rate=0.3), step) for step in range(12)} == {0.3}


def test_warming_up_rises_in_equal_steps_to_the_full_rate():
    rates = [learning_rate(config(learning_rate=1.0, warmup=4), step) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_a_cosine_falls_from_the_full_rate_to_zero():
    settings = config(steps=100, learning_rate=2.0, schedule="cosine")
    rates = [learning_rate(settings, step) for step in range(101)]
    np.testing.assert_allclose(rates, 1 + np.cos(np.pi * np.arange(101) / 100), atol=1e-12)
    assert rates[0] == 2.0
    assert rates[100] == pytest.approx(0)


def test_a_cosine_begins_where_warming_up_ends():
    settings = config(steps=110, learning_rate=1.0, schedule="cosine", warmup=10)
    assert learning_rate(settings, 9) == learning_rate(settings, 10) == 1.0
    assert learning_rate(settings, 60) == pytest.approx(0.5)


def test_a_stepwise_rate_falls_by_gamma_after_every_so_many_steps():
    settings = config(steps=9, learning_rate=2.0, schedule="step", decay_every=4, gamma=0.5)
    assert [learning_rate(settings, step) for step in range(9)] == [2.0] * 4 + [1.0] * 4 + [0.5]


@pytest.mark.parametrize("values", [{"schedule": "step"}, {"decay_every": 3}, {"rates": {"0.": 0.0}}])
def test_rates_that_cannot_be_are_refused(values):
    with pytest.raises(UserError):
        parse(TrainConfig, values, "train")


def test_parameters_have_the_rate_of_the_longest_beginning_of_their_name():
    settings = {"optimizer": "sgd", "learning_rate": 1e-3, "steps": 1, "batch": 23}
    before = fit(Probe(), config(**{**settings, "steps": 0}), 0, ProcessGroup(CPU)).model.state_dict()
    moved = {}
    for name, rates in (("one rate", {}), ("own rates", {"0.": 2e-3, "0.bias": 5e-3, "2.we": 3e-3})):
        after = fit(Probe(), config(**settings, rates=rates), 0, ProcessGroup(CPU)).model.state_dict()
        moved[name] = {key: after[key] - before[key] for key in before}
    factors = {"0.weight": 2.0, "0.bias": 5.0, "2.weight": 3.0, "2.bias": 1.0}
    for key, factor in factors.items():
        torch.testing.assert_close(
            moved["own rates"][key], factor * moved["one rate"][key], rtol=1e-2, atol=1e-7
        )


def test_a_run_with_rates_of_their_own_continues_to_the_same_weights(tmp_path):
    settings = config(
        optimizer="sgd", momentum=0.9, rates={"0.": 0.05}, schedule="step", decay_every=3, learning_rate=1e-2
    )
    whole = fit(Probe(), settings, 3, ProcessGroup(CPU))
    with pytest.raises(KeyboardInterrupt):
        fit(Probe(until=7), settings, 3, ProcessGroup(CPU, kept(tmp_path)))
    assert same(whole.model, fit(Probe(), settings, 3, ProcessGroup(CPU, kept(tmp_path))).model)


def test_the_rate_reaches_the_optimizer(monkeypatch):
    used = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self, *a: (used.append(self.param_groups[0]["lr"]), step(self, *a))[1]
    )
    settings = config(steps=6, optimizer="sgd", learning_rate=0.1, schedule="cosine", warmup=2)
    fit(Probe(), settings, 0, ProcessGroup(CPU))
    assert used == [learning_rate(settings, step) for step in range(6)]


@pytest.mark.parametrize("spoil_at", [1, 3])
def test_a_loss_that_is_no_number_ends_the_run(tmp_path, spoil_at):
    with pytest.raises(FloatingPointError, match=f"loss is nan at step {spoil_at}; lower the learning rate"):
        fit(Probe(spoil_at=spoil_at), config(), 0, ProcessGroup(CPU, kept(tmp_path)))
    with kept(tmp_path).newest() as folder:
        assert folder is None, "no checkpoint of a broken network"


def test_a_checkpoint_is_safetensors_and_json_alone(tmp_path):
    fit(Probe(), config(ema=0.9), 0, ProcessGroup(CPU, kept(tmp_path)))
    tensors = {f"{name}.safetensors" for name in ("model", "ema", "optimizer", "snapshots")}
    with kept(tmp_path).newest() as folder:
        assert {path.name for path in folder.iterdir()} == {*tensors, "state.json", "manifest.json"}
        for name in tensors:
            content = (folder / name).read_bytes()
            assert json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]), name
    assert list((tmp_path / "artifacts" / ".scratch").iterdir()) == []


def test_the_two_newest_checkpoints_are_kept_until_they_are_removed(tmp_path):
    fit(Probe(), config(checkpoint_every=2), 0, ProcessGroup(CPU, kept(tmp_path)))
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "artifacts").rglob("manifest.json")]
    assert sorted(manifest["step"] for manifest in manifests) == [10, 12]
    kept(tmp_path).remove()
    assert not list((tmp_path / "artifacts").rglob("manifest.json"))


def test_trained_weights_are_the_average_where_there_is_one(tmp_path):
    plain = fit(Probe(), config(), 0, ProcessGroup(CPU, kept(tmp_path, "plain")))
    averaged = fit(Probe(), config(ema=0.9), 0, ProcessGroup(CPU, kept(tmp_path, "averaged")))
    for name, expected in (("plain", plain.model), ("averaged", averaged.ema)):
        with kept(tmp_path, name).newest() as folder:
            found = checkpoint.trained_weights(folder)
        assert {name: value.tolist() for name, value in found.items()} == {
            name: value.tolist() for name, value in expected.state_dict().items()
        }


def test_frozen_parameters_stay_as_they_are():
    class Frozen(Probe):
        def model(self):
            model = super().model()
            model[0].requires_grad_(False)
            return model

    before = fit(Frozen(), config(steps=0), 0, ProcessGroup(CPU)).model
    after = fit(Frozen(), config(weight_decay=0.5, learning_rate=0.1), 0, ProcessGroup(CPU)).model
    assert same(before[0], after[0])
    assert not same(before[2], after[2])


def test_the_history_tells_the_loss_from_the_first_to_the_last_step():
    history = fit(
        Probe(), config(steps=100, learning_rate=1e-2, batch=23, checkpoint_every=None), 0, ProcessGroup(CPU)
    ).history
    steps = [entry["step"] for entry in history]
    assert steps == sorted(set(steps))
    assert steps[-1] == 100
    assert 40 <= len(steps) <= 60
    assert np.mean([entry["loss"] for entry in history[-5:]]) < history[0]["loss"]


def test_progress_is_told_at_the_end_by_the_first_of_a_crew_alone():
    told = {0: [], 1: []}
    for rank in (0, 1):
        processes = Member(rank, 2)
        processes.say = told[rank].append
        fit(Probe(), config(), 0, processes)
    last = told[0][-1]
    assert (last.done, last.total, last.unit, last.workers) == (12, 12, "step", 2)
    assert last.finished
    assert last.loss > 0
    assert last.rate > 0
    assert last.seconds_left == 0
    assert told[1] == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"step": 1}, "did you mean 'steps'?"),
        ({"batch": 0}, "batch = 0"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"ema": 1.0}, "ema = 1.0"),
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"clip": 0.0}, "clip = 0.0"),
        ({"checkpoint_every": 0}, "checkpoint_every = 0"),
    ],
)
def test_bad_settings_are_refused(values, words):
    with pytest.raises(UserError) as caught:
        parse(TrainConfig, values, "train")
    assert words in str(caught.value)


def test_workers_and_checkpoints_are_not_part_of_a_result():
    assert (
        config(workers=4, checkpoint_every=1).keyed() == config(workers=[1, 6], checkpoint_every=None).keyed()
    )


@pytest.mark.parametrize(("steps", "every"), [(1000, 100), (5, 1), (0, 1), (11, 2)])
def test_about_ten_checkpoints_are_kept_unless_asked_otherwise(steps, every):
    assert TrainConfig(steps=steps).checkpoint_steps == every
