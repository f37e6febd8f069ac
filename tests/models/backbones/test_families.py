"""Every backbone family keeps the contract; one line a family."""

import json

import pytest
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from tiny_models import PIXELS, save_adm, save_ddpm, save_dit, save_sd3, save_stable_diffusion

from harness.models.backbones.family import FAMILIES, UNNAMED, family_named
from harness.testing.backbones import BackboneFamilyContract

SIZE = {"height": PIXELS, "width": PIXELS}
DDIM = {"set_alpha_to_one": True, "clip_sample": False, "steps_offset": 0}


def opened(kind, folder, scheduler=None):
    """Returns the pipeline of a folder; with another sampler, on the schedule that it was trained with, if given."""
    pipeline = kind.from_pretrained(folder, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        settings = DDIM if scheduler is DDIMScheduler else {}
        pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **settings)
    return pipeline


class TestUNet(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_ddpm(folder, seed=seed))


class TestADM(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_adm(folder, seed=seed))

    def test_contradictory_heads_and_widths_are_refused(self, published):
        path = published / "unet" / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "num_attention_heads": 3}))
        assert self.refused(published).endswith("num_attention_heads = 3 does not divide the channels")
        path.write_text(json.dumps({**config, "model_channels": None}))
        assert "model_channels = None: expected a positive integer" in self.refused(published)


@pytest.mark.slow
class TestConditionalUNet(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_stable_diffusion(folder, seed=seed))

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = opened(StableDiffusionPipeline, folder, DDPMScheduler)
        return pipeline.unet, lambda: pipeline(
            "", latents=z_BCHW, timesteps=[step], guidance_scale=1, output_type="latent"
        )

    def pipeline_samples(self, folder, start_BCHW, plan):
        pipeline = opened(StableDiffusionPipeline, folder, DDIMScheduler)
        made = pipeline(
            "", latents=start_BCHW, num_inference_steps=plan.timesteps, guidance_scale=1, output_type="pt"
        )
        return 2 * made.images - 1


@pytest.mark.slow
class TestDiT(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_dit(folder, seed=seed))


@pytest.mark.slow
class TestSD3(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_sd3(folder, seed=seed))

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = opened(StableDiffusion3Pipeline, folder)
        return pipeline.transformer, lambda: pipeline(
            "", latents=z_BCHW, sigmas=[(step + 1) / 20], guidance_scale=1, output_type="latent", **SIZE
        )

    def pipeline_samples(self, folder, start_BCHW, plan):
        made = opened(StableDiffusion3Pipeline, folder)(
            "", latents=start_BCHW, num_inference_steps=20, guidance_scale=1, output_type="pt", **SIZE
        )
        return 2 * made.images - 1


@pytest.mark.parametrize("name", FAMILIES.names())
def test_a_family_is_registered_under_its_networks_name(name):
    assert family_named(name).class_name == name
    assert UNNAMED in FAMILIES.names()
