"""Encoders: their vectors against transformers used by hand, their preparation against its processors."""

import json
import sys

import numpy as np
import pytest
import tiny_encoders
import torch
import transformers as tf
from transformers.utils import logging

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models.encoders.encoder import (
    ENCODERS,
    Pixels,
    PretrainedEncoder,
    Random,
    open_encoder,
    select,
)
from harness.models.encoders.vision import preparation_of, quiet
from harness.testing.encoders import EncoderContract

CPU = torch.device("cpu")
EXTRAS = {"inception": "pytorch_fid"}  # encoders that need a library which is not always there


@pytest.fixture(autouse=True)
def _no_bars():
    with quiet():
        yield


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(5, 3, 16, 16, generator=generator) * 2 - 1


def opened(context, encoder, channels=3):
    return open_encoder(encoder.stage(channels), context, CPU)


@pytest.mark.parametrize("name", tiny_encoders.ALL)
def test_features_are_the_hidden_states_of_transformers(name, tmp_path, context, images):
    network = tiny_encoders.saved(tmp_path, name)
    encoder = opened(context, PretrainedEncoder(path=str(tmp_path), layers="all"))
    depth, pooling = tiny_encoders.ALL[name][1:]
    assert encoder.layers == ["embeddings", *(f"layer.{i + 1}" for i in range(depth)), "pooled"]
    assert encoder.pooling == pooling
    mean, deviation = (
        torch.tensor(tiny_encoders.SIGHT[key])[:, None, None] for key in ("image_mean", "image_std")
    )
    x_BCHW = ((images + 1) / 2 - mean) / deviation
    seeing = network.vision_model if name == "clip" else network
    if name == "mae":
        seeing.config.mask_ratio = 0.0
    with torch.no_grad():
        output = seeing(pixel_values=x_BCHW, output_hidden_states=True)
    found = encoder.features(images)
    for layer, hidden in zip(encoder.layers, output.hidden_states, strict=False):
        expected = hidden.mean((2, 3)) if hidden.ndim == 4 else hidden.mean(1)
        torch.testing.assert_close(found[layer], expected, atol=1e-5, rtol=1e-4)
    last = output.last_hidden_state
    pooled = output.pooler_output.flatten(1) if pooling == "pooler" else last[:, 0]
    torch.testing.assert_close(found["pooled"], pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.pooled(images), found["pooled"])


def test_a_masked_autoencoder_sees_every_patch_where_it_is(tmp_path, context, images):
    """With nothing masked it is a ViT of the same weights."""
    mae = tiny_encoders.saved(tmp_path, "mae")
    vit = tf.ViTModel(tf.ViTConfig(**tiny_encoders.TOKENS), add_pooling_layer=False).eval()
    vit.load_state_dict(mae.state_dict())
    encoder = opened(context, PretrainedEncoder(path=str(tmp_path)))
    prepared = encoder.preparation(images)
    with torch.no_grad():
        expected = vit(pixel_values=prepared).last_hidden_state
    from harness.models.encoders.vision import run

    torch.testing.assert_close(run(encoder.model, prepared).last_hidden_state, expected)
    torch.testing.assert_close(encoder.pooled(images), encoder.pooled(images), rtol=0, atol=0)


PROCESSORS = {
    "vit": (tf.ViTImageProcessor, {"size": {"height": 24, "width": 24}}),
    "clip": (
        tf.CLIPImageProcessor,
        {"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 20}},
    ),
    "convnext": (tf.ConvNextImageProcessor, {"size": {"shortest_edge": 28}}),
    "unresized": (tf.ViTImageProcessor, {"do_resize": False}),
    "unnormalised": (tf.ViTImageProcessor, {"size": {"height": 24, "width": 24}, "do_normalize": False}),
    "smaller": (tf.BitImageProcessor, {"size": {"shortest_edge": 9}, "crop_size": {"height": 8, "width": 8}}),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_preparation_is_that_of_the_models_processor(name):
    kind, settings = PROCESSORS[name]
    processor = kind(**settings)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    expected = processor(list(pixels), return_tensors="np")["pixel_values"]
    read = json.loads(processor.to_json_string())
    x_BCHW = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    found = preparation_of(read, tf.ViTConfig())(x_BCHW).numpy()
    assert found.shape == expected.shape
    level = 1 / 255 / min(read.get("image_std") or [1.0])  # PIL rounds to whole levels of grey, twice
    assert np.abs(found - expected).max() < 2.1 * level


def test_old_ways_of_saying_a_size_mean_the_same():
    old = {
        "size": 224,
        "crop_size": 200,
        "do_center_crop": True,
        "resample": 3,
        "image_mean": [0.1, 0.2, 0.3],
    }
    new = old | {"size": {"shortest_edge": 224}, "crop_size": {"height": 200, "width": 200}}
    assert preparation_of(old, tf.ViTConfig()) == preparation_of(new, tf.ViTConfig())
    assert preparation_of({}, tf.ViTConfig(image_size=96)).size == (96, 96)


def test_grey_is_colour_with_three_equal_channels(tmp_path, context, images):
    tiny_encoders.saved(tmp_path, "vit")
    for encoder in (PretrainedEncoder(path=str(tmp_path)), Random()):
        seeing = opened(context, encoder, channels=1)
        grey = images[:, :1]
        torch.testing.assert_close(seeing.pooled(grey), seeing.pooled(grey.repeat(1, 3, 1, 1)))


def test_images_of_any_size_come_through(tmp_path, context):
    tiny_encoders.saved(tmp_path, "dinov2")
    encoder = opened(context, PretrainedEncoder(path=str(tmp_path)))
    assert encoder.pooled(torch.zeros(2, 3, 50, 50)).shape == encoder.pooled(torch.zeros(2, 1, 4, 4)).shape


def test_random_weights_come_from_the_seed(context, images):
    first, again, other = (opened(context, Random(seed=seed)).pooled(images) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert first.shape == (5, 256)
    assert first.std(0).max() > 0


def test_pixels_are_the_images(context, images):
    encoder = opened(context, Pixels())
    assert torch.equal(encoder.pooled(images), images.flatten(1))
    assert list(encoder.features(images)) == encoder.layers == ["pooled"]


class TestContract(EncoderContract):
    """Every registered encoder."""

    @pytest.fixture(params=ENCODERS.names())
    def encoder(self, request, tmp_path):
        if request.param in EXTRAS:
            pytest.importorskip(EXTRAS[request.param])
        tiny_encoders.saved(tmp_path / "weights", "resnet")
        needed = {"path": str(tmp_path / "weights")} if request.param == "pretrained" else {}
        return parse(ENCODERS.load(request.param), {"name": request.param, **needed}, "encoder")


def test_a_stage_is_named_by_its_weights(tmp_path):
    tiny_encoders.saved(tmp_path, "vit", seed=0)
    first = PretrainedEncoder(path=str(tmp_path)).stage(3)
    assert first.local
    assert PretrainedEncoder(path=str(tmp_path)).stage(3).key == first.key
    tiny_encoders.saved(tmp_path, "vit", seed=1)
    assert PretrainedEncoder(path=str(tmp_path)).stage(3).key != first.key


def test_an_id_of_the_hub_is_read_from_its_cache(tmp_path, monkeypatch, context, images):
    commit, place = "a" * 40, tmp_path / "models--owner--tiny"
    snapshot = place / "snapshots" / commit
    snapshot.mkdir(parents=True)
    network = tiny_encoders.saved(snapshot, "vit")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    stage = PretrainedEncoder(path="owner/tiny").stage(3)
    assert stage.config["source"] == {"id": "owner/tiny", "commit": commit}
    encoder = open_encoder(stage, context, CPU)
    with torch.no_grad():
        expected = network(pixel_values=encoder.preparation(images)).pooler_output
    torch.testing.assert_close(encoder.pooled(images), expected)
    with pytest.raises(
        UserError,
        match=r"encoder\.path 'owner/other': no such folder, and the Hub cannot be reached .*; go online once",
    ):
        PretrainedEncoder(path="owner/other").stage(3)
    (snapshot / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="the Hub cannot be reached"):  # it may have one
        PretrainedEncoder(path="owner/tiny").stage(3)


class TestBadInput:
    """Each is one line, before anything runs."""

    @pytest.mark.parametrize("path", ["/no/such/folder", "~nobody/x", "a b", "x" * 5000, "a/b/c"])
    def test_no_folder_and_no_id(self, path):
        with pytest.raises(
            UserError, match=r"no such folder; give one that save_pretrained wrote, or a Hub id"
        ):
            PretrainedEncoder(path=path).stage(3)

    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(UserError, match=r"has no config.json"):
            PretrainedEncoder(path=str(tmp_path)).stage(3)
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(UserError, match="has no weights"):
            PretrainedEncoder(path=str(tmp_path)).stage(3)

    def test_code_of_its_own(self, tmp_path):
        tiny_encoders.saved(tmp_path, "vit")
        config = json.loads((tmp_path / "config.json").read_text())
        code = {"AutoModel": "evil.Model"}
        (tmp_path / "config.json").write_text(
            json.dumps(config | {"auto_map": code, "model_type": "intern_vit_6b"})
        )
        (tmp_path / "evil.py").write_text("raise SystemExit('run')")
        with pytest.raises(
            UserError, match=r"requires custom code \(AutoModel\), which is never run; choose one"
        ):
            PretrainedEncoder(path=str(tmp_path)).stage(3)
        (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": code}))  # built in as well
        assert PretrainedEncoder(path=str(tmp_path)).stage(3)

    @pytest.mark.parametrize("encoder", [Random(layers=["layer.9"]), Random(layers=["layers.2"])])
    def test_an_unknown_layer(self, encoder):
        with pytest.raises(
            UserError, match=r"unknown layer of encoder 'random' .* did you mean 'layer\.\d'\? known:"
        ):
            encoder.stage(3)

    def test_an_unknown_layer_of_a_folder(self, tmp_path):
        tiny_encoders.saved(tmp_path, "clip")
        with pytest.raises(
            UserError, match=r"unknown layer of encoder 'mine' 'layer\.3'; did you mean 'layer\."
        ):
            PretrainedEncoder(path=str(tmp_path), label="mine", layers=["layer.3"]).stage(3)

    def test_a_model_of_text(self, tmp_path, context):
        config = tf.BertConfig(**{**tiny_encoders.TEXT, "num_hidden_layers": 1})
        tf.BertModel(config).save_pretrained(tmp_path)
        with pytest.raises(UserError, match="a BertModel does not read images"):
            opened(context, PretrainedEncoder(path=str(tmp_path)))

    def test_weights_that_are_not_all_there(self, tmp_path, context):
        from safetensors.torch import load_file, save_file

        tiny_encoders.saved(tmp_path, "vit")
        tensors = load_file(tmp_path / "model.safetensors")
        gone = next(name for name in tensors if name.endswith("layernorm.weight"))
        del tensors[gone]
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=r"the weights lack '.*layernorm.weight' \(1 tensors in all\)"):
            opened(context, PretrainedEncoder(path=str(tmp_path)))

    def test_channels_that_it_does_not_read(self, tmp_path):
        tiny_encoders.saved(tmp_path, "vit")
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"num_channels": 4}))
        with pytest.raises(UserError, match="reads images of 4 channels, but the data has 3"):
            PretrainedEncoder(path=str(tmp_path)).stage(3)


def test_layers_are_chosen_in_their_order():
    known = ["embeddings", "layer.1", "layer.2", "pooled"]
    assert select("all", known, "x") == known
    assert select("last", known, "x") == ["pooled"]
    assert select(["pooled", "layer.1"], known, "x") == ["layer.1", "pooled"]


def test_quiet_is_over_afterwards():
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet():
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_configuration_is_planned_without_torch():
    import subprocess

    program = (
        "import sys, harness.models.encoders.encoder as e; e.Random().stage(3); e.Pixels().stage(1);"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False", "False"]
