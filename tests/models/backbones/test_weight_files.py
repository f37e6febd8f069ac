"""Weights as they are published: shards, variants, types; what they need in memory; and what is read of them when."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel, FluxTransformer2DModel, UNet2DConditionModel
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from tiny_models import PIXELS, save_ddpm, save_dit, save_stable_diffusion

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models import hub
from harness.models.backbones import weight_files
from harness.models.backbones.checkpoint import check_tensors
from harness.models.backbones.family import hub_patterns, open_weights
from harness.models.backbones.pipeline import CONFIG, WEIGHTS
from harness.models.backbones.pretrained import PretrainedBackbone
from harness.testing.backbones import open_copy

STEM = WEIGHTS.removesuffix(".safetensors")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """Stable Diffusion at its smallest, each part in one file of float32."""
    return save_stable_diffusion(tmp_path_factory.mktemp("weights") / "sd")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this machine that nothing else uses."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def saved(pipeline, folder, variant=None, dtype=torch.float32, shard="100GB"):
    """Writes the U-Net of a pipeline as diffusers does, beside its other parts."""
    shutil.copytree(pipeline, folder, ignore=shutil.ignore_patterns("unet"))
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet", torch_dtype=dtype)
    unet.save_pretrained(folder / "unet", variant=variant, max_shard_size=shard)
    return folder


def planned(folder, **settings):
    return PretrainedBackbone(path=str(folder), **settings).plan(PIXELS, 3)


def weights(denoiser):
    return denoiser.network.state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Which files


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_read_as_the_whole_is(pipeline, tmp_path, variant):
    folder = saved(pipeline, tmp_path / "model", variant, shard="20KB")
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 2
    plan, whole = planned(folder, variant=variant), planned(pipeline)
    assert (plan.parameters, plan.blocks) == (whole.parameters, whole.blocks)
    assert same(weights(open_copy(plan, tmp_path / "copy")), weights(open_copy(whole, tmp_path / "whole")))


def test_a_variant_is_named_and_copied_under_the_plain_names(pipeline, tmp_path):
    folder = saved(pipeline, tmp_path / "model", "fp16", torch.float16)
    with pytest.raises(UserError, match=r"there is a variant fp16; set backbone\.variant=fp16"):
        planned(folder)
    plan = planned(folder, variant="fp16")
    denoiser = open_copy(plan, tmp_path / "copy")
    original = load_file(pipeline / "unet" / WEIGHTS)
    assert all(torch.equal(one, original[name].half().float()) for name, one in weights(denoiser).items())
    assert (tmp_path / "copy" / "unet" / WEIGHTS).is_file()
    assert UNet2DConditionModel.from_pretrained(tmp_path / "copy" / "unet").config.sample_size == 8
    with pytest.raises(UserError, match=r"no weights of variant 'bf16'; set backbone\.variant=fp16"):
        planned(folder, variant="bf16")
    with pytest.raises(UserError, match=r"no weights of variant 'fp16'; leave backbone\.variant out"):
        planned(pipeline, variant="fp16")


def test_a_copy_of_shards_is_opened_by_diffusers(pipeline, tmp_path):
    folder = saved(pipeline, tmp_path / "model", "fp16", shard="20KB")
    for part in ("vae", "text_encoder"):  # of which there is a variant too
        file = next((folder / part).glob("*.safetensors"))
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    plan = planned(folder, variant="fp16")
    open_copy(plan, tmp_path / "copy")
    names = {one.name for one in (tmp_path / "copy" / "unet").iterdir()}
    assert f"{WEIGHTS}.index.json" in names
    assert not [name for name in names if "fp16" in name]
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "copy" / "unet")
    assert same(unet.state_dict(), load_file(pipeline / "unet" / WEIGHTS))


def test_names_with_a_pattern_of_their_own_are_no_variants():
    with pytest.raises(UserError, match="variant"):
        parse(PretrainedBackbone, {"name": "pretrained", "path": "a", "variant": "../x"}, "backbone")


def test_the_hub_is_asked_for_the_weights_that_are_read():
    there = [
        "unet/config.json",
        f"unet/{WEIGHTS}",
        f"unet/{STEM}-00001-of-00002.safetensors",
        f"unet/{WEIGHTS}.index.json",
        f"unet/{STEM}.fp16.safetensors",
        f"unet/{STEM}.fp16-00001-of-00002.safetensors",
        f"unet/{WEIGHTS}.index.fp16.json",
        f"unet/{STEM}.non_ema.safetensors",
        f"unet/{STEM}.bin",
    ]
    plain = set(filter_repo_objects(there, allow_patterns=hub_patterns()))
    half = set(filter_repo_objects(there, allow_patterns=hub_patterns("fp16")))
    configurations = {one for one in there if one.endswith(".json")}
    assert plain - configurations == {there[1], there[2]}
    assert half - configurations == {there[4], there[5]}


def test_parts_without_the_variant_are_fetched_as_they_are(pipeline, tmp_path, monkeypatch):
    source = saved(pipeline, tmp_path / "there", "fp16", torch.float16)
    asked = []

    def fetch(name, revision, allow_patterns):
        there = [one.relative_to(source).as_posix() for one in source.rglob("*") if one.is_file()]
        asked.append(set(filter_repo_objects(there, allow_patterns=allow_patterns)))
        for one in asked[-1]:
            (tmp_path / "here" / one).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / one, tmp_path / "here" / one)
        return str(tmp_path / "here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    plan = planned("somebody/tiny", variant="fp16")
    assert plan.fingerprint == planned(source, variant="fp16").fingerprint
    assert {one for one in asked[1] if one.endswith(".safetensors")} == {
        "text_encoder/model.safetensors",
        f"vae/{WEIGHTS}",
    }


# In which type


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_network_is_held_in_the_type_that_was_asked_for(pipeline, tmp_path, dtype):
    plan = planned(pipeline, torch_dtype=dtype)
    assert (plan.dtype, plan.gigabytes) == (dtype, plan.parameters * 2 / 1e9)
    assert f"GB of memory in {dtype}" in "\n".join(plan.lines([0]))
    assert plan.fingerprint != planned(pipeline).fingerprint
    denoiser = open_copy(plan, tmp_path / "copy")
    assert {one.dtype for one in denoiser.network.parameters()} == {getattr(torch, dtype)}
    assert {one.dtype for one in denoiser.autoencoder.parameters()} == {torch.float32}
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet", torch_dtype=getattr(torch, dtype)).eval()
    torch.manual_seed(0)
    z, steps = torch.randn(2, 4, 8, 8), torch.tensor([3, 60])
    prompt = denoiser._condition["prompt"].to(unet.dtype).expand(2, -1, -1)
    with torch.no_grad():
        expected = unet(z.to(unet.dtype), steps, prompt).sample
        found = denoiser.predict(z, steps)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected.float())


def test_auto_is_the_type_of_the_file(pipeline, tmp_path):
    folder = saved(pipeline, tmp_path / "model", dtype=torch.bfloat16)
    assert planned(folder, torch_dtype="auto").dtype == "bfloat16"
    assert planned(pipeline, torch_dtype="auto").dtype == "float32"
    assert planned(folder).dtype == "float32"
    tensors = load_file(folder / "unet" / WEIGHTS)
    first = min(tensors)
    save_file({**tensors, first: tensors[first].float()}, folder / "unet" / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match=r"stored in bfloat16 and float32; set it to"):
        planned(folder, torch_dtype="auto")


def test_the_untrained_control_has_the_type_too(pipeline, tmp_path):
    plan = planned(pipeline, torch_dtype="bfloat16").untrained()
    control = open_copy(plan, tmp_path / "control", seed=1)
    assert {one.dtype for one in control.network.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert load_file(tmp_path / "control" / "unet" / WEIGHTS)["conv_in.weight"].dtype == torch.bfloat16


# Memory

MEASURE = """
import sys
import torch
from harness.models.backbones.family import open_weights
import diffusers.models.transformers.dit_transformer_2d

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))

def watch():
    while not done.wait(0.002):
        peak.append(anonymous())

import threading
done, peak = threading.Event(), [0]
before = anonymous()
thread = threading.Thread(target=watch)
thread.start()
network = open_weights("diffusers:DiTTransformer2DModel", sys.argv[1], dtype=sys.argv[2])
done.set()
thread.join()
print(sum(one.numel() * one.element_size() for one in network.parameters()) / 1e6, max(peak) - before)
"""


@pytest.mark.slow
def test_opening_a_network_takes_the_memory_of_its_type_and_no_more(tmp_path):
    """What is converted is converted tensor by tensor."""
    config = {"num_attention_heads": 8, "attention_head_dim": 64, "num_layers": 8, "sample_size": 8}
    network = DiTTransformer2DModel(**config).bfloat16()
    network.save_pretrained(tmp_path / "shards", max_shard_size="25MB")
    network.float().save_pretrained(tmp_path / "whole", max_shard_size="50MB")
    assert len(list((tmp_path / "shards").glob("*-of-*.safetensors"))) > 3
    for folder, dtype, most in (
        ("shards", "bfloat16", 1.3),
        ("whole", "bfloat16", 1.3),
        ("shards", "float32", 1.3),
    ):
        program = [sys.executable, "-c", MEASURE, str(tmp_path / folder), dtype]
        done = subprocess.run(program, capture_output=True, text=True, check=True)
        size, peak = map(float, done.stdout.split())
        assert size == pytest.approx(200 if dtype == "float32" else 100, rel=0.25)
        assert peak < most * size + 20, (folder, dtype)
    shutil.rmtree(tmp_path)  # it is large


# Large networks

FAR = "far/away"


def sparse(path, network):
    """Writes a file with the header of a network's tensors in bfloat16, and a hole where their bytes would be."""
    header, end = {}, 0
    for name, one in network.state_dict().items():
        header[name] = {
            "dtype": "BF16",
            "shape": list(one.shape),
            "data_offsets": [end, end + 2 * one.numel()],
        }
        end += 2 * one.numel()
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return end


def in_the_cache(folder, place, monkeypatch):
    """Moves a folder to where the Hub's client would put it, weights as links to blobs named by their SHA-256."""
    root = place / f"models--{FAR.replace('/', '--')}"
    snapshot = root / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)  # a copy would fill the holes of large files
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    (root / "blobs").mkdir()
    for number, file in enumerate(sorted(snapshot.rglob("*.safetensors"))):
        blob = root / "blobs" / f"{number:064x}"
        file.rename(blob)
        file.symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(place))
    return snapshot


def bytes_read():
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.slow
def test_a_network_of_twelve_billion_parameters_is_planned_from_its_header(tmp_path, monkeypatch):
    config = save_dit(tmp_path / "small") / "transformer" / CONFIG
    large = {
        **json.loads(config.read_text()),
        "num_attention_heads": 64,
        "attention_head_dim": 64,
        "num_layers": 40,
    }
    for part in ("vae", "scheduler"):
        shutil.copytree(tmp_path / "small" / part, tmp_path / "model" / part)
    (tmp_path / "model" / "transformer").mkdir()
    (tmp_path / "model" / "transformer" / CONFIG).write_text(json.dumps(large))
    with torch.device("meta"):
        network = DiTTransformer2DModel.from_config(large)
    size = sparse(tmp_path / "model" / "transformer" / WEIGHTS, network)
    assert size > 24e9
    in_the_cache(tmp_path / "model", tmp_path / "hub", monkeypatch)
    before = bytes_read()
    plan = planned(FAR, torch_dtype="bfloat16")
    assert bytes_read() - before < 20e6
    assert plan.parameters == sum(one.numel() for one in network.state_dict().values()) > 12e9
    assert plan.gigabytes == pytest.approx(size / 1e9)
    assert f"{plan.parameters:,} parameters, {size / 1e9:.3g} GB of memory in bfloat16" in "\n".join(
        plan.lines([0])
    )
    assert planned(FAR).gigabytes == pytest.approx(2 * size / 1e9)


@pytest.mark.slow
def test_flux_as_it_was_released_is_checked_from_its_header(tmp_path):
    with torch.device("meta"):
        network = FluxTransformer2DModel()
    file = tmp_path / WEIGHTS
    sparse(file, network)
    before = bytes_read()
    config = {name: value for name, value in network.config.items() if not name.startswith("_")}
    check_tensors([str(file)], "diffusers:FluxTransformer2DModel", config)
    assert weight_files.parameters(weight_files.tensors([file])) == pytest.approx(11.9e9, rel=0.01)
    assert bytes_read() - before < 20e6
    with pytest.raises(UserError, match="is not expected"):
        check_tensors([str(file)], "diffusers:FluxTransformer2DModel", {**config, "num_layers": 18})


# What is read, and when


def test_a_checksum_is_the_files(pipeline):
    file = pipeline / "unet" / WEIGHTS
    assert weight_files.content(file) == (hashlib.sha256(file.read_bytes()).hexdigest(), None)


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once."""
    monkeypatch.setattr(weight_files, "SETTLED_NS", -(10**12))


@pytest.fixture
def reads(monkeypatch):
    """The files that were read whole."""
    found, read = [], weight_files._read

    def counted(path):
        found.append(path)
        return read(path)

    monkeypatch.setattr(weight_files, "_read", counted)
    return found


def test_an_unchanged_file_is_read_once(pipeline, tmp_path, settled, reads):
    file = shutil.copy(pipeline / "unet" / WEIGHTS, tmp_path)
    first = weight_files.content(Path(file))
    assert weight_files.content(Path(file)) == first
    assert len(reads) == 1
    tensors = load_file(file)
    tensors["conv_out.bias"] += 1
    save_file(tensors, file, {"format": "pt"})
    assert weight_files.content(Path(file)) != first
    assert len(reads) == 2


def test_what_is_kept_of_a_file_is_made_again_if_it_is_damaged(pipeline, tmp_path, settled, reads, cache):
    file = Path(shutil.copy(pipeline / "unet" / WEIGHTS, tmp_path))
    first = weight_files.content(file)
    kept = next(cache.iterdir())
    kept.write_text(kept.read_text().replace(first.sha256, "0" * 64))
    assert weight_files.content(file) == first
    assert len(reads) == 2


def test_a_file_written_just_now_may_change_again_unseen(pipeline, tmp_path, reads):
    file = Path(shutil.copy(pipeline / "unet" / WEIGHTS, tmp_path))
    assert weight_files.content(file) == weight_files.content(file)
    assert len(reads) == 2


def test_a_file_of_the_hub_goes_by_the_checksum_of_its_name_until_it_changes(tmp_path, monkeypatch, reads):
    snapshot = in_the_cache(save_ddpm(tmp_path / "model"), tmp_path / "hub", monkeypatch)
    file = snapshot / "unet" / WEIGHTS
    assert hub.repository(file) == FAR
    assert weight_files.content(file) == (file.resolve().name, None)
    assert not reads
    time.sleep(0.05)  # times of files have the resolution of the system's clock
    file.write_bytes(file.read_bytes())  # through the link, into the blob
    assert weight_files.content(file).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(reads) == 1


def test_a_file_of_hf_download_goes_by_the_note_beside_it(pipeline, tmp_path, reads):
    folder = tmp_path / "model"
    shutil.copytree(pipeline / "unet", folder / "unet")
    file = folder / "unet" / WEIGHTS
    note = folder / hub.NOTES / "unet" / f"{WEIGHTS}.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{'a' * 40}\n{'b' * 64}\n{file.stat().st_ctime + 1}\n")
    assert weight_files.content(file) == ("b" * 64, None)
    assert not reads
    note.write_text(f"{'a' * 40}\n{'b' * 64}\n{file.stat().st_ctime - 1}\n")
    assert weight_files.content(file).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_not_finite_are_found_wherever_they_are(tmp_path, monkeypatch, dtype, value):
    monkeypatch.setattr(weight_files, "CHUNK", 64)
    largest = torch.finfo(dtype).max
    tensors = {"a": torch.arange(5), "b": torch.full((7, 11), largest, dtype=dtype), "c": torch.zeros(0)}
    for place in (None, 0, 40, 76):
        if place is not None:
            tensors["b"] = torch.full((7, 11), -largest, dtype=dtype)
            tensors["b"].view(-1)[place] = value
        save_file(tensors, tmp_path / "x.safetensors")
        found = weight_files.content(tmp_path / "x.safetensors")
        assert found.not_finite == (None if place is None else "b")
        assert found.sha256 == hashlib.sha256((tmp_path / "x.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("part", "name"),
    [("unet", "conv_in.weight"), ("vae", "encoder.conv_in.weight"), ("text_encoder", None)],
)
def test_weights_that_are_not_finite_are_refused_with_their_name(pipeline, tmp_path, part, name):
    shutil.copytree(pipeline, tmp_path / "model")
    file = next((tmp_path / "model" / part).glob("*.safetensors"))
    tensors = load_file(file)
    name = name or min(tensors)
    tensors[name].view(-1)[3] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UserError, match=rf"{part}/\w+\.safetensors: '{name}' holds NaN or infinity"):
        planned(tmp_path / "model")


def test_an_artifact_is_a_pipeline_of_diffusers(pipeline, tmp_path):
    """Whatever the type: the key that records it does not disturb diffusers."""
    open_copy(planned(pipeline, torch_dtype="bfloat16"), tmp_path / "copy")
    unet = open_weights("diffusers:UNet2DConditionModel", tmp_path / "copy" / "unet", dtype="float32")
    assert same(unet.state_dict(), load_file(pipeline / "unet" / WEIGHTS))
