"""Adapters (LoRA): which layers get them, that nothing else learns, and that merging changes no output."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_finetune import TUNE, a_task, losses, rows_of, tuned_trials

from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.features.extract import open_denoiser
from harness.features.finetune.adapters import merge
from harness.features.finetune.config import Lora
from harness.features.finetune.task import read_about

UP = "up_blocks.0.upsamplers.0"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def adapted(module=UP, seed=0, **lora):
    """Returns a task with adapters, its model, and the network before."""
    task = a_task(module)
    task._lora = Lora(**{"rank": 3, "alpha": 6, **lora})
    before = copy.deepcopy(task._denoiser.network)
    torch.manual_seed(seed)
    return task, task.model(), before


def moved(model):
    """Gives the adapters other weights: at first they change nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.mark.parametrize(
    ("module", "places"),
    [
        (UP, ["down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.0"]),
        ("down_blocks.1.attentions.0", ["down_blocks.1.attentions.0"]),
    ],
)
def test_attention_before_the_block_gets_adapters_and_nothing_else_learns(module, places):
    _, model, _ = adapted(module)
    learnt = {name for name, one in model.encoder.named_parameters() if one.requires_grad}
    paths = {name.split(".lora_")[0] for name in learnt}
    layers = [*places, *(["up_blocks.0.attentions.1"] if module == UP else [])]
    assert paths == {f"{place}.{end}" for place in layers for end in ATTENTION}
    assert learnt == {f"{path}.lora_{part}.default.weight" for path in paths for part in "AB"}
    assert all(one.requires_grad for one in model.head.parameters())
    numbers = sum(one.numel() for name, one in model.encoder.named_parameters() if name in learnt)
    assert numbers == len(paths) * 3 * (16 + 16)


def test_the_untrained_adapters_change_nothing():
    task, model, before = adapted()
    z_BCHW = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        after = task._denoiser.run(z_BCHW, torch.tensor([5, 5]))
    assert torch.equal(after, before.eval()(z_BCHW, 5).sample)
    assert torch.isfinite(losses(task, model, range(12))).all()


@pytest.mark.parametrize("targets", [list(ATTENTION), ["conv1", "to_q", "conv_shortcut"]])
def test_a_merged_network_is_a_plain_one_with_the_adapters_output(targets):
    """Merged by hand: each layer's weights plus alpha / rank times B A."""
    task, model, before = adapted(targets=targets)
    moved(model)
    adapters = {name: one.detach() for name, one in model.encoder.named_parameters() if "lora_" in name}
    z_BCHW = torch.randn(2, 1, 8, 8)
    model.eval()
    with torch.no_grad():
        expected = task._denoiser.run(z_BCHW, torch.tensor([5, 5]))
        merge(model.encoder)
        found = task._denoiser.run(z_BCHW, torch.tensor([5, 5]))
        assert not torch.allclose(found, before.eval()(z_BCHW, 5).sample, rtol=1e-2)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert model.encoder.state_dict().keys() == before.state_dict().keys()
        for name, value in before.state_dict().items():
            path = name.removesuffix(".weight")
            if f"{path}.lora_A.default.weight" in adapters:
                low, high = (adapters[f"{path}.lora_{part}.default.weight"] for part in "AB")
                added = 6 / 3 * (high.flatten(1) @ low.flatten(1)).reshape(value.shape)
                value = value + added
            torch.testing.assert_close(model.encoder.state_dict()[name], value, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_holds_the_adapters_and_the_head_alone_and_restores_them():
    _, model, _ = adapted()
    state = moved(model).state_dict()
    assert all("lora_" in name or name.startswith("head.") for name in state)
    _, other, _ = adapted(seed=1)
    other.load_state_dict(state)
    z_BCHW = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(other.eval()(z_BCHW, 5), model.eval()(z_BCHW, 5))
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({name: value for name, value in state.items() if "to_q.lora_A" not in name})


def test_dropout_is_the_same_whatever_was_drawn_before():
    task, model, _ = adapted(dropout=0.5)
    moved(model)
    with torch.no_grad():
        first, second = losses(task, model, range(12)), losses(task, model, range(12))
        assert torch.equal(first, second)
        assert not torch.allclose(losses(task, model.eval(), range(12)), first)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, Lora()])
def test_computing_activations_again_gives_the_same_gradients(lora):
    found = []
    for again in (False, True):
        task = a_task(UP)
        task._lora, task._checkpointing = lora, again
        torch.manual_seed(0)
        model = moved(task.model())
        losses(task, model, range(12)).mean().backward()
        assert model.encoder.is_gradient_checkpointing == again
        found.append({name: one.grad for name, one in model.named_parameters() if one.requires_grad})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("ema", [None, 0.5])
def test_an_experiment_with_adapters_keeps_a_plain_pipeline(context, ema):
    tune = {**TUNE, "ema": ema}
    _, (trial,) = tuned_trials(blocks=[5], tune=tune, lora={"rank": 2})
    row, _ = rows_of(trial, context)
    tuned = trial.needs["tuned"]
    head = load_file(context.folder(tuned) / "head.safetensors")
    adapters = 2 * 4 * 2 * (16 + 16)  # two attention layers, of four projections each
    assert trial.axes["block_name"] == "mid_block"
    assert row["parameter_count"] == adapters + sum(one.numel() for one in head.values())
    assert row["tuning"] == trial.axes["tuning"] == "lora rank 2"
    before = open_denoiser(tuned.needs["backbone"], context).network.state_dict()
    after = open_denoiser(tuned, context).network.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    places = {"down_blocks.1.attentions.0", "mid_block.attentions.0"}
    assert {name.rsplit(".to_", 1)[0] for name in changed} == places
    assert all(name.endswith("weight") for name in changed)
    for name in changed:
        assert np.linalg.matrix_rank((after[name] - before[name]).double().numpy(), tol=1e-6) <= 2
    assert read_about(tuned, context)["parameters"] == row["parameter_count"]


def test_adapters_are_part_of_the_key_and_none_leaves_it_as_it_was():
    _, (plain,) = tuned_trials()
    _, (trial,) = tuned_trials(lora={})
    _, (other,) = tuned_trials(lora={"rank": 4})
    _, (same,) = tuned_trials(lora={"rank": 4}, gradient_checkpointing=True)
    assert "lora" not in plain.needs["tuned"].config
    assert len({plain.key, trial.key, other.key}) == 3
    assert same.key == other.key
    assert fingerprint(plain.needs["tuned"].config) != fingerprint(trial.needs["tuned"].config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora": {"targets": ["to_w"]}}, ["finetune.lora.targets", "'to_w'", "did you mean 'to_", "conv1"]),
        ({"lora": {"targets": ["to_q", "to_q"]}}, ["finetune.lora.targets", "'to_q' is given twice"]),
        (
            {"lora": {}, "blocks": [1]},
            ["block 1 (conv_in) depends on no layer called to_q or to_k", "deeper"],
        ),
        ({"lora": {"rank": 0}}, ["lora.rank = 0"]),
    ],
)
def test_adapters_that_cannot_be_are_refused(settings, words):
    with pytest.raises(UserError) as caught:
        tuned_trials(**settings)
    for word in words:
        assert word in str(caught.value)
