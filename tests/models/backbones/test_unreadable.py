"""What people give that cannot be read: each is refused with one line that is true, and says what to do."""

import json
import re
import shutil

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_models import PIXELS, save_dit, save_stable_diffusion
from transformers import CLIPTextModel

import harness.models.backbones.checkpoint  # noqa: F401  plans inspect tensors in this process then
from harness.core.errors import UserError
from harness.models.backbones.pipeline import WEIGHTS
from harness.models.backbones.pretrained import PretrainedBackbone

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A pipeline of each kind, as the Hub has them; tests spoil copies."""
    root = tmp_path_factory.mktemp("readable")
    save_stable_diffusion(root / "sd")
    save_dit(root / "dit")
    for name in ("sd", "dit"):
        (root / name / "model_index.json").write_text(json.dumps(INDEX))
    return root


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def written(path, content=b"x" * 100):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def saved(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"format": "pt"})


def sharded(at):
    """Writes the U-Net in shards; returns them."""
    unet = UNet2DConditionModel.from_pretrained(at / "unet")
    shutil.rmtree(at / "unet")
    unet.save_pretrained(at / "unet", max_shard_size="20KB")
    return sorted((at / "unet").glob("*-of-*.safetensors"))


def moved(at, shards):
    """Takes a tensor out of the shard in which the index says that it is."""
    tensors = load_file(shards[0])
    tensors.pop(min(tensors))
    saved(shards[0], tensors)


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def half(at):
    path = at / "unet" / WEIGHTS
    save_file({name: one.half() for name, one in load_file(path).items()}, path.with_name(FP16))
    path.unlink()


def quantised(at, kind):
    path = at / "unet" / WEIGHTS
    tensors = load_file(path)
    saved(path, {**tensors, "conv_in.weight": tensors["conv_in.weight"].to(kind)})


def control_net(at):
    unet = UNet2DConditionModel.from_pretrained(at / "unet")
    ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8,)).save_pretrained(emptied(at))


def lora(at, name):
    saved(emptied(at) / name, {"unet.mid.lora_A.weight": torch.zeros(4, 8)})


FP16 = "diffusion_pytorch_model.fp16.safetensors"
BIN = "diffusion_pytorch_model.bin"

# what is done to a copy of a model; what is then given, a path below it; and the line, with `AT` for the copy
UNREADABLE = {
    # not a model at all
    "an empty folder": ("sd", emptied, "", r"AT: is empty; give a folder that save_pretrained wrote"),
    "a folder of something else": (
        "sd",
        lambda at: written(emptied(at) / "notes.txt"),
        "",
        r"AT/config\.json: cannot be read: .* give a folder that save_pretrained wrote",
    ),
    "the scheduler": (
        "sd",
        lambda at: None,
        "scheduler",
        r"AT/scheduler: holds a scheduler, no network; set backbone\.path=AT$",
    ),
    "the VAE": (
        "sd",
        lambda at: None,
        "vae",
        r"AT/vae: holds the autoencoder of a pipeline \(AutoencoderKL\), not its network; set backbone\.path=AT$",
    ),
    "the text encoder": (
        "sd",
        lambda at: None,
        "text_encoder",
        r"AT/text_encoder: holds a CLIPTextModel of transformers, no diffusion network; set backbone\.path=AT$",
    ),
    "a model of transformers": (
        "sd",
        lambda at: CLIPTextModel.from_pretrained(at / "text_encoder").save_pretrained(emptied(at)),
        "",
        r"AT: holds a CLIPTextModel of transformers.*; give the folder of the whole pipeline, or of its network",
    ),
    "a LoRA of diffusers": (
        "sd",
        lambda at: lora(at, "pytorch_lora_weights.safetensors"),
        "",
        r"AT: holds a LoRA \(pytorch_lora_weights\.safetensors\), no network; load_lora_weights, fuse_lora",
    ),
    "a LoRA of peft": (
        "sd",
        lambda at: lora(at, "adapter_model.safetensors"),
        "",
        r"AT: holds a LoRA \(adapter_model\.safetensors\), no network",
    ),
    "a LoRA as one file": (
        "sd",
        lambda at: lora(at, "style.safetensors"),
        "style.safetensors",
        r"AT/style\.safetensors: holds a LoRA \('unet\.mid\.lora_A\.weight'\), no network",
    ),
    "a ControlNet": (
        "sd",
        control_net,
        "",
        r"AT: holds a ControlNetModel, which steers another network.*; give the pipeline that it steers",
    ),
    "a network of videos": (
        "dit",
        lambda at: edit(at / "transformer/config.json", _class_name="WanTransformer3DModel"),
        "",
        r"AT/transformer: holds a WanTransformer3DModel, a network of videos; only networks of images are read",
    ),
    "an unknown network": (
        "dit",
        lambda at: edit(at / "transformer/config.json", _class_name="NewTransformer2DModel"),
        "",
        r"AT/transformer: holds a NewTransformer2DModel; backbone 'pretrained' reads .*UNet2DModel",
    ),
    "a pipeline with its network elsewhere": (
        "sd",
        lambda at: (at / "unet").rename(at / "prior"),
        "",
        r"AT: holds a StableDiffusionPipeline, but neither a folder unet nor transformer; copy the whole pipeline",
    ),
    # other formats
    "ONNX": (
        "sd",
        lambda at: written(emptied(at) / "unet/model.onnx"),
        "",
        r"AT/unet/model\.onnx: ONNX is not read; give the network as diffusers' save_pretrained writes it",
    ),
    "Flax": (
        "sd",
        lambda at: (at / "unet" / WEIGHTS).rename(at / "unet/diffusion_flax_model.msgpack"),
        "",
        r"AT/unet/.*: no such file, but diffusion_flax_model\.msgpack: weights of Flax; open them with an older diff",
    ),
    "GGUF beside the configuration": (
        "dit",
        lambda at: (at / "transformer" / WEIGHTS).rename(at / "transformer/model-Q4_K_S.gguf"),
        "",
        r"no such file, but model-Q4_K_S\.gguf: GGUF, whose tensors are quantised, is not read; give the network in",
    ),
    "a GGUF file": (
        "sd",
        lambda at: written(at / "flux-Q8_0.gguf", b"GGUF\x03\0\0\0"),
        "flux-Q8_0.gguf",
        r"AT/flux-Q8_0\.gguf: GGUF, whose tensors are quantised, is not read",
    ),
    "GGUF under another name": (
        "sd",
        lambda at: written(at / "unet" / WEIGHTS, b"GGUF" + b"\0" * 60),
        "",
        rf"AT/unet/{WEIGHTS}: not the weights: GGUF",
    ),
    "a pickle in a folder": (
        "sd",
        lambda at: (at / "unet" / WEIGHTS).rename(at / "unet" / BIN),
        "",
        rf"no such file, but {BIN}, a pickle.*`python -m harness convert-weights AT --to NEW` reads its tensors",
    ),
    "a .ckpt": (
        "sd",
        lambda at: written(at / "v1-5.ckpt", b"PK\x03\x04"),
        "v1-5.ckpt",
        r"AT/v1-5\.ckpt: a pickle.*`python -m harness convert-weights AT/v1-5\.ckpt --to FOLDER`.*=FOLDER/v1-5\.safe",
    ),
    "a folder with a .ckpt": (
        "sd",
        lambda at: written(emptied(at) / "v1-5.ckpt", b"PK\x03\x04"),
        "",
        r"AT/v1-5\.ckpt: a pickle.*convert-weights AT/v1-5\.ckpt --to NEW.*backbone\.path=NEW/v1-5\.safetensors",
    ),
    "a pickle under another name": (
        "sd",
        lambda at: torch.save({"a": torch.zeros(3)}, at / "unet" / WEIGHTS),
        "",
        r"not the weights: a pickle of PyTorch under this name; `python -m harness convert-weights FILE --to FOLDER`",
    ),
    "a folder with a single file": (
        "sd",
        lambda at: saved(
            emptied(at) / "v1-5.safetensors", {"model.diffusion_model.out.2.bias": torch.zeros(4)}
        ),
        "",
        r"AT: has no config\.json; .*set backbone\.path=AT/v1-5\.safetensors",
    ),
    "a single file of no known layout": (
        "sd",
        lambda at: saved(at / "x.safetensors", {"a": torch.zeros(4)}),
        "x.safetensors",
        r"AT/x\.safetensors: not a checkpoint whose layout diffusers knows; .*backbone\.config",
    ),
    # quantised
    "bitsandbytes": (
        "dit",
        lambda at: edit(at / "transformer/config.json", quantization_config={"quant_method": "bitsandbytes"}),
        "",
        r"AT/transformer: its config\.json says that the network is quantised \(bitsandbytes\); give one in float32",
    ),
    "torchao": (
        "dit",
        lambda at: edit(at / "transformer/config.json", quantization_config={"quant_method": "torchao"}),
        "",
        r"quantised \(torchao\)",
    ),
    "floats of eight bits": (
        "sd",
        lambda at: quantised(at, torch.float8_e4m3fn),
        "",
        r"'conv_in\.weight' is stored as F8_E4M3: quantised networks are not read; give one in float32, bfloat16",
    ),
    "integers of eight bits": ("sd", lambda at: quantised(at, torch.int8), "", r"stored as I8: quantised"),
    # damaged
    "no configuration": (
        "sd",
        lambda at: (at / "unet/config.json").unlink(),
        "",
        r"AT/unet/config\.json: cannot be read: there is no such file; copy it from where the model was published",
    ),
    "a configuration that is no JSON": (
        "sd",
        lambda at: written(at / "unet/config.json", b"<html>"),
        "",
        r"AT/unet/config\.json: cannot be read: Expecting value",
    ),
    "an empty file": (
        "sd",
        lambda at: written(at / "unet" / WEIGHTS, b""),
        "",
        r"not the weights: an empty file; download the file itself again",
    ),
    "cut off in the header": (
        "sd",
        lambda at: cut(at / "unet" / WEIGHTS, 500),
        "",
        r"is cut off: .*within its header",
    ),
    "cut off": (
        "sd",
        lambda at: cut(at / "unet" / WEIGHTS, 60_000),
        "",
        r"is cut off: it has 60,000 of \d+,\d+ bytes; copy or download it again",
    ),
    "cut off, of the VAE": ("sd", lambda at: cut(at / "vae" / WEIGHTS, 20_000), "", r"AT/vae/.*is cut off"),
    "cut off, of the text encoder": (
        "sd",
        lambda at: cut(at / "text_encoder/model.safetensors", 9_000),
        "",
        r"AT/text_encoder/model\.safetensors: is cut off",
    ),
    "a header that does not fit": (
        "sd",
        lambda at: written(at / "unet" / WEIGHTS, (at / "unet" / WEIGHTS).read_bytes() + b"\0"),
        "",
        r"not the weights: its tensors and its header do not agree; copy or download it again",
    ),
    "an HTML page": (
        "sd",
        lambda at: written(at / "unet" / WEIGHTS, "<!doctype html><html>Sign in</html>" * 9),
        "",
        r"not the weights: an HTML page, saved in their place; .*hf auth login",
    ),
    "a Git LFS pointer": (
        "sd",
        lambda at: written(
            at / "unet" / WEIGHTS,
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 9\n",
        ),
        "",
        r"not the weights: a Git LFS pointer; run `git lfs pull` where it was cloned",
    ),
    "a missing shard": (
        "sd",
        lambda at: sharded(at)[1].unlink(),
        "",
        r"AT/unet/.*index\.json: lists \d+ shards, but diffusion_\w+-00002-of-\d+\.safetensors is missing; copy or",
    ),
    "shards without their list": (
        "sd",
        lambda at: sharded(at) and (at / "unet" / f"{WEIGHTS}.index.json").unlink(),
        "",
        rf"AT/unet: holds .*-00001-of-\d+\.safetensors but not the list of shards, {WEIGHTS}\.index\.json; copy",
    ),
    "a tensor that is not in its shard": (
        "sd",
        lambda at: moved(at, sharded(at)),
        "",
        r"-00001-of-\d+\.safetensors: '.*' is missing, which .*index\.json says is in this shard",
    ),
    # named otherwise
    "a variant": ("sd", half, "", r"no such file, but there is a variant fp16; set backbone\.variant=fp16"),
    "renamed weights": (
        "sd",
        lambda at: (at / "unet" / WEIGHTS).rename(at / "unet/unet.safetensors"),
        "",
        r"no such file, but unet\.safetensors; if that file holds them, rename it",
    ),
    "no weights": (
        "sd",
        lambda at: (at / "unet" / WEIGHTS).unlink(),
        "",
        r"no such file; save the model with save_pretrained",
    ),
    # another model's
    "weights of another model": (
        "sd",
        lambda at: shutil.copy(at.parent / "readable/dit/transformer" / WEIGHTS, at / "unet" / WEIGHTS),
        "",
        r"the tensors are not those of config\.json: '.*' is missing \(and \d+ more\); .* is not expected",
    ),
    "weights that are not finite": (
        "sd",
        lambda at: saved(
            at / "unet" / WEIGHTS,
            {**load_file(at / "unet" / WEIGHTS), "conv_out.bias": torch.full((4,), torch.nan)},
        ),
        "",
        r"AT/unet/.*: 'conv_out\.bias' holds NaN or infinity; .*give another checkpoint",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_refused_in_one_true_line(models, tmp_path, case):
    kind, spoil, below, line = UNREADABLE[case]
    at = tmp_path / "model"
    (tmp_path / "readable").symlink_to(models)
    shutil.copytree(models / kind, at)
    spoil(at)
    with pytest.raises(UserError) as caught:
        PretrainedBackbone(path=str(at / below)).plan(PIXELS, 3)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(line.replace("AT", re.escape(str(at))), message), message


def test_the_advice_helps(models, tmp_path):
    """Where a line says what to set, that is read."""
    whole = PretrainedBackbone(path=str(models / "sd")).plan(PIXELS, 3)
    for name, settings in (("the VAE", {}), ("the text encoder", {}), ("a variant", {"variant": "fp16"})):
        kind, spoil, below, _ = UNREADABLE[name]
        at = tmp_path / name.replace(" ", "-")
        shutil.copytree(models / kind, at)
        spoil(at)
        with pytest.raises(UserError) as caught:
            PretrainedBackbone(path=str(at / below)).plan(PIXELS, 3)
        given = dict(one.split("=") for one in re.findall(r"backbone\.(\w+=\S+)", str(caught.value)))
        plan = PretrainedBackbone(**{"path": str(at), **given}).plan(PIXELS, 3)
        assert (plan.blocks, plan.parameters) == (whole.blocks, whole.parameters)
        assert given == {"path": str(at), **settings} if below else given == settings
