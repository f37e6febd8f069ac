"""Transformers with joint text and image tokens, compared with their pipelines block by block."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import (
    AuraFlowPipeline,
    ChromaPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    FluxKontextPipeline,
    FluxPipeline,
    QwenImagePipeline,
)
from tiny_joint import T, save_aura_flow, save_chroma, save_flux, save_flux2, save_qwen_image
from tiny_models import PIXELS

from harness.core.errors import UserError
from harness.models.backbones.pipeline import Pipeline
from harness.models.backbones.pretrained import PretrainedBackbone
from harness.testing.backbones import RELATIVE_ERROR, BackboneFamilyContract, open_copy

SIZE = {"height": PIXELS, "width": PIXELS}


def packed(z_BCHW):
    """Returns latents as Flux and Qwen-Image read them."""
    return FluxPipeline._pack_latents(z_BCHW, *z_BCHW.shape)


def tokens(map_BCHW):
    """Returns a map's tokens, row by row."""
    return map_BCHW.flatten(2).transpose(1, 2)


def parts_of(plan, denoiser, z, step):
    """Returns what parts of blocks put out: maps by path, and whole outputs of the same modules."""
    paths = [point.name for block in plan.blocks for point in block.points]
    whole = {}

    def keep(module, given, output, path):
        whole[path] = output

    hooks = [
        denoiser.network.get_submodule(path).register_forward_hook(partial(keep, path=path)) for path in paths
    ]
    read = denoiser.reader(paths)
    with torch.no_grad():
        maps = read(z, step)
    read.remove()
    for hook in hooks:
        hook.remove()
    return maps, whole


class JointContract(BackboneFamilyContract):
    """Adds other conditions than the default, parts of blocks, and the steps of the pipeline's sampler."""

    kind = None  # class of the pipeline
    settings = {}  # of its calls
    given = staticmethod(lambda z_BCHW: z_BCHW)  # its latents

    def opened_pipeline(self, folder, plain=True):
        """Returns the pipeline; with a scheduler that takes noise levels as they are given, if `plain`."""
        pipeline = self.kind.from_pretrained(folder, low_cpu_mem_usage=False)
        pipeline.set_progress_bar_config(disable=True)
        if plain:
            pipeline.scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=T)
        return pipeline

    def pipeline_pass(self, folder, z_BCHW, plan, step, prompt="", **further):
        pipeline = self.opened_pipeline(folder)
        return pipeline.transformer, lambda: pipeline(
            prompt=prompt,
            latents=self.given(z_BCHW),
            sigmas=[(step + 1) / T],
            output_type="latent",
            **{**SIZE, **self.settings, **further},
        )

    def pipeline_samples(self, folder, start_BCHW, plan):
        made = self.opened_pipeline(folder)(
            prompt="",
            latents=self.given(start_BCHW),
            num_inference_steps=T,
            output_type="pt",
            **SIZE,
            **self.settings,
        )
        return 2 * made.images - 1

    def check_another_condition(self, plan, published, images, folder, further=None, **condition):
        """Compares the last block under another condition than the default; returns its plan."""
        other = PretrainedBackbone(path=str(published), **condition).plan(self.size, self.channels)
        assert other.condition.fingerprint != plan.condition.fingerprint
        denoiser, default = open_copy(other, folder), open_copy(plan, folder.with_name("default"))
        z, _ = self.noised(denoiser, images[:1], 3)
        last = plan.blocks[-1].name
        network, run = self.pipeline_pass(
            published, z, plan, 3, condition.get("prompt", ""), **(further or {})
        )
        own = []
        network.get_submodule(last).register_forward_hook(lambda module, given, output: own.append(output))
        with torch.no_grad():
            run()
        expected = plan.family.as_map(network, last, own[0], z)
        found, without = denoiser.reader([last])(z, 3)[last], default.reader([last])(z, 3)[last]
        assert (found - expected).abs().max() <= RELATIVE_ERROR * expected.abs().max()
        assert (without - expected).abs().max() > 10 * RELATIVE_ERROR * expected.abs().max()
        return other

    def test_another_prompt_is_embedded_as_the_pipeline_does(self, plan, published, images, tmp_path):
        self.check_another_condition(plan, published, images, tmp_path / "other", prompt="a a")

    def test_parts_are_read_at_the_images_tokens(self, plan, denoiser, images):
        z, _ = self.noised(denoiser, images, 3)
        patch = plan.family.patch(plan.config)
        side = z.shape[-1] // patch
        maps, whole = parts_of(plan, denoiser, z, 3)
        kinds = {point.after for block in plan.blocks for point in block.points}
        assert kinds == {"attention", "mlp", "query", "key", "value"}
        for path, output in whole.items():
            found = output[0] if isinstance(output, tuple) else output[:, -(side**2) :]
            assert torch.equal(tokens(maps[path]), found), path
        changed = z.clone()
        changed[:, :, :patch, :patch] += 1  # the token of the first corner
        after, _ = parts_of(plan, denoiser, changed, 3)
        names = [point.name for point in plan.blocks[0].points if point.after in ("query", "key", "value")]
        assert len(names) == 3
        for name in names:
            moved = (after[name] - maps[name]).abs().amax((0, 1)) > 1e-6
            assert moved[0, 0]
            assert moved.sum() == 1, "other tokens come after attention"

    def test_a_sampler_takes_the_pipelines_steps(self, plan, published):
        pipeline = self.opened_pipeline(published, plain=False)
        pipeline(prompt="", num_inference_steps=6, output_type="latent", **SIZE, **self.settings)
        steps = np.rint(pipeline.scheduler.sigmas[:-1].double().numpy() * T) - 1
        assert plan.process.spaced(6) == list(dict.fromkeys(steps.astype(int).tolist()))

    def test_a_scheduler_without_flows_is_refused(self, spoilt):
        path = spoilt / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps({"_class_name": "DDIMScheduler", "num_train_timesteps": T}))
        assert "needs a scheduler of flow matching" in self.refused(spoilt)

    def refuses(self, spoilt, part, **changes):
        """Asserts that a changed value in a part's configuration is refused with the words given for it."""
        path = spoilt / part / "config.json"
        whole = json.loads(path.read_text())
        for name, (value, words) in changes.items():
            path.write_text(json.dumps({**whole, name: value}))
            assert words in self.refused(spoilt)
        path.write_text(json.dumps(whole))


@pytest.mark.slow
class TestFlux(JointContract):
    save = staticmethod(lambda folder, seed: save_flux(folder, seed=seed))
    kind = FluxPipeline
    given = staticmethod(packed)

    def test_the_guidance_scale_is_the_pipelines_unless_given(self, plan, published, images, tmp_path):
        assert plan.condition.name == 'prompt "", guidance 3.5'
        further = {"guidance_scale": 1.5}
        other = self.check_another_condition(
            plan, published, images, tmp_path / "other", further, guidance=1.5
        )
        assert other.condition.name == 'prompt "", guidance 1.5'

    def test_networks_that_read_images_are_refused(self, spoilt):
        self.refuses(
            spoilt,
            "transformer",
            in_channels=(6, "in_channels = 6"),
            out_channels=(4, "reads images besides latents (fill, depth, canny)"),
            axes_dims_rope=([4, 4, 4], "axes_dims_rope = [4, 4, 4] does not add up to"),
        )

    def test_other_pipelines_are_refused(self, tmp_path):
        folder = save_flux(tmp_path / "kontext", kind=FluxKontextPipeline)
        assert "a FluxKontextPipeline is not supported; a FluxTransformer2DModel is" in self.refused(folder)


@pytest.mark.slow
class TestFluxWithoutGuidance(JointContract):
    save = staticmethod(lambda folder, seed: save_flux(folder, seed=seed, guidance=False))
    kind = FluxPipeline
    given = staticmethod(packed)

    def test_there_is_no_guidance_scale(self, plan, published):
        assert plan.condition.name == 'prompt ""'
        with pytest.raises(UserError, match="guidance_embeds = false, hence reads no guidance scale"):
            PretrainedBackbone(path=str(published), guidance=1.5).plan(self.size, self.channels)


@pytest.mark.slow
class TestFlux2(JointContract):
    save = staticmethod(lambda folder, seed: save_flux2(folder, seed=seed))
    kind = Flux2Pipeline

    def test_the_guidance_scale_is_the_pipelines_unless_given(self, plan, published, images, tmp_path):
        assert plan.condition.name == 'prompt "", guidance 4'
        self.check_another_condition(
            plan, published, images, tmp_path / "other", {"guidance_scale": 1.5}, guidance=1.5
        )

    def test_latents_are_those_of_the_pipeline(self, published, denoiser, images):
        own = self.opened_pipeline(published)._encode_vae_image(images, None)
        torch.testing.assert_close(denoiser.encode(images), own, rtol=1e-5, atol=1e-6)

    def test_a_processor_is_opened_as_its_tokenizer(self, plan, spoilt):
        def embedded():
            settings = {"prompt": "a photo", "guidance": 4.0}
            return plan.family.make_condition(Pipeline(spoilt), plan.config, settings)["prompt"]

        before, path = embedded(), spoilt / "model_index.json"
        index = json.loads(path.read_text())
        path.write_text(json.dumps({**index, "tokenizer": ["transformers", "PixtralProcessor"]}))
        assert torch.equal(embedded(), before)

    def test_what_cannot_be_read_rightly_is_refused(self, spoilt):
        self.refuses(
            spoilt,
            "transformer",
            patch_size=(2, "patch_size = 2: expected 1"),
            out_channels=(4, "read more than latents"),
        )
        self.refuses(spoilt, "vae", patch_size=([1, 1], "patch_size = [1, 1]: expected [2, 2]"))
        self.refuses(
            spoilt,
            "text_encoder",
            text_config=({"hidden_size": 8, "num_hidden_layers": 29}, "reads the text encoder's layer 30"),
        )


@pytest.mark.slow
class TestFlux2Klein(JointContract):
    save = staticmethod(lambda folder, seed: save_flux2(folder, seed=seed, klein=True))
    kind = Flux2KleinPipeline
    settings = {"guidance_scale": 1.0}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own
class TestChroma(JointContract):
    save = staticmethod(lambda folder, seed: save_chroma(folder, seed=seed))
    kind = ChromaPipeline
    settings = {"guidance_scale": 1.0}
    given = staticmethod(packed)


@pytest.mark.slow
class TestAuraFlow(JointContract):
    save = staticmethod(lambda folder, seed: save_aura_flow(folder, seed=seed))
    kind = AuraFlowPipeline
    settings = {"guidance_scale": 1.0}

    def test_images_beyond_the_learnt_positions_are_refused(self, spoilt):
        self.size = 32
        assert "at most 24 pixels, but the data has 32; set data.size=24" in self.refused(spoilt)
        self.size = 24
        assert self.planned(spoilt).size == 12


@pytest.mark.slow
class TestQwenImage(JointContract):
    save = staticmethod(lambda folder, seed: save_qwen_image(folder, seed=seed))
    kind = QwenImagePipeline
    settings = {"true_cfg_scale": 1.0}
    given = staticmethod(packed)

    def test_latents_come_back_as_the_video_autoencoder_decodes_a_frame(self, published, denoiser, images):
        vae = self.opened_pipeline(published).vae
        mean, deviation = (
            torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std")
        )
        with torch.no_grad():
            own = (vae.encode(images[:, :, None]).latent_dist.mode() - mean) / deviation
            torch.testing.assert_close(denoiser.encode(images), own[:, :, 0])
            again = vae.decode(own * deviation + mean).sample[:, :, 0]
            torch.testing.assert_close(denoiser.decode(own[:, :, 0]), again)

    def test_networks_for_editing_and_layers_are_refused(self, spoilt):
        self.refuses(
            spoilt,
            "transformer",
            zero_cond_t=(True, "zero_cond_t = True"),
            use_layer3d_rope=(True, "use_layer3d_rope = True"),
            guidance_embeds=(True, "guidance_embeds = True"),
            out_channels=(8, "in_channels = 8, out_channels = 8"),
        )
        self.refuses(spoilt, "vae", input_channels=(4, "input_channels = 4"))
