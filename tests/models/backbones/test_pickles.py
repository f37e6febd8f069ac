"""Pickled weights become safetensors: tensors alone are read, and nothing in a pickle is ever run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
from safetensors.torch import load_file
from tiny_models import PIXELS, save_ddpm, save_stable_diffusion
from transformers import CLIPTextModel

from harness.core.errors import UserError
from harness.models.backbones.pickles import convert
from harness.models.backbones.pipeline import WEIGHTS
from harness.models.backbones.pretrained import PretrainedBackbone


def pickled(folder):
    """Rewrites a pipeline's weights as older versions of diffusers and transformers saved them."""
    for file in folder.rglob("*.safetensors"):
        name = "pytorch_model.bin" if file.name == "model.safetensors" else f"{file.stem}.bin"
        torch.save(load_file(file), file.with_name(name))
        file.unlink()
    return folder


@pytest.mark.slow
def test_the_command_that_is_advised_makes_a_folder_that_can_be_planned(tmp_path):
    whole = PretrainedBackbone(path=str(save_stable_diffusion(tmp_path / "sd"))).plan(PIXELS, 3)
    (tmp_path / "sd" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    pickled(tmp_path / "sd")
    with pytest.raises(UserError) as caught:
        PretrainedBackbone(path=str(tmp_path / "sd")).plan(PIXELS, 3)
    advice = str(caught.value)
    command = advice.split("`")[1].replace("NEW", str(tmp_path / "new"))
    assert command.startswith(f"python -m harness convert-weights {tmp_path / 'sd'} --to")
    done = subprocess.run([sys.executable, *command.split()[1:]], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert f"wrote {tmp_path / 'new' / 'unet' / WEIGHTS}" in done.stdout.splitlines()
    assert "then set backbone.path=NEW" in advice
    plan = PretrainedBackbone(path=str(tmp_path / "new")).plan(PIXELS, 3)
    assert (plan.config, plan.parameters) == (whole.config, whole.parameters)
    assert CLIPTextModel.from_pretrained(tmp_path / "new" / "text_encoder").config.hidden_size == 16


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_a_file_is_written_beside_nothing(tmp_path, suffix):
    one = torch.arange(6.0).reshape(2, 3)
    torch.save({"state_dict": {"a": one, "b": one, "c": one.T}, "global_step": 3}, tmp_path / f"x{suffix}")
    assert convert(str(tmp_path / f"x{suffix}"), str(tmp_path / "to")) == [
        f"wrote {tmp_path / 'to' / 'x.safetensors'}"
    ]
    found = load_file(tmp_path / "to" / "x.safetensors")
    assert torch.equal(found["b"], one)
    assert torch.equal(found["c"], one.T)


def test_shards_and_variants_keep_their_names(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.ones(1)}, tmp_path / "pytorch_model-00002-of-00002.bin")
    torch.save({"c": torch.ones(1)}, tmp_path / "diffusion_pytorch_model.fp16.bin")
    torch.save([1], tmp_path / "optimizer.bin")
    table = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    said = convert(str(tmp_path), str(tmp_path / "to"))
    there = {file.name for file in (tmp_path / "to").iterdir()}
    shards = {f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    assert there == {*shards, "model.safetensors.index.json", "diffusion_pytorch_model.fp16.safetensors"}
    listed = json.loads((tmp_path / "to" / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(listed.values()) == shards
    assert any(line.startswith(f"left out {tmp_path / 'optimizer.bin'}") for line in said)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_nothing_in_a_pickle_is_run(tmp_path):
    torch.save({"a": torch.zeros(1), "trap": Trap(tmp_path / "ran")}, tmp_path / "x.ckpt")
    with pytest.raises(
        UserError, match=r"x\.ckpt: cannot be read without running code in it: .*safetensors copy"
    ):
        convert(str(tmp_path / "x.ckpt"), str(tmp_path / "to"))
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "to").exists()


def test_what_cannot_be_converted_is_refused(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}, "epoch": 3}, tmp_path / "x.pt")
    (tmp_path / "empty.bin").touch()
    (tmp_path / "done.safetensors").touch()
    (tmp_path / "folder").mkdir()
    for given, to, words in (
        (
            "x.pt",
            "to",
            "not a dictionary of tensors, nor one with a 'state_dict' of them: holds model, epoch",
        ),
        ("empty.bin", "to", "cannot be read without running code in it"),
        ("done.safetensors", "to", "safetensors already, which need no conversion"),
        ("none.bin", "to", "no such file or folder"),
        ("folder", "to", "holds no weights diffusion_pytorch_model.bin or pytorch_model.bin"),
        ("x.pt", ".", "not an empty folder"),
    ):
        with pytest.raises(UserError) as caught:
            convert(str(tmp_path / given), str(tmp_path / to))
        assert words in str(caught.value)


def test_weights_that_are_safetensors_already_are_copied(tmp_path):
    folder = save_ddpm(tmp_path / "ddpm")
    torch.save(load_file(folder / "unet" / WEIGHTS), folder / "unet" / "diffusion_pytorch_model.bin")
    said = convert(str(folder), str(tmp_path / "to"))
    assert said == [f"left out {folder / 'unet' / 'diffusion_pytorch_model.bin'}: {WEIGHTS} is there already"]
    assert DDPMPipeline.from_pretrained(tmp_path / "to").unet.config.sample_size == PIXELS
