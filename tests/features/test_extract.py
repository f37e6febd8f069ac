"""Extraction: the same features whatever the batch, one pass for everything, no further than needed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_features import alone, family_unet_and_process, pick, trials_of

from harness.core.seeds import derive_seed
from harness.features.extract import FILE, add_noise, extract
from harness.features.stages import stored_pool
from harness.models.backbones.denoiser import ActivationReader, Denoiser
from harness.models.backbones.family import blocks
from harness.training import noise
from harness.training.config import Augment

IMAGES = np.random.default_rng(0).integers(0, 256, (25, 1, 8, 8), np.uint8)
PLACES = np.array([3, 17, 0, 24, 9, 11, 5])
TAPS = [("conv_in", 2), ("mid_block", 1), ("mid_block", 2), ("up_blocks.0.upsamplers.0", 4)]


def features(
    places=PLACES, *, images=IMAGES, taps=TAPS, timestep=30, draws=1, seed=5, batch=100, model=None, **how
):
    return extract(
        Denoiser(*(model or family_unet_and_process())),
        images,
        places,
        timestep=timestep,
        taps=taps,
        draws=draws,
        seed=seed,
        batch=batch,
        **how,
    )


def assert_close(one, other, atol=1e-5):
    assert one.keys() == other.keys()
    for tap in one:
        torch.testing.assert_close(one[tap], other[tap], rtol=0, atol=atol)


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_features_do_not_depend_on_the_batch(batch):
    assert_close(features(batch=batch), features())


@pytest.mark.parametrize("order", [[6, 5, 4, 3, 2, 1, 0], [2], [0, 6]])
def test_features_of_an_image_do_not_depend_on_which_are_beside_it(order):
    whole = features()
    assert_close(features(PLACES[order]), {tap: value[order] for tap, value in whole.items()})


def test_features_have_channels_and_pool_of_their_tap():
    table = {block.name: block for block in blocks(family_unet_and_process()[1].config)}
    found = features()
    for (module, pool), value in found.items():
        assert value.shape == (len(PLACES), table[module].channels, pool, pool)
        assert value.dtype == torch.float32


def test_features_are_the_pooled_activations_of_the_noised_image():
    denoiser = Denoiser(*family_unet_and_process())
    names = [block.name for block in blocks(denoiser.network.config)]
    x = torch.from_numpy(IMAGES[PLACES]).float() / 127.5 - 1
    noised = add_noise(denoiser, x, torch.from_numpy(PLACES), 30, 0, 5)
    activations = denoiser.reader(names)(noised, 30)
    found = features()
    for module, pool in TAPS:
        value = activations[module]
        step = value.shape[-1] // pool
        by_hand = value.unflatten(3, (pool, step)).unflatten(2, (pool, step)).mean((3, 5))
        torch.testing.assert_close(found[module, pool], by_hand, rtol=0, atol=1e-5)


def test_features_of_clean_images_are_those_of_the_images_themselves_at_the_timestep():
    """As in CleanDIFT (arXiv 2412.03439): no noise and no shrinking, but the network is told the timestep."""
    denoiser = Denoiser(*family_unet_and_process())
    x = torch.from_numpy(IMAGES[PLACES]).float() / 127.5 - 1
    expected = denoiser.reader(["mid_block"])(x, 30)["mid_block"].mean((2, 3), keepdim=True)
    found = features(taps=[("mid_block", 1)], noised=False)["mid_block", 1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not torch.allclose(found, features(taps=[("mid_block", 1)])["mid_block", 1], atol=1e-3)


def test_clean_images_take_one_pass_however_many_draws(context, passes):
    dataset, trials = trials_of(
        blocks=["mid"], timesteps=[50], controls=[], draws=3, noise=["fresh", "clean"], pools=[1]
    )
    found = {trial.axes["noise"]: trial.reads["features"][0] for trial in trials}
    images = len(dataset.probed(4))
    for name, draws in (("fresh", 3), ("clean", 1)):
        passes.clear()
        context.file(found[name], FILE)
        assert sum(passes) == draws * images == found[name].work.image_passes


def test_parts_of_a_block_are_read_in_the_same_pass_as_its_output(context, passes):
    dataset, trials = trials_of(
        blocks=["mid"], timesteps=[50], controls=[], pools=[1], after=["output", "resnet", "query"]
    )
    assert [trial.axes["after"] for trial in trials] == ["output", "resnet", "query"]
    assert len({trial.axes["block"] for trial in trials}) == 1
    found = [load_file(context.file(trial.reads["features"][0], FILE))["features"] for trial in trials]
    assert sum(passes) == len(dataset.probed(4))
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("timestep", [0, 1, 50, 99])
def test_noise_is_mixed_in_as_the_paper_says(timestep):
    """Ho et al. 2020, equation 4, with the schedule computed here."""
    denoiser = Denoiser(*family_unet_and_process())
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 100))[timestep]
    x = torch.randn(3, 1, 8, 8)
    places = torch.tensor([4, 0, 900])
    addresses = torch.tensor([[place, timestep, 2] for place in places])
    epsilon = noise.normal(derive_seed(5, "features"), addresses, (1, 8, 8))
    expected = np.sqrt(kept) * x + np.sqrt(1 - kept) * epsilon
    torch.testing.assert_close(
        add_noise(denoiser, x, places, timestep, 2, 5), expected.float(), rtol=1e-4, atol=1e-5
    )


def test_every_image_timestep_draw_and_seed_has_its_own_noise():
    denoiser = Denoiser(*family_unet_and_process())
    zero = torch.zeros(1, 1, 8, 8)
    noises = {
        add_noise(denoiser, zero, torch.tensor([place]), timestep, draw, seed).numpy().tobytes()
        for place in range(3)
        for timestep in (10, 20)
        for draw in range(3)
        for seed in range(2)
    }
    assert len(noises) == 3 * 2 * 3 * 2


def test_draws_are_averaged():
    denoiser = Denoiser(*family_unet_and_process())
    x = torch.from_numpy(IMAGES[PLACES]).float() / 127.5 - 1
    single = []
    for draw in range(3):
        read = denoiser.reader(["mid_block"])
        single.append(read(add_noise(denoiser, x, torch.from_numpy(PLACES), 30, draw, 5), 30)["mid_block"])
        read.remove()
    expected = torch.stack(single).mean(0).mean((2, 3), keepdim=True)
    found = features(taps=[("mid_block", 1)], draws=3)
    torch.testing.assert_close(found["mid_block", 1], expected, rtol=0, atol=1e-5)
    assert not torch.allclose(single[0], single[1])


def test_one_pass_an_image_and_draw_ends_at_the_deepest_block():
    family, unet, process = family_unet_and_process()
    ran = []
    for block in blocks(unet.config):
        unet.get_submodule(block.name).register_forward_hook(
            lambda module, inputs, output, name=block.name: ran.extend([name] * len(inputs[0]))
        )
    features(taps=[("conv_in", 1), ("mid_block", 2)], draws=2, batch=3, model=(family, unet, process))
    deepest = [block.name for block in blocks(unet.config)].index("mid_block")
    assert set(ran) == {block.name for block in blocks(unet.config)[: deepest + 1]}
    assert all(ran.count(name) == 2 * len(PLACES) for name in set(ran))


def test_a_pass_that_ends_early_gives_the_features_of_a_whole_one_to_the_bit():
    deep = features(taps=[("conv_in", 2), ("mid_block", 1), ("up_blocks.1.resnets.1", 1)])
    early = features(taps=[("conv_in", 2), ("mid_block", 1)])
    for tap, value in early.items():
        assert torch.equal(value, deep[tap])


def test_draws_in_another_order_give_equal_features_but_for_the_rounding_of_a_sum():
    draws = {draw: features(draws=1, view=draw) for draw in range(4)}
    for tap, averaged in features(draws=4).items():
        backwards = torch.stack([draws[draw][tap] for draw in (3, 1, 0, 2)]).mean(0)
        torch.testing.assert_close(averaged, backwards, rtol=0, atol=1e-6)


def test_views_are_cropped_each_in_its_own_way_whatever_is_beside_them():
    one, two = (features(view=view, augment=Augment(crop=0.5)) for view in (1, 2))
    alone = features(PLACES[2:3], view=1, augment=Augment(crop=0.5))
    for tap in one:
        assert not torch.allclose(one[tap], two[tap])
        torch.testing.assert_close(alone[tap], one[tap][2:3], rtol=0, atol=1e-5)


def test_bfloat16_gives_nearly_the_same_features_as_float32():
    exact, rough = features(), features(precision="bfloat16")
    for tap, value in exact.items():
        assert rough[tap].dtype == torch.float32
        assert not torch.equal(rough[tap], value)
        assert (rough[tap] - value).norm() / value.norm() < 0.03


def test_a_network_may_be_read_twice():
    model = family_unet_and_process()
    shallow = features(taps=[("conv_in", 1)], model=model)
    deep = features(model=model)
    assert_close(deep, features())
    torch.testing.assert_close(
        shallow["conv_in", 1][:, :, 0, 0], deep["conv_in", 2].mean((2, 3)), rtol=0, atol=1e-5
    )


def test_pools_nest():
    found = features(taps=[("conv_in", pool) for pool in (1, 2, 4, 8)])
    for larger in (2, 4, 8):
        for pool in (1, 2, 4):
            if pool < larger:
                derived = torch.nn.functional.adaptive_avg_pool2d(found["conv_in", larger], pool)
                torch.testing.assert_close(derived, found["conv_in", pool], rtol=0, atol=1e-6)


POOLS = st.lists(st.integers(1, 16), min_size=1, max_size=5, unique=True)


@given(POOLS, st.data(), st.integers(1, 16))
def test_what_is_stored_gives_every_pool_exactly(pools, data, size):
    pool = data.draw(st.sampled_from(pools))
    stored = stored_pool(pool, pools, size)
    assert stored in pools
    assert stored >= pool
    assert stored_pool(stored, pools, size) == stored
    x = torch.randn(1, 2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pooled = torch.nn.functional.adaptive_avg_pool2d
    torch.testing.assert_close(pooled(pooled(x, stored), pool), pooled(x, pool))


@given(POOLS, st.data(), st.integers(1, 16))
def test_nothing_larger_that_nests_is_passed_over(pools, data, size):
    pool = data.draw(st.sampled_from(pools))
    stored = stored_pool(pool, pools, size)
    for other in pools:
        if other > stored:
            assert size % other or other % pool


@pytest.fixture
def passes(monkeypatch):
    """Counts the images that go through the network."""
    counted = []
    call = ActivationReader.__call__
    monkeypatch.setattr(
        ActivationReader, "__call__", lambda self, x, t: (counted.append(len(x)), call(self, x, t))[1]
    )
    return counted


def test_all_features_of_a_timestep_come_from_one_pass(context, passes):
    dataset, trials = trials_of(blocks="all", timesteps=[50], controls=[], draws=2)
    stages = {one.key: one for trial in trials for one in trial.reads["features"]}
    assert len(stages) > 5
    for stage in stages.values():
        context.file(stage, FILE)
    images = len(dataset.probed(4))
    assert images == 10 * 4 + 30 + 40
    assert sum(passes) == 2 * images == next(iter(stages.values())).work.image_passes


def test_siblings_hold_what_they_would_hold_if_made_alone(context):
    _, trials = trials_of(blocks=[2, 5], timesteps=[50], pools=[1, 3], controls=[])
    stages = [trial.reads["features"][0] for trial in trials]
    together = [load_file(context.file(stage, FILE))["features"] for stage in stages]
    for stage, expected in zip(stages, together, strict=True):
        context.store.discard("features", stage.key)
        found = load_file(context.file(alone(stage), FILE))["features"]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [1, 32, 50, 96])
def test_features_do_not_depend_on_how_they_are_cut_to_the_bit(context, passes, shard):
    settings = {"blocks": [2, 5], "timesteps": [50], "pools": [1], "controls": [], "draws": 2}
    (_, whole), (_, cut) = trials_of(**settings), trials_of(**settings, shard=shard)
    for one, other in zip(whole, cut, strict=True):
        (expected,) = (load_file(context.file(stage, FILE))["features"] for stage in one.reads["features"])
        parts = [load_file(context.file(stage, FILE))["features"] for stage in other.reads["features"]]
        assert len(parts) == -(-110 // (-(-shard // 32) * 32)) > 1
        assert torch.equal(torch.cat(parts), expected)
        assert one.key == other.key
    assert sum(passes) == 2 * 2 * 110


def test_only_the_missing_siblings_are_made(context, passes):
    _, trials = trials_of(blocks=[2, 5], timesteps=[50], pools=[1], controls=[])
    first, second = (trial.reads["features"][0] for trial in trials)
    context.ensure(alone(first))
    made_at = context.store.manifest("features", first.key)["made_at"]
    assert not context.has(second)
    context.ensure(second)
    assert context.store.manifest("features", first.key)["made_at"] == made_at
    assert len(passes) % 2 == 0


def test_features_that_are_damaged_are_made_again(context):
    _, trials = trials_of(blocks=[2, 5], timesteps=[50], pools=[1], controls=[])
    (stage,) = trials[0].reads["features"]
    expected = context.file(stage, FILE).read_bytes()
    context.store.storage.write(f"artifacts/features/{stage.key}/{FILE}", expected[:-4])
    fresh = replace(context, store=type(context.store)(context.store.storage))
    assert fresh.file(stage, FILE).read_bytes() == expected


def test_features_of_a_trial_do_not_depend_on_which_others_were_asked_for(context):
    _, few = trials_of(blocks=[2], timesteps=[50], pools=[2], controls=[])
    _, many = trials_of(blocks="all", timesteps=[0, 50], pools=[1, 2], controls=[])
    other = pick(many, block=2, timestep=50, pool=2)
    assert few[0].key == other.key
    assert few[0].reads["features"][0].key == other.reads["features"][0].key
