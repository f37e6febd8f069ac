"""The families of `UNet2DConditionModel`: each use of it keeps the contract, and agrees with its own pipeline."""

from functools import partial

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    IFPipeline,
    KandinskyV22CombinedPipeline,
    LatentConsistencyModelPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.utils import logging
from tiny_conditional_unets import (
    STEPS,
    save_deepfloyd,
    save_distilled,
    save_kandinsky,
    save_lcm,
    save_sd2,
    save_sdxl,
)
from tiny_models import PIXELS

from harness.testing.backbones import BackboneFamilyContract

SIZE = {"height": PIXELS, "width": PIXELS}
DDIM = {"set_alpha_to_one": True, "steps_offset": 0, "variance_type": None, "timestep_spacing": "leading"}


def opened(kind, folder, scheduler=None, clip=False):
    """Returns the pipeline of a folder; with another sampler, on the schedule that it was trained with, if given."""
    logging.set_verbosity_error()
    pipeline = kind.from_pretrained(folder, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        settings = {**DDIM, "clip_sample": clip} if scheduler is DDIMScheduler else {}
        pipeline.scheduler = scheduler.from_config({**pipeline.scheduler.config, **settings})
    return pipeline


class StableDiffusionContract(BackboneFamilyContract):
    """Against `StableDiffusionPipeline`."""

    guidance = 1.0

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = opened(StableDiffusionPipeline, folder, DDPMScheduler)
        return pipeline.unet, lambda: pipeline(
            "", latents=z_BCHW, timesteps=[step], guidance_scale=self.guidance, output_type="latent"
        )

    def pipeline_samples(self, folder, start_BCHW, plan):
        pipeline = opened(StableDiffusionPipeline, folder, DDIMScheduler)
        made = pipeline(
            "",
            latents=start_BCHW,
            num_inference_steps=plan.timesteps,
            guidance_scale=self.guidance,
            output_type="pt",
        )
        return 2 * made.images - 1


@pytest.mark.slow
class TestVPrediction(StableDiffusionContract):
    save = staticmethod(lambda folder, seed: save_sd2(folder, seed))


@pytest.mark.slow
class TestZeroTerminalSNR(StableDiffusionContract):
    save = staticmethod(lambda folder, seed: save_sd2(folder, seed, zero_snr=True))


@pytest.mark.slow
class TestDistilled(StableDiffusionContract):
    save = staticmethod(lambda folder, seed: save_distilled(folder, seed))

    def test_mid_is_the_last_input_block(self, plan):
        (middle,) = plan.select("mid")
        assert middle.name == "down_blocks.1.resnets.0"
        assert plan.select("up")[0].name == "up_blocks.0.resnets.0"


@pytest.mark.slow
class TestLatentConsistency(StableDiffusionContract):
    guidance = 8.5  # the default of its own pipeline
    save = staticmethod(lambda folder, seed: save_lcm(folder, seed))

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = opened(LatentConsistencyModelPipeline, folder)
        return pipeline.unet, lambda: pipeline("", latents=z_BCHW, timesteps=[step], output_type="latent")


@pytest.mark.slow
class TestSDXL(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_sdxl(folder, seed))

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = opened(StableDiffusionXLPipeline, folder, DDPMScheduler)
        return pipeline.unet, lambda: pipeline(
            "", latents=z_BCHW, timesteps=[step], guidance_scale=1, output_type="latent"
        )

    def pipeline_samples(self, folder, start_BCHW, plan):
        pipeline = opened(StableDiffusionXLPipeline, folder, DDIMScheduler)
        made = pipeline("", latents=start_BCHW, num_inference_steps=STEPS, guidance_scale=1, output_type="pt")
        return 2 * made.images - 1


@pytest.mark.slow
class TestLatentConsistencyXL(TestSDXL):
    save = staticmethod(lambda folder, seed: save_sdxl(folder, seed, {"time_cond_proj_dim": 6}))

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = opened(StableDiffusionXLPipeline, folder, DDPMScheduler)
        return pipeline.unet, lambda: pipeline("", latents=z_BCHW, timesteps=[step], output_type="latent")

    def pipeline_samples(self, folder, start_BCHW, plan):
        pipeline = opened(StableDiffusionXLPipeline, folder, DDIMScheduler)
        made = pipeline("", latents=start_BCHW, num_inference_steps=STEPS, output_type="pt")
        return 2 * made.images - 1


@pytest.mark.slow
class TestPlayground(BackboneFamilyContract):
    """As Playground 2.5: noise in σ, latents standardised by channel."""

    save = staticmethod(
        lambda folder, seed: save_sdxl(
            folder,
            seed,
            scheduler=EDMEulerScheduler(num_train_timesteps=20),
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.1, 0.9, 1.3, 0.7],
        )
    )

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = opened(StableDiffusionXLPipeline, folder)
        start = z_BCHW / pipeline.scheduler.init_noise_sigma
        place = torch.tensor(
            [1 - step / 19], dtype=torch.float64
        )  # on the ramp from the largest σ to the smallest
        return pipeline.unet, lambda: pipeline(
            "", latents=start, sigmas=place, guidance_scale=1, output_type="latent"
        )

    def pipeline_samples(self, folder, start_BCHW, plan):
        pipeline = opened(StableDiffusionXLPipeline, folder)
        made = pipeline("", latents=start_BCHW, num_inference_steps=20, guidance_scale=1, output_type="pt")
        return 2 * made.images - 1


@pytest.mark.slow
class TestKandinsky(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_kandinsky(folder, seed))

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = opened(KandinskyV22CombinedPipeline, folder)
        decoder, zero = pipeline.decoder_pipe, pipeline.prior_pipe.get_zero_embed()
        decoder.set_progress_bar_config(disable=True)
        at = decoder.scheduler.set_timesteps
        decoder.scheduler.set_timesteps = lambda number, device: at(timesteps=[step], device=device)
        return decoder.unet, lambda: decoder(
            zero, zero, latents=z_BCHW, guidance_scale=1, output_type="latent", **SIZE
        )

    def pipeline_samples(self, folder, start_BCHW, plan):
        pipeline = opened(KandinskyV22CombinedPipeline, folder, DDIMScheduler)
        decoder, zero = pipeline.decoder_pipe, pipeline.prior_pipe.get_zero_embed()
        decoder.scheduler = pipeline.scheduler
        decoder.set_progress_bar_config(disable=True)
        made = decoder(
            zero,
            zero,
            latents=start_BCHW,
            num_inference_steps=STEPS,
            guidance_scale=1,
            output_type="pt",
            **SIZE,
        )
        return made.images.clamp(-1, 1)


@pytest.mark.slow
class TestDeepFloyd(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_deepfloyd(folder, seed))

    def _started(self, folder, start_BCHW, scheduler=None):
        pipeline = opened(IFPipeline, folder, scheduler, clip=True)
        pipeline.prepare_intermediate_images = lambda *given: start_BCHW
        return pipeline

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = self._started(folder, z_BCHW)
        return pipeline.unet, lambda: pipeline(
            "", timesteps=[step], guidance_scale=1, output_type="pt", clean_caption=False
        )

    def pipeline_samples(self, folder, start_BCHW, plan):
        pipeline = self._started(folder, start_BCHW, DDIMScheduler)
        pipeline.scheduler.step = partial(pipeline.scheduler.step, use_clipped_model_output=True)
        made = pipeline(
            "", num_inference_steps=STEPS, guidance_scale=1, output_type="pt", clean_caption=False
        )
        return made.images
