"""What a `UNet2DConditionModel` is told, as its pipelines tell it; and which uses of it are refused."""

import inspect
import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    KandinskyV22CombinedPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    VQModel,
)
from safetensors.torch import load_file, save_file
from tiny_conditional_unets import save_deepfloyd, save_kandinsky, save_lcm, save_sd, save_sdxl
from tiny_models import PIXELS, WIDTH

from harness.core.errors import UserError
from harness.features.extract import extract
from harness.models.backbones.condition import FILE, Condition
from harness.models.backbones.pretrained import PretrainedBackbone
from harness.models.backbones.prompted_unet import GUIDANCE
from harness.testing.backbones import open_copy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One folder of each kind; tests that spoil one take a copy."""
    root = tmp_path_factory.mktemp("models")
    for save in (save_sd, save_lcm, save_sdxl, save_kandinsky, save_deepfloyd):
        save(root / save.__name__.removeprefix("save_"))
    return root


def planned(folder, **settings):
    """Returns the plan of a folder."""
    return PretrainedBackbone(path=str(folder), **settings).plan(PIXELS, 3)


def told(plan, place):
    """Returns the tensors of a plan's condition."""
    open_copy(plan, place)
    return load_file(place / FILE)


def refused(folder, **settings):
    """Returns the line with which a folder, or a setting, is refused."""
    with pytest.raises(UserError) as caught:
        planned(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def opened(kind, folder):
    """Returns a pipeline of diffusers."""
    pipeline = kind.from_pretrained(folder, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("name", GUIDANCE)
def test_the_default_guidance_is_that_of_the_pipeline(name):
    call = inspect.signature(getattr(diffusers, name).__call__)
    assert call.parameters["guidance_scale"].default == GUIDANCE[name]


def test_a_latent_consistency_model_is_told_a_guidance_scale(models, tmp_path):
    plan = planned(models / "lcm")
    assert plan.condition.name == 'prompt "", guidance 8.5'
    other = planned(models / "lcm", guidance=3)
    assert other.condition.name == 'prompt "", guidance 3'
    assert other.condition.fingerprint != plan.condition.fingerprint
    pipeline = opened(StableDiffusionPipeline, models / "sd")
    for place, one, scale in (("default", plan, 8.5), ("given", other, 3.0)):
        wanted = pipeline.get_guidance_scale_embedding(torch.tensor([scale - 1]), 6)[0]
        assert torch.equal(told(one, tmp_path / place)["guidance"], wanted)
    assert "backbone.guidance is given, but a UNet2DConditionModel takes prompt, embeddings" in refused(
        models / "sd", guidance=3
    )


def test_sdxl_is_told_two_prompts_a_pooled_one_and_the_size_of_images(models, tmp_path):
    found = told(planned(models / "sdxl", prompt="a"), tmp_path / "copy")
    pipeline = opened(StableDiffusionXLPipeline, models / "sdxl")
    prompt, _, pooled, _ = pipeline.encode_prompt("a", device="cpu", do_classifier_free_guidance=False)
    assert torch.equal(found["prompt"], prompt[0])
    assert torch.equal(found["pooled"], pooled[0])
    assert found["time_ids"].tolist() == [16, 16, 0, 0, 16, 16]


@pytest.mark.parametrize("zeros", [True, False])
def test_without_a_condition_sdxl_is_told_what_its_pipeline_tells_it(tmp_path, zeros):
    folder = save_sdxl(tmp_path / "model", zeros=zeros)
    pipeline = opened(StableDiffusionXLPipeline, folder)
    _, prompt, _, pooled = pipeline.encode_prompt("a", device="cpu", do_classifier_free_guidance=True)
    plan = planned(folder, unconditional=True)
    assert plan.condition.name == "unconditional"
    found = told(plan, tmp_path / "copy")
    torch.testing.assert_close(found["prompt"], prompt[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found["pooled"], pooled[0], rtol=1e-6, atol=1e-6)
    assert (found["prompt"].abs().max() == 0) == zeros
    assert found["time_ids"].tolist() == [16, 16, 0, 0, 16, 16]
    if zeros:
        for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"):
            shutil.rmtree(folder / name)
        assert planned(folder, unconditional=True).condition == plan.condition
    message = "backbone.unconditional and backbone.prompt are both given; give one of them"
    assert refused(folder, unconditional=True, prompt="a") == message


def test_a_file_of_embeddings_needs_no_sizes(models, tmp_path):
    plan = planned(models / "sdxl", prompt="a")
    found = told(plan, tmp_path / "copy")
    save_file({name: found[name] for name in ("prompt", "pooled")}, tmp_path / "a.safetensors")
    again = told(
        plan.under(Condition(embeddings=str(tmp_path / "a.safetensors"))),
        tmp_path / "again",
    )
    assert again.keys() == found.keys()
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_kandinsky_is_told_an_image_of_zeros_or_what_its_prior_makes_of_a_prompt(models, tmp_path):
    pipeline = opened(KandinskyV22CombinedPipeline, models / "kandinsky")
    prior = pipeline.prior_pipe
    prior.set_progress_bar_config(disable=True)
    plan, prompted = planned(models / "kandinsky"), planned(models / "kandinsky", prompt="a")
    assert (plan.condition.name, prompted.condition.name) == ("zero image", 'prompt "a"')
    with torch.no_grad():
        assert torch.equal(told(plan, tmp_path / "zero")["image"], prior.get_zero_embed()[0])
    wanted = prior("a", generator=torch.Generator().manual_seed(0)).image_embeds[0]
    torch.testing.assert_close(told(prompted, tmp_path / "prompt")["image"], wanted, rtol=1e-5, atol=1e-6)


def test_a_decoder_without_its_prior_takes_embeddings_alone(tmp_path):
    folder = save_kandinsky(tmp_path / "decoder", prior=False)
    assert "has no folder prior_image_encoder, which embeds an image of zeros" in refused(folder)
    assert "has no folder prior_image_encoder, which embeds a prompt" in refused(folder, prompt="a")
    assert "save the decoder with its prior as a KandinskyV22CombinedPipeline" in refused(folder)
    save_file({"image": torch.arange(12.0)}, tmp_path / "image.safetensors")
    plan = planned(folder, embeddings=str(tmp_path / "image.safetensors"))
    assert told(plan, tmp_path / "copy")["image"].tolist() == list(range(12))


@pytest.mark.parametrize("part", ["prior_image_encoder", "prior_text_encoder"])
def test_an_encoder_of_the_prior_with_missing_tensors_is_refused(models, tmp_path, part):
    folder = tmp_path / "model"
    shutil.copytree(models / "kandinsky", folder)
    path = folder / part / "model.safetensors"
    tensors = load_file(path)
    tensors.pop(min(tensors))
    save_file(tensors, path, {"format": "pt"})
    assert "the weights are incomplete" in refused(folder, prompt="a")


def test_a_movq_neither_scales_nor_quantises_latents(models, tmp_path):
    denoiser = open_copy(planned(models / "kandinsky"), tmp_path / "copy")
    movq = VQModel.from_pretrained(models / "kandinsky" / "movq", low_cpu_mem_usage=False).eval()
    x = torch.rand(2, 3, PIXELS, PIXELS) * 2 - 1
    with torch.no_grad():
        latents = movq.encode(x).latents
        assert torch.equal(denoiser.encode(x), latents)
        assert torch.equal(denoiser.decode(latents), movq.decode(latents, force_not_quantize=True).sample)


def test_features_of_a_fine_tuned_unet_without_noise_are_its_activations_on_clean_latents(models, tmp_path):
    """CleanDIFT (Stracke et al. 2024) publishes a U-Net of Stable Diffusion that reads clean latents at any t."""
    folder = tmp_path / "model"
    shutil.copytree(models / "sd", folder)
    tuned = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).eval()
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.mul_(1.1)
    tuned.save_pretrained(folder / "unet")
    plan = planned(folder / "unet")
    denoiser = open_copy(plan, tmp_path / "copy")
    images = np.random.default_rng(0).integers(0, 256, (3, 3, PIXELS, PIXELS), np.uint8)
    block, t = "up_blocks.1.attentions.0", 26
    assert block in [one.name for one in plan.blocks]
    found = extract(
        denoiser, images, np.arange(3), timestep=t, taps=[(block, 8)], draws=1, seed=0, batch=2, noised=False
    )
    pipeline = opened(StableDiffusionPipeline, folder)
    prompt, _ = pipeline.encode_prompt("", "cpu", 1, False)
    kept = []
    pipeline.unet.get_submodule(block).register_forward_hook(lambda module, given, out: kept.append(out[0]))
    with torch.no_grad():
        x = torch.from_numpy(images).float() / 127.5 - 1
        latents = pipeline.vae.encode(x).latent_dist.mode() * pipeline.vae.config.scaling_factor
        pipeline.unet(latents, torch.tensor(t), prompt.expand(3, -1, -1))
    torch.testing.assert_close(found[block, 8], kept[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["sdxl", "kandinsky"])
def test_parts_of_blocks_are_image_tokens_as_maps(models, tmp_path, kind):
    plan = planned(models / kind)
    denoiser = open_copy(plan, tmp_path / "copy")
    points = [point for block in plan.blocks for point in block.points]
    assert {point.after for point in points} >= {"resnet", "attention", "query", "key", "value"}
    assert ("cross-attention" in {point.after for point in points}) == (kind == "sdxl")
    kept = {}
    for point in points:
        denoiser.network.get_submodule(point.name).register_forward_hook(
            lambda module, given, out, name=point.name: kept.update({name: out})
        )
    read = denoiser.reader(list(dict.fromkeys(point.name for point in points)))
    seen = read(torch.randn(1, 4, PIXELS // 2, PIXELS // 2), 5)
    for point in points:
        assert seen[point.name].shape == (1, point.channels, point.size, point.size)
        own = kept[point.name]
        tokens = own if own.ndim == 3 else own.flatten(2).transpose(1, 2)
        assert torch.equal(seen[point.name].flatten(2).transpose(1, 2), tokens)


def edit(path, **changes):
    """Changes fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


NOT_OURS = {
    "inpainting": (
        "sd",
        {"in_channels": 9},
        "in_channels = 9, out_channels = 4: the network reads more than",
    ),
    "editing": ("sd", {"in_channels": 8}, "as for inpainting, editing or upscaling, which is not supported"),
    "upscaler": (
        "sd",
        {"in_channels": 7, "num_class_embeds": 1000},
        "as the x4 upscaler of Stable Diffusion is",
    ),
    "unCLIP": (
        "sd",
        {"class_embed_type": "projection"},
        "upscalers and Stable unCLIP are, which is not supported",
    ),
    "second stage": (
        "deepfloyd",
        {"in_channels": 6, "class_embed_type": "timestep"},
        "class_embed_type = 'timestep': the network is told a noise level",
    ),
    "GLIGEN": ("sd", {"attention_type": "gated"}, "attention_type = 'gated': the network is told boxes"),
    "Versatile Diffusion": ("sd", {"dual_cross_attention": True}, "the network is told an image and a text"),
    "only text": (
        "sd",
        {"only_cross_attention": [True, False]},
        "are supported as SimpleCrossAttn blocks alone",
    ),
    "Kolors": (
        "sdxl",
        {"encoder_hid_dim": 64},
        "the network of Kolors, which is not supported; supported are",
    ),
    "Kandinsky 2.1": (
        "kandinsky",
        {"encoder_hid_dim_type": "text_image_proj", "addition_embed_type": "text_image"},
        "the network of Kandinsky 2.1, which is not supported",
    ),
    "ControlNet": (
        "kandinsky",
        {"addition_embed_type": "image_hint", "in_channels": 8},
        "the network of the ControlNet of Kandinsky 2.2, which is not supported",
    ),
    "unknown": (
        "sd",
        {"addition_embed_type": "text"},
        "the network of no known model, which is not supported",
    ),
    "no pooled prompt": ("sdxl", {"projection_class_embeddings_input_dim": 24}, "is no more than 6 times"),
    "layers": (
        "sd",
        {"layers_per_block": [1, 1, 1]},
        "expected a positive integer, or one for each of 2 levels",
    ),
}


@pytest.mark.parametrize(("kind", "changes", "words"), NOT_OURS.values(), ids=NOT_OURS)
def test_other_uses_of_the_network_are_refused_by_name(models, tmp_path, kind, changes, words):
    shutil.copytree(models / kind / "unet", tmp_path / "unet")
    edit(tmp_path / "unet" / "config.json", **changes)
    message = refused(tmp_path / "unet")
    assert message.startswith(str(tmp_path / "unet" / "config.json"))
    assert words in message


def test_a_refiner_and_text_encoders_of_other_widths_are_refused(models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models / "sdxl", folder)
    edit(folder / "text_encoder_2" / "config.json", projection_dim=11)
    assert "projection_dim = 11, but the network expects a pooled prompt of width 10" in refused(folder)
    edit(folder / "text_encoder" / "config.json", hidden_size=2 * WIDTH)
    assert "text_encoder_2 have widths 32 and 32, but the network expects 48 together" in refused(folder)
    edit(folder / "model_index.json", requires_aesthetics_score=True)
    assert "requires_aesthetics_score: a refiner, which denoises the last steps alone" in refused(folder)
