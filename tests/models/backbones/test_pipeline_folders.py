"""Whose noise, autoencoder and weights are read: of a pipeline, a network's folder, or a training's checkpoint."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDPMPipeline,
    DDPMScheduler,
    EDMEulerScheduler,
    UNet2DModel,
)
from diffusers.training_utils import EMAModel
from tiny_models import PIXELS, save_ddpm, save_dit, save_stable_diffusion

from harness.core.errors import UserError
from harness.models.backbones.checkpoint import copy_pipeline
from harness.models.backbones.denoiser import load_denoiser
from harness.models.backbones.pretrained import PretrainedBackbone
from harness.models.noise_processes.schedule import Schedule
from harness.models.sampling import sample

COSINE = {"beta_schedule": "squaredcos_cap_v2"}


def planned(folder, **settings):
    """Returns the plan of a folder."""
    return PretrainedBackbone(path=str(folder), **settings).plan(PIXELS, 3)


def opened(plan, place):
    """Returns the denoiser from the copy that workers read."""
    place.mkdir()
    copy_pipeline(Path(plan.source), plan.config, plan.process, place, None)
    return load_denoiser(place)


@pytest.fixture
def cosine(tmp_path):
    """A pipeline of a model with the cosine schedule."""
    return save_ddpm(tmp_path / "whole", **COSINE)


def test_a_networks_folder_is_read_with_the_scheduler_beside_it_and_the_plan_says_so(
    cosine, tmp_path, monkeypatch
):
    whole, part = planned(cosine), planned(cosine / "unet")
    assert part.process.config == whole.process.config
    assert part.fingerprint == whole.fingerprint
    assert whole.notes == ()
    assert part.notes == (f"{cosine / 'unet'} is part of the pipeline {cosine}, whose other parts are used",)
    assert part.lines([5])[-1] == part.notes[0]
    (cosine / "model_index.json").unlink()
    assert planned(cosine / "unet").process.config == whole.process.config
    monkeypatch.chdir(cosine / "unet")
    assert planned(".").process.config == whole.process.config
    x, steps = torch.randn(1, 3, PIXELS, PIXELS), torch.tensor([50])
    one, other = opened(whole, tmp_path / "one"), opened(part, tmp_path / "other")
    assert torch.equal(one(x, steps), other(x, steps))


@pytest.mark.parametrize("save", [save_stable_diffusion, save_dit])
def test_a_latent_network_given_alone_has_the_autoencoder_of_its_pipeline(tmp_path, save):
    save(tmp_path / "whole")
    network = next(tmp_path.glob("whole/unet")) if save is save_stable_diffusion else None
    part = planned(network or tmp_path / "whole" / "transformer")
    assert part.fingerprint == planned(tmp_path / "whole").fingerprint
    denoiser = opened(part, tmp_path / "copy")
    assert denoiser.encode(torch.zeros(1, 3, PIXELS, PIXELS)).shape[1] == 4


@pytest.mark.parametrize("save", [save_ddpm, save_dit])
def test_without_a_scheduler_the_schedule_is_asked_for(tmp_path, save):
    folder = save(tmp_path / "whole") or tmp_path / "whole"
    shutil.rmtree(folder / "scheduler")
    with pytest.raises(UserError) as caught:
        planned(folder)
    assert str(caught.value).startswith(f"{folder}: has no scheduler/scheduler_config.json")
    assert "or backbone.schedule as it was trained: linear, scaled_linear" in str(caught.value)
    plan = planned(folder, schedule=Schedule(name="cosine", timesteps=70))
    assert plan.process.config["beta_schedule"] == "squaredcos_cap_v2"
    assert plan.timesteps == 70
    assert "noise: as backbone.schedule says, cosine" in plan.notes


def test_a_schedule_by_hand_is_used_instead_of_the_scheduler_and_the_plan_says_so(cosine, tmp_path):
    plan = planned(cosine, schedule=Schedule(name="edm", timesteps=20))
    path = cosine / "scheduler" / "scheduler_config.json"
    assert plan.notes == (f"noise: as backbone.schedule says, edm; {path} is not read",)
    assert plan.fingerprint != planned(cosine).fingerprint
    denoiser = opened(plan, tmp_path / "copy")
    assert denoiser.process.config == plan.process.config
    unet = UNet2DModel.from_pretrained(cosine / "unet").eval()
    x, epsilon = torch.randn(2, 1, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    step = torch.tensor([12])
    theirs = EDMEulerScheduler()
    theirs.set_timesteps(20)
    t = theirs.timesteps.flip(0)[12]
    noised = theirs.add_noise(x, epsilon, t[None])
    with torch.no_grad():
        expected = unet(theirs.scale_model_input(noised, t), t).sample
        wanted = theirs.precondition_outputs(noised, expected, theirs.sigmas[theirs.step_index])
        z = denoiser.noised(x, epsilon, step)
        predicted = denoiser.predict(z, step)
    torch.testing.assert_close(predicted, expected, rtol=1e-5, atol=1e-5)
    found = denoiser.process.estimates(predicted, z, step).clean
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_an_artifact_names_the_scheduler_that_it_holds(cosine, tmp_path):
    opened(planned(cosine, schedule=Schedule(name="edm")), tmp_path / "copy")
    index = json.loads((tmp_path / "copy" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "EDMEulerScheduler"]
    opened(planned(cosine), tmp_path / "other")
    assert isinstance(DDPMPipeline.from_pretrained(tmp_path / "other").scheduler, DDPMScheduler)


def test_a_consistency_model_makes_the_images_of_its_own_pipeline(cosine, tmp_path):
    unet = UNet2DModel.from_pretrained(cosine / "unet")
    pipeline = ConsistencyModelPipeline(unet, CMStochasticIterativeScheduler())
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "consistency")
    denoiser = opened(planned(tmp_path / "consistency"), tmp_path / "copy")
    noise = torch.randn(2, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    wanted = pipeline(2, None, 1, latents=noise, output_type="pt").images
    found = sample(denoiser.process, denoiser.predict, noise, steps=1, clip=denoiser.bound)
    torch.testing.assert_close((denoiser.decode(found) + 1) / 2, wanted, rtol=0, atol=1e-5)


@pytest.fixture
def training(tmp_path):
    """The output of a training script of diffusers that ran to its end: a pipeline, and a checkpoint in it."""
    output = save_ddpm(tmp_path / "output", **COSINE)
    unet = UNet2DModel.from_pretrained(output / "unet")
    unet.save_pretrained(output / "checkpoint-500" / "unet")
    averaged = EMAModel(unet.parameters(), decay=0.5, model_cls=UNet2DModel, model_config=unet.config)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1)
    averaged.step(unet.parameters())
    averaged.save_pretrained(output / "checkpoint-500" / "unet_ema")
    return output


def test_of_a_checkpoint_the_averaged_weights_are_read_as_its_pipeline_would_and_the_others_offered(
    training, tmp_path
):
    checkpoint = training / "checkpoint-500"
    averaged, last = planned(checkpoint), planned(checkpoint, network="unet")
    assert averaged.process.config == last.process.config == planned(training).process.config
    belongs = f"is part of the pipeline {training}, whose other parts are used"
    assert averaged.notes == (
        f"{checkpoint / 'unet_ema'} {belongs}",
        f"{checkpoint / 'unet_ema'} is read, with averaged weights, not unet beside it; backbone.network=unet "
        "reads that",
    )
    assert last.notes[1].startswith(f"{checkpoint / 'unet'} is read, not unet_ema beside it")
    assert planned(checkpoint / "unet_ema").fingerprint == averaged.fingerprint
    assert planned(checkpoint / "unet").fingerprint == last.fingerprint
    for plan, name in ((averaged, "unet_ema"), (last, "unet")):
        found = opened(plan, tmp_path / name).network.conv_in.weight
        wanted = UNet2DModel.from_pretrained(checkpoint / name).conv_in.weight
        assert torch.equal(found, wanted)
    assert averaged.fingerprint != last.fingerprint
    assert averaged.config.keys() == last.config.keys(), "the state of averaging is no setting of the network"


def test_a_pipeline_with_an_index_is_read_as_that_names_its_network(training):
    shutil.copytree(training / "checkpoint-500" / "unet_ema", training / "unet_ema")
    plan = planned(training)
    assert plan.source == str(training)
    assert plan.notes == (
        f"{training / 'unet'} is read, not unet_ema beside it; backbone.network=unet_ema reads that",
    )
    assert planned(training, network="unet_ema").source == str(training / "unet_ema")


def test_a_checkpoint_alone_needs_a_schedule_and_a_network_must_exist(training, tmp_path):
    shutil.copytree(training / "checkpoint-500", tmp_path / "alone" / "checkpoint-500")
    alone = tmp_path / "alone" / "checkpoint-500"
    with pytest.raises(UserError, match="has no scheduler/"):
        planned(alone)
    assert planned(alone, schedule=Schedule(name="cosine")).source == str(alone / "unet_ema")
    with pytest.raises(UserError, match=r"'unet_emma': .* no such network; folders there: unet, unet_ema"):
        planned(alone, network="unet_emma")
