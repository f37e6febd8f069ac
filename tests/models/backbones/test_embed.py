"""Embeddings of prompts in files: written by one machine, read by others without the text encoders."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import PIXELS, save_ddpm, save_sd3, save_stable_diffusion

from harness.core.errors import UserError
from harness.models.backbones.embed import embed
from harness.models.backbones.pretrained import PretrainedBackbone
from harness.testing.backbones import open_copy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stable Diffusion with its text encoder."""
    return save_stable_diffusion(tmp_path_factory.mktemp("models") / "sd")


def written(folder, file, **values):
    return embed({"name": "pretrained", "path": str(folder), **values}, str(file))


def test_a_stored_prompt_stands_for_the_text_encoder(folder, tmp_path):
    lines = written(folder, tmp_path / "a.safetensors", prompt="a a")
    assert lines[0].endswith('prompt "a a" for a UNet2DConditionModel: prompt [77, 16]')
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("text_encoder", "tokenizer"))
    stored = PretrainedBackbone(path=str(bare), embeddings=str(tmp_path / "a.safetensors")).plan(PIXELS, 3)
    prompted = PretrainedBackbone(path=str(folder), prompt="a a").plan(PIXELS, 3)
    assert stored.condition.name == prompted.condition.name == 'prompt "a a"'
    z, step = torch.randn(1, 4, 8, 8), torch.tensor([40])
    one, other = (open_copy(plan, tmp_path / name) for name, plan in (("one", stored), ("other", prompted)))
    empty = open_copy(PretrainedBackbone(path=str(folder)).plan(PIXELS, 3), tmp_path / "empty")
    assert torch.equal(one(z, step), other(z, step))
    assert not torch.equal(one(z, step), empty(z, step))


def test_a_pipeline_without_text_encoders_may_hold_its_empty_prompt(folder, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("text_encoder", "tokenizer"))
    written(folder, bare / "empty_prompt.safetensors")
    assert PretrainedBackbone(path=str(bare)).plan(PIXELS, 3).condition.name == 'prompt ""'
    with pytest.raises(UserError, match=r"has no folder text_encoder, which embeds the prompt"):
        PretrainedBackbone(path=str(bare), prompt="a").plan(PIXELS, 3)


def refused(folder, **values):
    with pytest.raises(UserError) as caught:
        PretrainedBackbone(path=str(folder), **values).plan(PIXELS, 3)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_hold_another_prompt_are_refused(folder, tmp_path):
    file = tmp_path / "a.safetensors"
    assert "no such file; write it with: python -m harness embed-prompt" in refused(
        folder, embeddings=str(file)
    )
    written(folder, file)
    assert "are both given" in refused(folder, embeddings=str(file), prompt="a")
    good = load_file(file)
    save_file({"prompt": good["prompt"][:, :8].contiguous()}, file)
    assert "'prompt' has shape [77, 8], but this network takes [77, 16]" in refused(
        folder, embeddings=str(file)
    )
    save_file({"other": good["prompt"]}, file)
    assert "has no tensor 'prompt'; a UNet2DConditionModel takes prompt" in refused(
        folder, embeddings=str(file)
    )
    save_file(good, file, {"network": "SD3Transformer2DModel"})
    assert "embedding for a SD3Transformer2DModel" in refused(folder, embeddings=str(file))
    file.write_text("junk")
    assert "not the weights" in refused(folder, embeddings=str(file))


def test_what_cannot_be_written_is_refused(folder, tmp_path):
    (tmp_path / "there.safetensors").touch()
    with pytest.raises(UserError, match=r"exists already; give a new file"):
        written(folder, tmp_path / "there.safetensors")
    with pytest.raises(UserError, match=r"expected a name that ends in \.safetensors"):
        written(folder, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a UNet2DModel reads no prompt"):
        written(save_ddpm(tmp_path / "ddpm"), tmp_path / "a.safetensors")


@pytest.mark.slow
def test_the_command_writes_what_several_text_encoders_say(tmp_path):
    """From a pipeline whose network has a configuration but no weights."""
    folder = save_sd3(tmp_path / "sd3")
    for file in folder.rglob("diffusion_pytorch_model.safetensors"):
        file.unlink()
    file = tmp_path / "photo.safetensors"
    command = [
        sys.executable,
        "-m",
        "harness",
        "embed-prompt",
        str(folder),
        "--prompt",
        "a",
        "--to",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"use it: backbone.embeddings={file}"
    with safe_open(file, framework="pt") as read:
        assert json.loads(json.dumps(read.metadata())) == {
            "network": "SD3Transformer2DModel",
            "condition": 'prompt "a"',
        }
        assert {name: list(read.get_tensor(name).shape) for name in ("prompt", "pooled")} == {
            "prompt": [333, 32],
            "pooled": [32],
        }
