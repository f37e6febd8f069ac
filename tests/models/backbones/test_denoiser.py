"""Denoisers: what is read of a network, and that what is saved comes back."""

import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from diffusers.utils import logging

from harness.models.backbones.denoiser import Denoiser, load_denoiser, save_pipeline
from harness.models.backbones.family import blocks, build_network
from harness.models.backbones.unet import FAMILY, UNet
from harness.models.noise_processes.process import process_of
from harness.models.noise_processes.variance_preserving import VariancePreserving

logging.disable_progress_bar()


@pytest.fixture
def saved(tmp_path):
    """A pipeline as this software writes it."""
    torch.manual_seed(0)
    plan = UNet(block_out_channels=[8, 16], layers_per_block=1, timesteps=40).plan(8, 1)
    unet = build_network(plan.config)
    save_pipeline(unet, plan.process, tmp_path / "pipeline")
    return tmp_path / "pipeline", unet


def test_a_saved_pipeline_comes_back_ready_for_reading(saved):
    folder, unet = saved
    denoiser = load_denoiser(folder)
    loaded = denoiser.network
    assert denoiser.process.timesteps == 40
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for name, value in unet.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_diffusers_reads_a_saved_pipeline(saved):
    folder, unet = saved
    pipeline = DDPMPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    assert torch.equal(pipeline.unet.conv_in.weight, unet.conv_in.weight)


@pytest.fixture
def unet():
    torch.manual_seed(0)
    plan = UNet(block_out_channels=[8, 16], layers_per_block=1).plan(8, 1)
    return build_network(plan.config).eval().requires_grad_(False)


def denoiser(unet):
    return Denoiser(FAMILY, unet, process_of({}))


def test_taps_read_what_the_modules_give_out(unet):
    names = ["conv_in", "down_blocks.1.attentions.0", "mid_block"]
    x = torch.randn(3, 1, 8, 8)
    taps = denoiser(unet).reader(names)
    found = taps(x, 5)
    taps.remove()
    assert list(found) == names
    hidden = unet.conv_in(x)
    torch.testing.assert_close(found["conv_in"], hidden)
    embedded = unet.time_embedding(unet.time_proj(torch.full((3,), 5)))
    hidden, _ = unet.down_blocks[0](hidden, embedded)
    hidden, kept = unet.down_blocks[1](hidden, embedded)
    torch.testing.assert_close(found["down_blocks.1.attentions.0"], kept[0])
    torch.testing.assert_close(found["mid_block"], unet.mid_block(hidden, embedded))


def test_nothing_runs_after_the_deepest_module(unet):
    table = [block.name for block in blocks(unet.config)]
    ran = []
    for name in table:
        unet.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    denoiser(unet).reader([table[2], table[4]])(torch.zeros(1, 1, 8, 8), 0)
    assert ran == table[:5]


def test_the_whole_network_may_be_read_and_read_again(unet):
    names = [block.name for block in blocks(unet.config)]
    read = denoiser(unet).reader(names)
    first = read(torch.ones(2, 1, 8, 8), 0)
    read(torch.zeros(1, 1, 8, 8), 9)
    again = read(torch.ones(2, 1, 8, 8), 0)
    assert list(first) == names
    for name in names:
        assert torch.equal(first[name], again[name])


def test_taps_that_are_removed_leave_the_network_as_it_was(unet):
    x = torch.randn(2, 1, 8, 8)
    before = unet(x, 3).sample
    shallow = denoiser(unet).reader(["conv_in"])
    shallow(x, 3)
    shallow.remove()
    assert torch.equal(unet(x, 3).sample, before)
    assert list(denoiser(unet).reader(["mid_block"])(x, 3)) == ["mid_block"]


def test_a_module_that_is_not_there_cannot_be_tapped(unet):
    with pytest.raises(AttributeError, match="no_block"):
        denoiser(unet).reader(["no_block"])


def test_a_module_that_does_not_run_is_reported(unet):
    unet.add_module("unused", torch.nn.Identity())
    with pytest.raises(RuntimeError, match="never reached"):
        denoiser(unet).reader(["unused"])(torch.zeros(1, 1, 8, 8), 0)


def test_the_saved_network_is_stock_diffusers(saved):
    assert isinstance(load_denoiser(saved[0]).network, UNet2DModel)
    names = {path.suffix for path in saved[0].rglob("*") if path.is_file()}
    assert names == {".json", ".safetensors"}


class Scaling(VariancePreserving):
    """A process whose network sees samples scaled by step + 2."""

    def scaled(self, noised_B, steps_B):
        return noised_B * (steps_B + 2).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("self_conditioned", [False, True])
def test_the_network_sees_scaled_samples_and_the_estimate_as_it_is(self_conditioned):
    torch.manual_seed(0)
    config = UNet(block_out_channels=[8, 16], layers_per_block=1).plan(8, 1).config
    network = build_network({**config, "in_channels": 1 + self_conditioned})
    process = Scaling({"num_train_timesteps": 40})
    one = Denoiser(FAMILY, network, process, self_conditioned=self_conditioned)
    seen = []
    network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    z, estimate, steps = torch.randn(2, 1, 8, 8), torch.rand(2, 1, 8, 8), torch.tensor([3, 7])
    scaled = torch.cat([5 * z[:1], 9 * z[1:]])
    noise = one(z, steps, estimate)
    read = one.reader(["mid_block"])
    read(z, steps)
    read.remove()
    others = (estimate, torch.zeros_like(z))
    wanted = [torch.cat([scaled, other], 1) if self_conditioned else scaled for other in others]
    assert all(torch.equal(found, given) for found, given in zip(seen, wanted, strict=True))
    predicted = network(wanted[0], steps).sample
    torch.testing.assert_close(noise, process.estimates(predicted, z, steps).noise)
