"""`UNet2DModel` beyond plain DDPM: with classes, on latents, of consistency models and in σ."""

import json

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ConsistencyModelPipeline,
    DDIMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    UNet2DModel,
)
from diffusers.pipelines.deprecated.latent_diffusion_uncond import LDMPipeline
from tiny_models import PIXELS
from tiny_plain_unets import (
    CLASSES,
    save_consistency,
    save_edm,
    save_latent_kl,
    save_latent_vq,
    save_unet,
)

from harness.core.errors import UserError
from harness.models.backbones.family import build_network
from harness.models.backbones.pretrained import PretrainedBackbone
from harness.models.noise_processes.schedule import Schedule
from harness.models.sampling import sample
from harness.testing.backbones import BackboneFamilyContract, open_copy


def steps_of(unet, scheduler, z_BCHW, **given):
    """Samples with a scheduler of diffusers, over all of its steps."""
    scheduler.set_timesteps(scheduler.config.num_train_timesteps)
    z_BCHW = z_BCHW * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        with torch.no_grad():
            output = unet(scheduler.scale_model_input(z_BCHW, time), time, **given).sample
        z_BCHW = scheduler.step(output, time, z_BCHW).prev_sample
    return z_BCHW


@pytest.mark.slow
class TestLatentVQ(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_latent_vq(folder, seed=seed))

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = DiffusionPipeline.from_pretrained(folder)
        assert isinstance(pipeline, LDMPipeline)
        return pipeline.unet, lambda: pipeline.unet(z_BCHW, torch.tensor(step))

    def pipeline_samples(self, folder, start_BCHW, plan):
        pipeline = LDMPipeline.from_pretrained(folder)
        latents = (
            steps_of(pipeline.unet, pipeline.scheduler, start_BCHW) / pipeline.vqvae.config.scaling_factor
        )
        with torch.no_grad():
            return pipeline.vqvae.decode(latents).sample.clamp(-1, 1)

    def test_an_artifact_opens_as_the_pipeline_that_it_was(self, artifact):
        pipeline = DiffusionPipeline.from_pretrained(artifact)
        assert isinstance(pipeline, LDMPipeline)
        assert pipeline.vqvae.config.scaling_factor == 0.7

    def test_latents_without_a_factor_in_the_configuration_are_not_scaled(self, spoilt, images, tmp_path):
        path = spoilt / "vqvae" / "config.json"
        config = json.loads(path.read_text())
        config.pop("scaling_factor")
        path.write_text(json.dumps(config))
        denoiser = open_copy(self.planned(spoilt), tmp_path / "old")
        vqvae = LDMPipeline.from_pretrained(spoilt).vqvae
        with torch.no_grad():
            wanted = vqvae.encode(images).latents
            torch.testing.assert_close(denoiser.encode(images), wanted)
            torch.testing.assert_close(denoiser.decode(wanted), vqvae.decode(wanted).sample)


@pytest.mark.slow
class TestLatentKL(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_latent_kl(folder, seed=seed))

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        unet = UNet2DModel.from_pretrained(folder / "unet")
        return unet, lambda: unet(z_BCHW, torch.tensor(step))

    def pipeline_samples(self, folder, start_BCHW, plan):
        unet, vae = (
            UNet2DModel.from_pretrained(folder / "unet"),
            AutoencoderKL.from_pretrained(folder / "vae"),
        )
        latents = steps_of(unet, DDIMScheduler.from_pretrained(folder / "scheduler"), start_BCHW)
        with torch.no_grad():
            return vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1)

    def test_an_artifact_is_no_pipeline_that_would_take_latents_for_images(self, denoiser, tmp_path):
        assert not (tmp_path / "opened" / "model_index.json").exists()


class Labelled(BackboneFamilyContract):
    """A model with classes, read under class 2."""

    def planned(self, folder):
        return PretrainedBackbone(path=str(folder), label=2).plan(self.size, self.channels)

    def test_the_label_is_needed_and_must_be_a_row(self, published, plan):
        assert plan.condition.name == "label 2"
        names = (
            f"this UNet2DModel is class-conditional and its configuration names no null class; set backbone.label to "
            f"a class from 0 to {CLASSES - 1}, or to the number of the null class if it was trained with one"
        )
        for label, words in ((None, "is missing"), ("null", "= 'null'")):
            with pytest.raises(UserError) as caught:
                PretrainedBackbone(path=str(published), label=label).plan(self.size, self.channels)
            assert str(caught.value) == f"backbone.label {words}: {names}"
        with pytest.raises(UserError, match=f"has classes 0 to {CLASSES - 1}"):
            PretrainedBackbone(path=str(published), label=CLASSES).plan(self.size, self.channels)

    def test_another_label_gives_another_prediction(self, published, denoiser, images, tmp_path):
        other = PretrainedBackbone(path=str(published), label=3).plan(self.size, self.channels)
        given = self.noised(denoiser, images, 3)
        found = self.opened(other, tmp_path / "other").predict(*given)
        assert not torch.allclose(found, denoiser.predict(*given))

    def test_images_of_another_size_are_refused_with_the_settings_that_fit(self, published):
        with pytest.raises(UserError, match=f"set data.size={self.size} data.channels={self.channels}"):
            PretrainedBackbone(path=str(published), label=2).plan(2 * self.size, self.channels)


@pytest.mark.slow
class TestClasses(Labelled):
    save = staticmethod(lambda folder, seed: save_unet(folder, seed=seed, num_class_embeds=CLASSES))

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        unet = UNet2DModel.from_pretrained(folder / "unet")
        return unet, lambda: unet(z_BCHW, torch.tensor(step), torch.tensor([2]))


@pytest.mark.slow
class TestConsistency(Labelled):
    save = staticmethod(lambda folder, seed: save_consistency(folder, seed=seed))

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = ConsistencyModelPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler.set_timesteps(timesteps=[plan.timesteps - 1 - step])
        sigma = float(plan.process.sigmas_T[step])
        assert float(pipeline.scheduler.sigmas[0]) == pytest.approx(sigma, rel=1e-5)
        given = z_BCHW / pipeline.scheduler.init_noise_sigma  # the pipeline multiplies by it
        return pipeline.unet, lambda: pipeline(
            class_labels=[2], latents=given, num_inference_steps=None, timesteps=[plan.timesteps - 1 - step]
        )


@pytest.mark.slow
class TestEDM(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_edm(folder, seed=seed))

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        unet = UNet2DModel.from_pretrained(folder / "unet")
        scheduler = EDMEulerScheduler.from_pretrained(folder / "scheduler")
        scheduler.set_timesteps(plan.timesteps)
        time = scheduler.timesteps.flip(0)[step]
        return unet, lambda: unet(scheduler.scale_model_input(z_BCHW, time), time)

    def test_samples_are_those_of_the_pipeline(self, plan, published, denoiser, images):
        scheduler = EDMEulerScheduler.from_pretrained(
            published / "scheduler"
        )  # which does not clip estimates
        start = torch.randn(images.shape, generator=torch.Generator().manual_seed(6))
        expected = steps_of(UNet2DModel.from_pretrained(published / "unet"), scheduler, start)
        with torch.no_grad():
            found = sample(denoiser.process, denoiser.predict, start, steps=plan.timesteps, clip=None)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
class TestLearntTimes(BackboneFamilyContract):
    save = staticmethod(
        lambda folder, seed: save_unet(
            folder, seed=seed, time_embedding_type="learned", num_train_timesteps=20, attention_head_dim=3
        )
    )

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        unet = UNet2DModel.from_pretrained(folder / "unet")
        return unet, lambda: unet(z_BCHW, torch.tensor(step))

    def test_a_schedule_that_the_table_of_times_does_not_have_is_refused(self, spoilt):
        for schedule, words in (
            (Schedule(name="linear", timesteps=21), "a table of 20 steps, but the scheduler has 21"),
            (Schedule(name="flow", timesteps=20), "is a FlowMatchEulerDiscreteScheduler"),
        ):
            with pytest.raises(UserError) as caught:
                PretrainedBackbone(path=str(spoilt), schedule=schedule).plan(self.size, self.channels)
            assert words in str(caught.value)


REFUSED = {
    "a centred input": ({"center_input_sample": True}, "reads noised images in [0, 1]"),
    "σ as time": ({"time_embedding_type": "fourier"}, "needs a ScoreSdeVeScheduler, which is not supported"),
    "another time": ({"time_embedding_type": "x"}, "expected 'positional' or 'learned'"),
    "no table of times": ({"time_embedding_type": "learned"}, "num_train_timesteps = None"),
    "a size that cannot be halved": ({"sample_size": 15}, "sample_size = 15 is not divisible by 2"),
    "more inputs": ({"in_channels": 6}, "in_channels = 6 and out_channels = 3: the network reads more"),
    "too wide a head": ({"attention_head_dim": 32}, "up to the channels of attention, 16"),
    "a spatial norm": ({"resnet_time_scale_shift": "spatial"}, "expected 'default' or 'scale_shift'"),
    "no middle": ({"mid_block_type": None}, "mid_block_type = None: expected UNetMidBlock2D"),
    "a number as class": ({"class_embed_type": "timestep"}, "only tables of labels are supported"),
    "no class": ({"num_class_embeds": 0}, "num_class_embeds = 0: expected a positive integer"),
    "NCSN++": (
        {"down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"]},
        "of NCSN++, also carry a small image along",
    ),
    "a decoder's blocks": ({"up_block_types": ["UpDecoderBlock2D"] * 2}, "expected 2 of UpBlock2D"),
    "k-diffusion's blocks": ({"up_block_types": ["KUpBlock2D"] * 2}, "expected 2 of UpBlock2D"),
    "no sampler": ({"downsample_type": None}, "downsample_type = None: expected conv or resnet"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_unet(tmp_path_factory.mktemp("plain") / "ddpm")


@pytest.mark.parametrize("name", REFUSED)
def test_a_unet_that_would_be_read_wrongly_is_refused_by_name(plain, tmp_path, name):
    settings, words = REFUSED[name]
    config = json.loads((plain / "unet" / "config.json").read_text()) | settings
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        PretrainedBackbone(path=str(tmp_path), schedule=Schedule(name="linear")).plan(PIXELS, 3)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'unet' / 'config.json'}: ")
    assert words in message
    assert "\n" not in message


BLOCKS = {
    "down": ["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"],
    "up": ["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
}


@pytest.mark.slow
@pytest.mark.parametrize("down", BLOCKS["down"])
@pytest.mark.parametrize("up", BLOCKS["up"])
def test_any_pair_of_block_types_is_numbered_as_it_runs(tmp_path, down, up):
    given = {
        "down_block_types": [down, "AttnDownBlock2D", down],
        "up_block_types": [up, "AttnUpBlock2D", up],
        "block_out_channels": [8, 8, 16],
        "layers_per_block": 2,
    }
    plan = PretrainedBackbone(path=str(save_unet(tmp_path / "saved", **given))).plan(PIXELS, 3)
    denoiser = open_copy(plan, tmp_path / "opened")
    read = denoiser.reader([block.name for block in plan.blocks])
    seen = read(torch.zeros(1, 3, PIXELS, PIXELS), 3)
    expected = {block.name: (1, block.channels, block.size, block.size) for block in plan.blocks}
    assert [(name, tuple(one.shape)) for name, one in seen.items()] == list(expected.items())
    points = {point.name: point for block in plan.blocks for point in block.points}
    read = denoiser.reader(list(points))
    for name, one in read(torch.zeros(1, 3, PIXELS, PIXELS), 3).items():
        assert (points[name].channels, points[name].size) == tuple(one.shape[1:3]), name
    assert build_network(plan.config).config["layers_per_block"] == 2
