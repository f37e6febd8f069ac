"""PixArt and HunyuanDiT, against their own pipelines."""

import json

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    HunyuanDiTPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
)
from safetensors.torch import load_file
from tiny_captioned import HUNYUAN, LARGE, save_hunyuan, save_pixart_alpha, save_pixart_sigma

from harness.models.backbones.pretrained import PretrainedBackbone
from harness.testing.backbones import BackboneFamilyContract

EXACT = {"set_alpha_to_one": True, "clip_sample": False, "steps_offset": 0}


def opened(kind, folder, scheduler):
    """Returns the pipeline of a folder with another sampler, on the schedule that it was trained with."""
    settings = {"requires_safety_checker": False} if kind is HunyuanDiTPipeline else {}
    pipeline = kind.from_pretrained(folder, low_cpu_mem_usage=False, **settings)
    pipeline.set_progress_bar_config(disable=True)
    exact = EXACT if scheduler is DDIMScheduler else {}
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **exact)
    return pipeline


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


class PixArt(BackboneFamilyContract):
    """Both pipelines run alike."""

    def given(self):
        return {"guidance_scale": 1, "use_resolution_binning": False, "height": self.size, "width": self.size}

    def test_parts_of_blocks_have_the_shapes_of_the_table(self, plan, denoiser, images, published, tmp_path):
        (line,) = (note for note in plan.notes if note.startswith("cross-attention: under the empty prompt"))
        z, _ = self.noised(denoiser, images, 3)
        read = denoiser.reader(["transformer_blocks.0.attn2"])
        (found,) = read(z, 3).values()
        read.remove()
        assert torch.allclose(found[0], found[1]), line
        plan = PretrainedBackbone(path=str(published), prompt="a a").plan(self.size, self.channels)
        prompted = self.opened(plan, tmp_path / "prompted")
        super().test_parts_of_blocks_have_the_shapes_of_the_table(plan, prompted, images)

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = opened(self.kind, folder, DDPMScheduler)
        return pipeline.transformer, lambda: pipeline(
            "", latents=z_BCHW, timesteps=[step], output_type="latent", **self.given()
        )

    def pipeline_samples(self, folder, start_BCHW, plan):
        pipeline = opened(self.kind, folder, DDIMScheduler)
        made = pipeline("", latents=start_BCHW, num_inference_steps=20, output_type="pt", **self.given())
        return 2 * made.images - 1


@pytest.mark.slow
class TestPixArtSigma(PixArt):
    kind = PixArtSigmaPipeline
    save = staticmethod(lambda folder, seed: save_pixart_sigma(folder, seed=seed))

    def test_a_prompt_is_cut_and_masked_as_the_pipeline_does(self, published, tmp_path):
        plan = PretrainedBackbone(path=str(published), prompt="a a").plan(self.size, self.channels)
        self.opened(plan, tmp_path / "prompted")
        found = load_file(tmp_path / "prompted" / "condition.safetensors")
        pipeline = opened(PixArtSigmaPipeline, published, DDIMScheduler)
        with torch.no_grad():
            embedding, mask, _, _ = pipeline.encode_prompt("a a", False)
        torch.testing.assert_close(found["prompt"], embedding[0])
        assert torch.equal(found["mask"], mask[0].bool())
        assert found["mask"].sum() < 300

    def test_the_former_class_is_read_as_todays(self, spoilt, plan):
        edit(
            spoilt / "transformer" / "config.json",
            _class_name="Transformer2DModel",
            num_vector_embeds=None,
            use_linear_projection=False,
        )
        now = self.planned(spoilt)
        assert now.config["_class_name"] == "PixArtTransformer2DModel"
        assert now.config["caption_channels"] == plan.config["caption_channels"]

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"attention_type": "gated"}, "needs boxes or phrases besides the prompt"),
            ({"out_channels": 5}, "out_channels = 5: expected 4, or 8 with a learnt variance"),
            ({"patch_size": 3}, "patch_size = 3 does not divide sample_size = 8"),
            ({"use_additional_conditions": True, "attention_head_dim": 8}, "a width of 16"),
            ({"caption_channels": 8}, "'caption_projection.linear_1.weight' has shape [24, 16]"),
        ],
        ids=str,
    )
    def test_what_would_be_wrong_is_refused(self, spoilt, settings, words):
        edit(spoilt / "transformer" / "config.json", **settings)
        assert words in self.refused(spoilt)


@pytest.mark.slow
class TestPixArtAlpha(PixArt):
    """The network that is told resolution and aspect ratio."""

    size = LARGE
    kind = PixArtAlphaPipeline
    save = staticmethod(lambda folder, seed: save_pixart_alpha(folder, seed=seed))

    def test_the_network_is_told_the_size_of_images(self, artifact):
        found = load_file(artifact / "condition.safetensors")
        assert found["resolution"].tolist() == [LARGE, LARGE]
        assert found["aspect_ratio"].tolist() == [1.0]
        assert found["prompt"].shape[0] == 120


@pytest.mark.slow
class TestHunyuanDiT(BackboneFamilyContract):
    size = HUNYUAN
    save = staticmethod(lambda folder, seed: save_hunyuan(folder, seed=seed))

    def given(self):
        return {"guidance_scale": 1, "use_resolution_binning": False, "height": self.size, "width": self.size}

    def pipeline_pass(self, folder, z_BCHW, plan, step):
        pipeline = opened(HunyuanDiTPipeline, folder, DDPMScheduler)
        steps = pipeline.scheduler.set_timesteps

        def only(number, device):
            steps(timesteps=[step], device=device)

        pipeline.scheduler.set_timesteps = only  # the pipeline itself takes no timesteps
        return pipeline.transformer, lambda: pipeline(
            "", latents=z_BCHW, output_type="latent", **self.given()
        )

    def pipeline_samples(self, folder, start_BCHW, plan):
        pipeline = opened(HunyuanDiTPipeline, folder, DDIMScheduler)
        made = pipeline("", latents=start_BCHW, num_inference_steps=20, output_type="pt", **self.given())
        return 2 * made.images - 1

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"num_layers": 3}, "num_layers = 3: skip connections pair the blocks"),
            ({"hidden_size": 24}, "hidden_size = 24: expected 16"),
            ({"attention_head_dim": 6, "hidden_size": 12}, "need a multiple of 4"),
            ({"cross_attention_dim_t5": 12}, "is not divisible by the 8 heads"),
            ({"text_len": 60}, "text_len = 60: expected 77"),
            ({"patch_size": 3}, "patch_size = 3 does not divide sample_size = 8"),
        ],
        ids=str,
    )
    def test_what_its_own_code_cannot_run_is_refused(self, spoilt, settings, words):
        edit(spoilt / "transformer" / "config.json", **settings)
        assert words in self.refused(spoilt)


@pytest.mark.slow
class TestHunyuanDiTWithoutStyle(TestHunyuanDiT):
    """Version 1.2."""

    save = staticmethod(lambda folder, seed: save_hunyuan(folder, seed=seed, conditioned=False))
