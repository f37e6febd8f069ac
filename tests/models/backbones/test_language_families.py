"""The families that are prompted through language models keep the contract."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    SanaPipeline,
    SanaSprintPipeline,
    ZImagePipeline,
)
from tiny_language import save_lumina2, save_sana, save_sana_sprint, save_z_image
from tiny_models import PIXELS

from harness.core.errors import UserError
from harness.models.backbones.condition import Condition
from harness.models.backbones.pipeline import Pipeline
from harness.models.backbones.pretrained import PretrainedBackbone
from harness.testing.backbones import BackboneFamilyContract

SIZE = {"height": PIXELS, "width": PIXELS}
ASKED = {"height": 32, "width": 32}  # what Sana's pipelines insist on; the latents that they are given count


def opened(kind, folder, scheduler=None):
    """Returns the pipeline of a folder, with another scheduler if given."""
    pipeline = kind.from_pretrained(folder, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipeline.scheduler = scheduler
    return pipeline


def changed(path, **values):
    """Writes a JSON file again with other values."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.slow
class TestSana(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_sana(folder, seed))

    def made(self, folder, start_BCHW, **settings):
        """Returns what the pipeline makes in Euler's steps."""
        pipeline = opened(SanaPipeline, folder, FlowMatchEulerDiscreteScheduler(num_train_timesteps=20))
        return pipeline, partial(
            pipeline,
            "",
            latents=start_BCHW,
            guidance_scale=1,
            use_resolution_binning=False,
            **ASKED,
            **settings,
        )

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline, run = self.made(folder, z_BCHW, sigmas=[(step + 1) / 20], output_type="latent")
        return pipeline.transformer, run

    def pipeline_samples(self, folder, start_BCHW, plan):
        _, run = self.made(folder, start_BCHW, num_inference_steps=20, output_type="pt")
        return 2 * run().images - 1

    def test_the_unconditional_pass_has_no_instruction(self, published):
        plan = PretrainedBackbone(path=str(published), unconditional=True).plan(PIXELS, 3)
        pipeline = opened(SanaPipeline, published)
        with torch.no_grad():
            _, _, embedding_1MD, mask_1M = pipeline.encode_prompt("", True)
        found = plan.family.make_condition(Pipeline(Path(plan.root)), plan.config, plan.condition.settings)
        torch.testing.assert_close(found["prompt"], embedding_1MD[0])
        assert found["mask"].tolist() == mask_1M[0].bool().tolist()
        assert found["mask"].sum() == 1

    def test_guidance_is_refused_where_none_is_embedded(self, plan, published):
        with pytest.raises(UserError, match="embeds no guidance"):
            plan.under(Condition(guidance=3.0))


@pytest.mark.slow
class TestSanaSprint(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_sana_sprint(folder, seed))

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = opened(SanaSprintPipeline, folder)
        sigma = torch.tensor((step + 1) / 1000)
        angle = torch.atan2(sigma, 1 - sigma)
        return pipeline.transformer, lambda: pipeline(
            "",
            latents=z_BCHW / torch.hypot(sigma, 1 - sigma),
            num_inference_steps=1,
            max_timesteps=angle.item(),
            intermediate_timesteps=None,
            use_resolution_binning=False,
            output_type="latent",
            **ASKED,
        )

    def test_the_embedded_guidance_is_the_pipelines_unless_given(self, plan):
        assert plan.condition.name == 'prompt "", guidance 4.5'
        assert plan.under(Condition(guidance=2.0)).condition.name == 'prompt "", guidance 2'
        with pytest.raises(UserError, match="no unconditional pass"):
            plan.under(Condition(unconditional=True))

    def test_another_number_of_timesteps_is_refused(self, spoilt):
        changed(spoilt / "scheduler" / "scheduler_config.json", num_train_timesteps=100)
        assert "scheduler of flow matching with num_train_timesteps = 1000" in self.refused(spoilt)


class Refined(BackboneFamilyContract):
    """What Lumina2 and Z-Image have in common."""

    sampling_steps = 20
    kind = None
    guidance = 1

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = opened(self.kind, folder)
        return pipeline.transformer, lambda: pipeline(
            "",
            latents=z_BCHW,
            num_inference_steps=1,
            sigmas=[(step + 1) / 1000],
            guidance_scale=self.guidance,
            output_type="latent",
            **SIZE,
        )

    def pipeline_samples(self, folder, start_BCHW, plan):
        made = opened(self.kind, folder)(
            "",
            latents=start_BCHW,
            num_inference_steps=self.sampling_steps,
            guidance_scale=self.guidance,
            output_type="pt",
            **SIZE,
        )
        return 2 * made.images - 1

    def test_images_of_another_size_are_refused_with_the_settings_that_fit(self, published):
        """Of other channels, of a size that patches do not divide, or with more patches than positions."""
        for size, channels, advice in (
            (PIXELS, 4, "set data.size=16 data.channels=3"),
            (PIXELS + 2, 3, "set data.size=16"),
            (128, 3, "set data.size=64"),
        ):
            with pytest.raises(UserError, match=advice):
                PretrainedBackbone(path=str(published)).plan(size, channels)
        assert PretrainedBackbone(path=str(published)).plan(2 * PIXELS, 3).size == PIXELS

    def test_other_noise_is_refused(self, spoilt):
        changed(spoilt / "scheduler" / "scheduler_config.json", num_train_timesteps=100)
        assert "num_train_timesteps = 1000" in self.refused(spoilt)

    def test_parts_are_of_the_image_alone(self, plan, denoiser, images):
        for block in plan.blocks:
            assert {point.after: point.size for point in block.points} == dict.fromkeys(
                ("attention", "mlp", "query", "key", "value"), 4
            )


@pytest.mark.slow
class TestLumina2(Refined):
    kind = Lumina2Pipeline
    save = staticmethod(lambda folder, seed: save_lumina2(folder, seed))

    def test_the_unconditional_pass_has_no_system_prompt(self, published):
        plan = PretrainedBackbone(path=str(published), unconditional=True).plan(PIXELS, 3)
        with torch.no_grad():
            *_, embedding_1MD, mask_1M = opened(Lumina2Pipeline, published).encode_prompt("", True)
        found = plan.family.make_condition(Pipeline(Path(plan.root)), plan.config, plan.condition.settings)
        torch.testing.assert_close(found["prompt"], embedding_1MD[0, : mask_1M.sum()])
        assert len(found["prompt"]) == 1


@pytest.mark.slow
class TestZImage(Refined):
    kind = ZImagePipeline
    guidance = 0
    save = staticmethod(lambda folder, seed: save_z_image(folder, seed))

    def test_variants_that_would_be_read_wrongly_are_refused(self, spoilt):
        path = spoilt / "transformer" / "config.json"
        for words, values in {
            "all_patch_size = [1]: only [2] is supported": {"all_patch_size": [1]},
            "Z-Image-Omni, which also reads images, is not supported": {
                "all_patch_size": [2],
                "siglip_feat_dim": 8,
            },
        }.items():
            changed(path, **values)
            assert self.refused(spoilt).endswith(words)
