"""Sweeps over models as their authors publish them: variants, shards, half precision, single files."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_models import PIXELS, save_stable_diffusion

import harness
from harness.cli import main

DATA = [f"data.size={PIXELS}", "data.channels=3", "data.labels_per_class=3", "weights=null"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Stable Diffusion at its smallest, its U-Net in shards of half precision."""
    folder = save_stable_diffusion(tmp_path_factory.mktemp("published") / "sd")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float16)
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", variant="fp16", max_shard_size="20KB")
    return folder


def arguments(folder, results, **settings):
    backbone = {"name": "pretrained", "path": str(folder), "variant": "fp16", **settings}
    features = {"backbone": backbone, "timesteps": [3], "blocks": ["mid"], "pools": [1], "heads": ["ridge"]}
    sets = [*DATA, f"features={json.dumps(features)}"]
    return ["quickstart", "--results", str(results), *(part for one in sets for part in ("--set", one))]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_variant_in_shards_is_planned_swept_exported_and_loaded(published, tmp_path, capsys, dtype):
    given = arguments(published, tmp_path / "results", torch_dtype=dtype)
    assert main(["plan", *given]) == 0
    unet = UNet2DConditionModel.from_pretrained(published / "unet", variant="fp16")
    count = sum(one.numel() for one in unet.parameters())
    line = f"weights of the UNet2DConditionModel: {count:,} parameters, "
    assert line in capsys.readouterr().out
    assert main(["sweep", *given, "--debug", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["failed_now"] == 0
    rows = pd.read_parquet(tmp_path / "results" / "quickstart" / "features.parquet")
    assert set(rows.precision.dropna()) == {dtype}
    assert main(["plan", *given]) == 0
    assert "0 missing" in capsys.readouterr().out
    assert main(["export", *given, "--to", str(tmp_path / "export")]) == 0
    extractor = harness.load(tmp_path / "export")
    x = np.random.default_rng(0).random((2, 3, PIXELS, PIXELS), np.float32)
    found = extractor(torch.from_numpy(x))
    assert found.shape == (2, 10)
    assert found.isfinite().all()
    held = UNet2DConditionModel.from_pretrained(next((tmp_path / "export").rglob("unet")))
    assert held.config._torch_dtype == dtype if dtype != "float32" else "_torch_dtype" not in held.config
