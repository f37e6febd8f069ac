"""What an export gives back: the same numbers for every form of the same images, alone or beside others."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_features import family_unet_and_process
from torch import nn

import harness
from harness.core.errors import UserError
from harness.core.seeds import derive_seed
from harness.data.config import DataConfig
from harness.data.source import Record
from harness.features import extractor
from harness.features.extract import extract
from harness.models.backbones.denoiser import Denoiser, save_pipeline
from harness.testing.datasets import decoded
from harness.training import noise

CLASSES = ["ant", "bee", "cat"]
MEAN = np.linspace(-1, 1, 16 * 4, dtype=np.float32).reshape(16, 2, 2)
SCALE = np.linspace(0.5, 2, 16 * 4, dtype=np.float32).reshape(16, 2, 2)


def write(folder, channels=1, draws=2, standard=(MEAN, SCALE), **changes):
    """Writes an export of an untrained U-Net and a random linear head."""
    _, unet, process = family_unet_and_process(channels=channels)
    save_pipeline(unet, process, folder / extractor.BACKBONE)
    about = {
        "harness_version": "0",
        "features": "trained",
        "block": 5,
        "module": "mid_block",
        "timestep": 30,
        "pool": 2,
        "draws": draws,
        "seed": 7,
        "precision": "float32",
        "head": {"name": "linear", "strengths": [0.1]},
        "shape": [16, 2, 2],
        "classes": CLASSES,
        "size": 8,
        "channels": channels,
        **changes,
    }
    (folder / extractor.ABOUT).write_text(json.dumps({"format": 1, **about}))
    torch.manual_seed(1)
    extractor.save_head(folder, nn.Sequential(nn.Flatten(), nn.Linear(64, 3, dtype=torch.float64)), standard)
    return folder


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return harness.load(write(tmp_path_factory.mktemp("grey")), "cpu")


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    return harness.load(write(tmp_path_factory.mktemp("colour"), channels=3), "cpu")


def images(count=5, channels=1, height=8, width=8):
    return np.random.default_rng(0).integers(0, 256, (count, channels, height, width), np.uint8)


def as_pil(images_NCHW):
    return [Image.fromarray(one[0] if len(one) == 1 else one.transpose(1, 2, 0)) for one in images_NCHW]


FORMS = {
    "tensor": torch.from_numpy,
    "pil": as_pil,
    "last": lambda x: x.transpose(0, 2, 3, 1),
    "tensor last": lambda x: torch.from_numpy(x).permute(0, 2, 3, 1),
    "float": lambda x: x / 255.0,
    "float32": lambda x: torch.from_numpy(x).float() / 255,
    "tuple": lambda x: tuple(as_pil(x)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (13, 20)])
def test_every_form_of_the_same_images_is_the_same(form, channels, size):
    x = images(3, channels, *size)
    expected = extractor.as_pixels(x, 8, channels)
    assert expected.shape == (3, channels, 8, 8)
    np.testing.assert_array_equal(extractor.as_pixels(FORMS[form](x), 8, channels), expected)


def test_images_are_brought_to_size_as_a_data_sets_are():
    x = images(3, 3, 21, 14)
    records = [Record(one.transpose(1, 2, 0), 0, None, "") for one in x]
    np.testing.assert_array_equal(extractor.as_pixels(x, 8, 3), decoded(records, DataConfig(size=8)))
    grey_ones = decoded(records, DataConfig(size=8, channels=1))
    np.testing.assert_array_equal(extractor.as_pixels(as_pil(x), 8, 1), grey_ones)


def test_sixteen_bits_become_eight():
    levels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    found = extractor.as_pixels([Image.fromarray(levels)], 8, 1)
    np.testing.assert_array_equal(found[0, 0], np.rint(levels / 257))


def test_probabilities_are_the_heads_softmax_of_standardised_features(grey, tmp_path):
    x = images()
    found = grey(x)
    head = load_file(write(tmp_path) / extractor.HEAD)
    z = ((grey.features(x).numpy() - MEAN) / SCALE).reshape(5, -1).astype(np.float64)
    scores = z @ head["head.1.weight"].numpy().T + head["head.1.bias"].numpy()
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert found.dtype == torch.float32
    assert grey.classes == tuple(CLASSES)


def test_features_average_the_draws_of_one_noise_for_all_images(grey):
    x = torch.from_numpy(images()).float() / 127.5 - 1
    read = Denoiser(*family_unet_and_process()).reader(["mid_block"])
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 100))[30]
    total = 0
    for draw in range(2):
        address = torch.tensor([[extractor.ANY_IMAGE, 30, draw]])
        epsilon = noise.normal(derive_seed(7, "features"), address, (1, 8, 8))
        noised = (np.sqrt(kept) * x + np.sqrt(1 - kept) * epsilon).float()
        total = total + read(noised, 30)["mid_block"]
    pooled = nn.functional.adaptive_avg_pool2d(total / 2, 2)
    torch.testing.assert_close(grey.features(images()), pooled, rtol=1e-4, atol=1e-4)


def test_an_index_gives_images_the_noise_of_the_sweep(grey):
    places = np.array([4, 0, 2])
    tap = ("mid_block", 2)
    expected = extract(
        Denoiser(*family_unet_and_process()),
        images(),
        places,
        timestep=30,
        taps=[tap],
        draws=2,
        seed=7,
        batch=2,
    )[tap]
    found = grey.features(images()[places], index=places)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(found, grey.features(images()[places]), atol=1e-3)


def test_a_result_depends_on_its_image_alone(grey, monkeypatch):
    x = images(9)
    whole = grey(x)
    for place in range(9):
        torch.testing.assert_close(grey(x[place : place + 1])[0], whole[place], rtol=0, atol=1e-5)
    monkeypatch.setattr(extractor, "BATCH", 4)
    torch.testing.assert_close(grey(x[::-1].copy()), whole.flip(0), rtol=0, atol=1e-5)
    assert torch.equal(grey(x), grey(x))


def test_colour_images_are_read(colour):
    x = images(2, 3)
    torch.testing.assert_close(colour(as_pil(x)), colour(x), rtol=0, atol=0)
    torch.testing.assert_close(colour(x).sum(1), torch.ones(2))


def test_features_without_standardisation(tmp_path):
    raw = harness.load(write(tmp_path, standard=None), "cpu")
    head = load_file(tmp_path / extractor.HEAD)
    scores = raw.features(images()).flatten(1).double() @ head["head.1.weight"].T + head["head.1.bias"]
    torch.testing.assert_close(raw(images()), scores.softmax(1).float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (images(2, 3), ["[2, 3, 8, 8]", "[N, 1, H, W]", "grey"]),
        (images()[0], ["[1, 8, 8]"]),
        (images(0), ["[0, 1, 8, 8]"]),
        (images().astype(np.int64), ["int64", "uint8"]),
        (images().astype(np.float32), ["from 0 to 25", "0 to 1"]),
        (images() / 127.5 - 1, ["from -1 to 1"]),
        (np.full((1, 1, 8, 8), np.nan), ["nan"]),
        ([], ["list", "PIL"]),
        (None, ["NoneType", "PIL"]),
        ("image.png", ["str", "PIL"]),
    ],
)
def test_what_is_no_image_is_refused(grey, given, words):
    with pytest.raises(UserError) as caught:
        grey(given)
    for word in words:
        assert word in str(caught.value)


def test_an_index_of_another_length_is_refused(grey):
    with pytest.raises(UserError, match=r"index has shape \(2,\): expected one index for each of 5 images"):
        grey(images(), index=[1, 2])


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"not an export.*harness export EXPERIMENT"):
            harness.load(folder)
    (tmp_path / extractor.ABOUT).write_text("[]")
    with pytest.raises(UserError, match="not an export"):
        harness.load(tmp_path)


def test_an_export_of_a_newer_harness_is_refused(tmp_path):
    write(tmp_path, format=2, harness_version="9.1", something="else")
    with pytest.raises(UserError, match=r"harness 9\.1 in format 2.*install a newer"):
        harness.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["one", "two"]}, ["not the weights of head 'linear'"]),
        ({"head": {"name": "lineal"}}, ["lineal", "linear"]),
        ({"draws": 0}, ["draws"]),
    ],
)
def test_an_export_whose_parts_do_not_fit_is_refused(tmp_path, changes, words):
    write(tmp_path, **changes)
    with pytest.raises(UserError) as caught:
        harness.load(tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_a_damaged_part_is_one_line(tmp_path):
    write(tmp_path)
    (tmp_path / extractor.HEAD).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"cannot be read.*export it again"):
        harness.load(tmp_path)
    save_file({}, tmp_path / extractor.HEAD)
    with pytest.raises(UserError, match="not the weights"):
        harness.load(tmp_path)


def test_importing_the_package_imports_nothing_heavy():
    program = "import harness, sys; print(callable(harness.load), {'torch', 'pydantic', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True set()"
