"""Single-file checkpoints: a whole model in the layout of Stable Diffusion's authors, converted by diffusers."""

import json
import re
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_models import PIXELS, save_stable_diffusion

from harness.core.errors import UserError
from harness.models.backbones.pipeline import WEIGHTS
from harness.models.backbones.pretrained import PretrainedBackbone
from harness.testing.backbones import open_copy

LAYERS, LEVELS = 1, 2  # of the tiny models' U-Net and VAE
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def of_unet(name, attends):
    """Returns the name of a U-Net's tensor in the original layout; `attends`: whether an up level has attention."""
    module, _, kind = name.rpartition(".")
    if module in ENDS:
        return f"{ENDS[module]}.{kind}"
    way, level, what, number, rest = re.fullmatch(
        r"(down_blocks|mid_block|up_blocks)\.?(\d+)?\.(\w+)\.(\d+)\.(.+)", name
    ).groups()
    number, level = int(number), int(level or 0)
    if what == "resnets":
        part, _, kind = rest.rpartition(".")
        rest = f"{RESNET[part]}.{kind}"
    if way == "mid_block":
        return f"middle_block.{2 * number if what == 'resnets' else 1}.{rest}"
    first = (LAYERS + 1) * level
    if what == "downsamplers":
        return f"input_blocks.{first + LAYERS + 1}.0.{rest.replace('conv', 'op')}"
    if what == "upsamplers":
        return f"output_blocks.{first + LAYERS}.{2 if attends[level] else 1}.{rest}"
    place = (
        f"input_blocks.{first + number + 1}" if way == "down_blocks" else f"output_blocks.{first + number}"
    )
    return f"{place}.{0 if what == 'resnets' else 1}.{rest}"


def of_vae(name):
    """Returns the name of a VAE's tensor in the original layout, whose decoder counts levels from the image."""
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    up = re.search(r"up_blocks\.(\d)", name)
    if up:
        name = name.replace(up[0], f"up.{LEVELS - 1 - int(up[1])}")
        name = name.replace("upsamplers.0", "upsample").replace("resnets", "block")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    for here, there in VAE_ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{here}.", f"mid.attn_1.{there}.")
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def original(folder):
    """Returns a pipeline's tensors in the original layout: U-Net, VAE and text encoder."""
    config = json.loads((folder / "unet" / "config.json").read_text())
    attends = ["CrossAttn" in kind for kind in config["up_block_types"]]
    unet, vae = load_file(folder / "unet" / WEIGHTS), load_file(folder / "vae" / WEIGHTS)
    text = load_file(folder / "text_encoder" / "model.safetensors")
    found = {f"model.diffusion_model.{of_unet(name, attends)}": one for name, one in unet.items()}
    for name, one in vae.items():
        convolution = "attentions" in name and one.ndim == 2
        found[f"first_stage_model.{of_vae(name)}"] = one[:, :, None, None] if convolution else one
    for name, one in text.items():
        found[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = one
    return {name: one.contiguous() for name, one in found.items()}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline in diffusers' format."""
    return save_stable_diffusion(tmp_path_factory.mktemp("single") / "sd")


@pytest.fixture
def without_weights(pipeline, tmp_path):
    """A pipeline of the same architecture, as `backbone.config` needs it: configurations and tokenizer."""
    shutil.copytree(pipeline, tmp_path / "config", ignore=shutil.ignore_patterns("*.safetensors"))
    return tmp_path / "config"


def write(tensors, folder):
    save_file(tensors, folder / "model-v1.safetensors")
    return folder / "model-v1.safetensors"


def test_a_single_file_is_the_pipeline_that_it_came_from(pipeline, without_weights, tmp_path):
    tensors = original(pipeline)
    assert len(tensors) == len(set(tensors))
    file = write(tensors, tmp_path)
    plan = PretrainedBackbone(path=str(file), config=str(without_weights)).plan(PIXELS, 3)
    whole = PretrainedBackbone(path=str(pipeline)).plan(PIXELS, 3)
    assert (plan.blocks, plan.parameters) == (whole.blocks, whole.parameters)
    one, other = open_copy(plan, tmp_path / "one"), open_copy(whole, tmp_path / "other")
    torch.manual_seed(0)
    x, z, steps = torch.rand(2, 3, PIXELS, PIXELS) * 2 - 1, torch.randn(2, 4, 8, 8), torch.tensor([3, 60])
    assert torch.equal(one.encode(x), other.encode(x))
    names = [block.name for block in plan.blocks]
    readers = one.reader(names), other.reader(names)
    read, expected = (reader(z, steps) for reader in readers)
    assert all(torch.equal(read[name], expected[name]) for name in names)
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet").eval()
    for reader in readers:
        reader.remove()
    with torch.no_grad():
        prompt = other._condition["prompt"].expand(2, -1, -1)
        assert torch.equal(one.predict(z, steps), unet(z, steps, prompt).sample)


def test_what_the_file_does_not_hold_comes_from_the_folder(pipeline, without_weights, tmp_path):
    tensors = {name: one for name, one in original(pipeline).items() if name.startswith("model.")}
    file = write(tensors, tmp_path)
    with pytest.raises(UserError, match=r"vae/diffusion_pytorch_model\.safetensors: no such file"):
        PretrainedBackbone(path=str(file), config=str(without_weights)).plan(PIXELS, 3)
    plan = PretrainedBackbone(path=str(file), config=str(pipeline)).plan(PIXELS, 3)
    one = open_copy(plan, tmp_path / "one")
    other = open_copy(PretrainedBackbone(path=str(pipeline)).plan(PIXELS, 3), tmp_path / "other")
    z, steps = torch.ones(1, 4, 8, 8), torch.tensor([3])
    assert torch.equal(one.predict(z, steps), other.predict(z, steps))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda one: one.pop("model.diffusion_model.out.2.bias"),
            r"unet/config\.json: 'conv_out\.bias' is missing",
        ),
        (
            lambda one: one.update({"model.diffusion_model.out.2.bias": torch.zeros(3)}),
            r"'conv_out\.bias' has shape \[3\], unet/config\.json says \[4\]",
        ),
        (
            lambda one: one.pop("first_stage_model.quant_conv.bias"),
            r"vae/config\.json: 'quant_conv\.bias' is missing",
        ),
        (
            lambda one: one.update({"lora_unet_mid.lora_down.weight": torch.zeros(3)}),
            r"holds a LoRA \('lora_unet_mid\.lora_down\.weight'\)",
        ),
        (
            lambda one: one.update({"model.diffusion_model.out.2.bias": torch.full((4,), torch.nan)}),
            r"'model\.diffusion_model\.out\.2\.bias' holds NaN or infinity",
        ),
    ],
)
def test_a_file_that_is_not_the_model_is_refused(pipeline, without_weights, tmp_path, spoil, words):
    tensors = original(pipeline)
    spoil(tensors)
    with pytest.raises(UserError, match=words):
        PretrainedBackbone(path=str(write(tensors, tmp_path)), config=str(without_weights)).plan(PIXELS, 3)


def test_a_text_encoder_that_lacks_a_tensor_is_refused_when_it_is_opened(pipeline, without_weights, tmp_path):
    tensors = original(pipeline)
    name = next(one for one in tensors if one.endswith("layers.0.mlp.fc1.weight"))
    del tensors[name]
    plan = PretrainedBackbone(path=str(write(tensors, tmp_path)), config=str(without_weights)).plan(PIXELS, 3)
    with pytest.raises(UserError, match=r"of the CLIPTextModel of text_encoder, '.*fc1\.weight' is missing"):
        open_copy(plan, tmp_path / "copy")


def test_without_a_folder_diffusers_says_which_model_has_the_architecture(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file = write(original(pipeline), tmp_path)
    with pytest.raises(
        UserError,
        match=r"backbone\.config 'stable-diffusion-v1-5/stable-diffusion-v1-5': .*Hub cannot be reached",
    ):
        PretrainedBackbone(path=str(file)).plan(PIXELS, 3)


def test_a_file_of_a_folder_is_refused_with_the_folder(pipeline):
    with pytest.raises(UserError, match=f"one file of a folder.*; set backbone.path={pipeline / 'unet'}"):
        PretrainedBackbone(path=str(pipeline / "unet" / WEIGHTS)).plan(PIXELS, 3)


def test_a_folder_takes_no_other_configuration(pipeline):
    with pytest.raises(UserError, match=r"backbone\.config goes with"):
        PretrainedBackbone(path=str(pipeline), config=str(pipeline)).plan(PIXELS, 3)
