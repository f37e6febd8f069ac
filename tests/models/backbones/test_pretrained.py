"""Models trained elsewhere: what their folders must hold, and that they come back as they were."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDPMPipeline,
    DDPMScheduler,
    DiTTransformer2DModel,
    UNet2DConditionModel,
)
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from tiny_models import PIXELS, save_ddpm, save_dit, save_stable_diffusion
from transformers import CLIPTextModel, CLIPTokenizer

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models.backbones.conditional_unet import FAMILY as CONDITIONAL_UNET
from harness.models.backbones.denoiser import save_pipeline
from harness.models.backbones.family import blocks, build_network
from harness.models.backbones.pipeline import WEIGHTS, Pipeline
from harness.models.backbones.pretrained import PretrainedBackbone
from harness.models.backbones.unet import UNet
from harness.testing.backbones import open_copy


@pytest.fixture
def saved(tmp_path):
    """A pipeline as this software writes it."""
    torch.manual_seed(0)
    plan = UNet(block_out_channels=[8, 16], layers_per_block=1, timesteps=40).plan(8, 1)
    unet = build_network(plan.config)
    save_pipeline(unet, plan.process, tmp_path / "pipeline")
    return tmp_path / "pipeline", unet


@pytest.mark.parametrize("below", ["", "unet"])
def test_a_folder_of_diffusers_is_read_whether_of_the_pipeline_or_of_its_network(saved, below):
    folder, unet = saved
    plan = PretrainedBackbone(path=str(folder / below)).plan(8, 1)
    assert plan.source == str(folder / below)
    assert plan.blocks == blocks(unet.config)
    assert plan.timesteps == 40


def test_what_diffusers_itself_saves_is_read(tmp_path):
    plan = UNet(block_out_channels=[8, 16], layers_per_block=1).plan(8, 3)
    pipeline = DDPMPipeline(
        build_network(plan.config), DDPMScheduler(num_train_timesteps=30, beta_schedule="linear")
    )
    pipeline.save_pretrained(tmp_path)
    found = PretrainedBackbone(path=str(tmp_path)).plan(8, 3)
    assert found.timesteps == 30
    assert [block.name for block in found.blocks] == [block.name for block in plan.blocks]


def test_other_weights_are_another_backbone(saved):
    folder, unet = saved
    one = PretrainedBackbone(path=str(folder)).plan(8, 1)
    unet.conv_in.weight.data[0, 0, 0, 0] += 1
    unet.save_pretrained(folder / "unet")
    other = PretrainedBackbone(path=str(folder)).plan(8, 1)
    assert one.fingerprint != other.fingerprint


def test_images_of_another_size_or_colour_are_refused_with_the_settings_that_fit(saved):
    with pytest.raises(
        UserError, match=r"8 pixels and 1 channels.*16 and 3; set data\.size=8 data\.channels=1"
    ):
        PretrainedBackbone(path=str(saved[0])).plan(16, 3)


def write(folder, **values):
    (folder / "unet" / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "unet" / "config.json").unlink(), "config.json: cannot be read"),
        (lambda folder: (folder / "unet" / "config.json").write_text("{"), "config.json: cannot be read"),
        (
            lambda folder: (folder / "unet" / "config.json").write_text("[]"),
            "config.json: expected a JSON object",
        ),
        (
            lambda folder: write(folder, _class_name="Transformer2DModel"),
            "a Transformer2DModel with norm_type = 'layer_norm' is a layer of other networks",
        ),
        (lambda folder: write(folder, sample_size=8), "config.json: has no 'in_channels'"),
        (
            lambda folder: (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
            "diffusion_pytorch_model.safetensors: no such file; save the model with",
        ),
        (
            lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text("{"),
            "scheduler_config.json: cannot be read",
        ),
    ],
)
def test_a_folder_that_is_no_backbone_is_refused_with_the_reason(saved, spoil, words):
    spoil(saved[0])
    with pytest.raises(UserError) as caught:
        PretrainedBackbone(path=str(saved[0])).plan(8, 1)
    assert words in str(caught.value)


def test_a_pretrained_backbone_needs_a_path():
    with pytest.raises(UserError, match="'path' is missing"):
        parse(PretrainedBackbone, {"name": "pretrained"}, "backbone")


# Stable Diffusion, DiT and DDPM


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One folder of each kind; tests that spoil one take a copy."""
    root = tmp_path_factory.mktemp("models")
    save_ddpm(root / "ddpm")
    save_stable_diffusion(root / "sd")
    save_dit(root / "dit")
    return root


def opened(folder, place, seed=None):
    """Returns the plan of a pretrained model and its denoiser, from the copy that workers read."""
    plan = PretrainedBackbone(path=str(folder)).plan(PIXELS, 3)
    return plan, open_copy(plan, place, seed)


@pytest.fixture
def images():
    torch.manual_seed(3)
    return torch.rand(2, 3, PIXELS, PIXELS) * 2 - 1


@pytest.fixture
def noised():
    torch.manual_seed(4)
    return torch.randn(2, 4, PIXELS // 2, PIXELS // 2), torch.tensor([3, 60])


def test_stable_diffusion_runs_with_the_empty_prompt(models, tmp_path, images, noised):
    plan, denoiser = opened(models / "sd", tmp_path / "copy")
    tokenizer = CLIPTokenizer.from_pretrained(models / "sd" / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(models / "sd" / "text_encoder").eval()
    tokens = tokenizer([""] * 2, padding="max_length", max_length=77, return_tensors="pt").input_ids
    unet = UNet2DConditionModel.from_pretrained(models / "sd" / "unet").eval().requires_grad_(False)
    with torch.no_grad():
        expected = unet(*noised, encoder(tokens)[0]).sample
        assert torch.equal(denoiser(*noised), expected)
    vae = AutoencoderKL.from_pretrained(models / "sd" / "vae").eval().requires_grad_(False)
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mode() * 0.18215
        assert torch.equal(denoiser.encode(images), latents)
        assert torch.equal(denoiser.decode(latents), vae.decode(latents / 0.18215).sample)
    assert [block.size for block in plan.blocks][:2] == [8, 8]
    assert not denoiser.autoencoder.training


def test_a_dit_runs_with_the_null_label_and_its_tokens_are_maps(models, tmp_path, noised):
    plan, denoiser = opened(models / "dit", tmp_path / "copy")
    transformer = (
        DiTTransformer2DModel.from_pretrained(models / "dit" / "transformer").eval().requires_grad_(False)
    )
    with torch.no_grad():
        expected = transformer(*noised, torch.tensor([5, 5])).sample
        other = transformer(*noised, torch.tensor([4, 4])).sample
    assert torch.equal(denoiser(*noised), expected[:, :4])
    assert not torch.equal(denoiser(*noised), other[:, :4])
    kept = []
    transformer.transformer_blocks[1].register_forward_hook(lambda module, given, out: kept.append(out))
    with torch.no_grad():
        transformer(*noised, torch.tensor([5, 5]))
    taps = denoiser.reader([plan.blocks[1].name])
    seen = taps(*noised)[plan.blocks[1].name]
    assert seen.shape == (2, 16, 4, 4)
    for row in range(4):
        for column in range(4):
            assert torch.equal(seen[:, :, row, column], kept[0][:, 4 * row + column])


@pytest.mark.parametrize("kind", ["ddpm", "sd", "dit"])
def test_the_untrained_control_has_the_same_latents_and_other_weights(models, tmp_path, kind, images, noised):
    plan, denoiser = opened(models / kind, tmp_path / "trained")
    _, control = opened(models / kind, tmp_path / "control", seed=1)
    _, again = opened(models / kind, tmp_path / "again", seed=1)
    assert torch.equal(denoiser.encode(images), control.encode(images))
    z = denoiser.noised(denoiser.encode(images), torch.ones_like(denoiser.encode(images)), noised[1])
    assert not torch.equal(denoiser.run(z, noised[1]), control.run(z, noised[1]))
    assert torch.equal(control.run(z, noised[1]), again.run(z, noised[1]))
    assert plan.untrained().random == (kind != "ddpm")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_noise_is_predicted_whatever_the_network_predicts(tmp_path, prediction):
    """Noise and image that a network would get exactly right come back as the noise."""
    save_ddpm(tmp_path / "model", prediction_type=prediction)
    _, denoiser = opened(tmp_path / "model", tmp_path / "copy")
    torch.manual_seed(0)
    x, epsilon, timesteps_B = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), torch.tensor([2, 70])
    answers = {"epsilon": epsilon, "sample": x}
    scheduler = DDPMScheduler.from_config(denoiser.process.config)
    answers["v_prediction"] = scheduler.get_velocity(x, epsilon, timesteps_B)
    denoiser.run = lambda z, timesteps: answers[prediction]
    z = denoiser.noised(x, epsilon, timesteps_B)
    torch.testing.assert_close(denoiser(z, timesteps_B), epsilon, atol=1e-4, rtol=1e-4)


UNET = {"cross_attention_dim": 16}


def test_a_stored_empty_prompt_stands_for_the_text_encoder(models, tmp_path, noised):
    shutil.copytree(models / "sd", tmp_path / "model")
    embedding = CONDITIONAL_UNET.make_condition(Pipeline(tmp_path / "model"), UNET, {"prompt": ""})
    for name in ("text_encoder", "tokenizer"):
        shutil.rmtree(tmp_path / "model" / name)
    save_file(embedding, tmp_path / "model" / "empty_prompt.safetensors")
    _, denoiser = opened(tmp_path / "model", tmp_path / "stored")
    _, with_text = opened(models / "sd", tmp_path / "text")
    assert torch.equal(denoiser(*noised), with_text(*noised))


@pytest.mark.slow
def test_a_model_is_planned_without_torch(models):
    """Its tensors are checked in another process."""
    program = (
        "import sys\n"
        "from harness.models.backbones.pretrained import PretrainedBackbone\n"
        f"plan = PretrainedBackbone(path={str(models / 'sd')!r}).plan({PIXELS}, 3)\n"
        "print(len(plan.blocks), *plan.lines([0])[-3:], sorted({'torch', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 'a pass over latents of AutoencoderKL under prompt "": ' in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_early_pipelines_lie_in_one_folder(models, tmp_path):
    """As google/ddpm-cifar10-32 does."""
    whole = models / "ddpm"
    for path in (
        "unet/config.json",
        f"unet/{WEIGHTS}",
        "scheduler/scheduler_config.json",
        "model_index.json",
    ):
        shutil.copy(whole / path, tmp_path)
    plan = PretrainedBackbone(path=str(tmp_path)).plan(PIXELS, 3)
    assert plan.timesteps == 100
    assert plan.fingerprint == PretrainedBackbone(path=str(whole)).plan(PIXELS, 3).fingerprint


def test_attention_under_its_early_names_is_read(models, tmp_path, images):
    shutil.copytree(models / "ddpm", tmp_path / "model")
    path = tmp_path / "model" / "unet" / WEIGHTS
    tensors = load_file(path)
    early = {name: _early(name) for name in tensors}
    assert sum(name != old for name, old in early.items()) > 8
    save_file({early[name]: one for name, one in tensors.items()}, path, {"format": "pt"})
    _, old = opened(tmp_path / "model", tmp_path / "old")
    _, new = opened(models / "ddpm", tmp_path / "new")
    assert torch.equal(old(images, torch.tensor([1, 2])), new(images, torch.tensor([1, 2])))


def _early(name):
    for now, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        name = name.replace(f".{now}.", f".{before}.")
    return name


# By Hub id


@pytest.fixture
def cache(models, tmp_path, monkeypatch):
    """A cache of the Hub that holds one model, and no network."""
    root = tmp_path / "hub"
    place = root / "models--somebody--tiny" / "snapshots" / ("a" * 40)
    shutil.copytree(models / "ddpm", place)
    refs = root / "models--somebody--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(root))
    return place


def test_a_hub_id_in_the_cache_is_read_without_a_network(cache, models):
    plan = PretrainedBackbone(path="somebody/tiny").plan(PIXELS, 3)
    assert plan.source == str(cache)
    assert plan.fingerprint == PretrainedBackbone(path=str(models / "ddpm")).plan(PIXELS, 3).fingerprint
    assert PretrainedBackbone(path="somebody/tiny", revision="a" * 40).plan(PIXELS, 3).source == str(cache)


def test_a_hub_id_out_of_reach_is_one_line_that_says_what_to_do(cache):
    with pytest.raises(
        UserError, match=r"'somebody/other': no such folder, and the Hub.*hf download somebody/other"
    ):
        PretrainedBackbone(path="somebody/other").plan(PIXELS, 3)
    with pytest.raises(UserError, match=r"hf download somebody/tiny"):
        PretrainedBackbone(path="somebody/tiny", revision="b" * 40).plan(PIXELS, 3)


def test_a_folder_of_that_name_wins(cache, models, tmp_path, monkeypatch):
    shutil.copytree(models / "dit", tmp_path / "somebody" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert len(PretrainedBackbone(path="somebody/tiny").plan(PIXELS, 3).blocks) == 3


def test_only_configurations_and_safetensors_are_fetched(models, monkeypatch):
    """And at the revision that was asked for."""
    asked = {}

    def fetch(name, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(models / "sd")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    PretrainedBackbone(path="a/b", revision="v1").plan(PIXELS, 3)
    assert (asked["name"], asked["revision"]) == ("a/b", "v1")
    there = [
        path.relative_to(models).as_posix().partition("/")[2] for path in models.rglob("*") if path.is_file()
    ]
    wanted = list(filter_repo_objects(there, allow_patterns=asked["patterns"]))
    assert sorted(wanted) == sorted(there)
    refused = ["unet/diffusion_pytorch_model.bin", "run.py", "unet/model.pt", "unet/x.fp16.safetensors"]
    assert list(filter_repo_objects(refused, allow_patterns=asked["patterns"])) == []


# What cannot be used


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def retensor(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


SPOILT = {
    "missing tensor": (
        "ddpm",
        lambda at: retensor(at / "unet" / WEIGHTS, lambda one: one.pop("conv_out.bias")),
        "'conv_out.bias' is missing",
    ),
    "one too many": (
        "dit",
        lambda at: retensor(at / "transformer" / WEIGHTS, lambda one: one.update(more=torch.zeros(1))),
        "'more' is not expected",
    ),
    "other shape": (
        "sd",
        lambda at: retensor(at / "unet" / WEIGHTS, lambda one: one.update({"conv_out.bias": torch.zeros(3)})),
        "'conv_out.bias' has shape [3], config.json says [4]",
    ),
    "of the VAE": (
        "sd",
        lambda at: retensor(at / "vae" / WEIGHTS, lambda one: one.pop("decoder.conv_out.bias")),
        "'decoder.conv_out.bias' is missing",
    ),
    "no null label": (
        "dit",
        lambda at: edit(at / "transformer/config.json", num_embeds_ada_norm=6),
        "the missing last row is the null label: this checkpoint was trained without one",
    ),
    "no labels": (
        "dit",
        lambda at: edit(at / "transformer/config.json", num_embeds_ada_norm=None),
        "expected a positive integer for the null label",
    ),
    "more conditions": (
        "sd",
        lambda at: edit(at / "unet/config.json", addition_embed_type="image_hint"),
        "addition_embed_type = 'image_hint': the network of no known model, which is not supported",
    ),
    "no VAE": ("sd", lambda at: shutil.rmtree(at / "vae"), "denoises latents, but there is no folder vae"),
    "other VAE": (
        "dit",
        lambda at: edit(at / "vae/config.json", latent_channels=16),
        "the autoencoder's latents have 16 channels, but the DiTTransformer2DModel reads 4",
    ),
    "no schedule": (
        "sd",
        lambda at: shutil.rmtree(at / "scheduler"),
        "has no scheduler/scheduler_config.json",
    ),
    "other noise": (
        "dit",
        lambda at: (at / "scheduler/scheduler_config.json").write_text(
            json.dumps({"_class_name": "ScoreSdeVeScheduler"})
        ),
        "a ScoreSdeVeScheduler is for networks that read images in [0, 1]",
    ),
    "no prompt": (
        "sd",
        lambda at: shutil.rmtree(at / "text_encoder"),
        "has no folder text_encoder, which embeds the prompt, and no empty_prompt.safetensors",
    ),
    "other text encoder": (
        "sd",
        lambda at: edit(at / "text_encoder/config.json", hidden_size=32),
        "the text encoder has width 32, but the network expects 16",
    ),
    "text encoder without a layer": (
        "sd",
        lambda at: retensor(
            at / "text_encoder" / "model.safetensors",
            lambda one: [one.pop(name) for name in list(one) if ".layers.1." in name],
        ),
        "the weights are incomplete: 'encoder.layers.1.layer_norm1.bias' is missing (and 15 more)",
    ),
    "patches": (
        "dit",
        lambda at: edit(at / "transformer/config.json", patch_size=3),
        "patch_size = 3 does not",
    ),
    "contradiction": (
        "sd",
        lambda at: edit(at / "unet/config.json", attention_head_dim=[1, 2, 3]),
        "no UNet2DConditionModel can be built",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_model_that_cannot_be_used_is_refused_with_what_is_wrong(models, tmp_path, case):
    kind, spoil, words = SPOILT[case]
    shutil.copytree(models / kind, tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(UserError) as caught:
        PretrainedBackbone(path=str(tmp_path / "model")).plan(PIXELS, 3)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["ddpm", "sd", "dit"])
@pytest.mark.parametrize(("size", "channels"), [(8, 3), (16, 1)])
def test_images_must_be_as_the_model_was_trained(models, kind, size, channels):
    with pytest.raises(
        UserError, match=r"reads images of 16 pixels and 3.*set data\.size=16 data\.channels=3"
    ):
        PretrainedBackbone(path=str(models / kind)).plan(size, channels)
