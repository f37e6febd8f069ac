"""Decoding in shards: with Ray Data and in one process, killed at random moments, and on images that are bad."""

import io
import os
import random
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from disturbed import sweeping
from PIL import Image
from tables import rows

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.dataset import dataset_stage, read
from harness.sweep import cluster

DRIVER = (str(Path(__file__).with_name("sharded_sweep.py")),)
IMAGES, SHARDS = 60, 30


def png(number):
    sink = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def experiment(tmp_path):
    """An experiment on a folder of sixty images, without training."""
    for number in range(IMAGES):
        file = tmp_path / "images" / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(number))
    path = tmp_path / "sharded.yaml"
    features = {
        "backbone": {"name": "unet", "block_out_channels": [8], "layers_per_block": 1},
        "train": {"steps": 0, "workers": 0},
        "timesteps": [50],
        "blocks": [1],
        "pools": [1],
        "heads": ["ridge"],
    }
    data = {"name": "folder", "path": str(tmp_path / "images")}
    path.write_text(yaml.safe_dump({"data": data, "features": features}))
    return path


def broken(file):
    """Damages a picture where only decoding notices: all of its chunks are there."""
    content = file.read_bytes()
    middle = content.index(b"IDAT") + 20
    file.write_bytes(content[:middle] + bytes(20) + content[middle + 20 :])


@pytest.mark.slow
def test_ray_data_and_one_process_decode_alike(tmp_path, experiment):
    found = []
    for place in ("--debug", "--address=local"):
        with sweeping(tmp_path, experiment, place, driver=DRIVER, results=tmp_path / place) as sweep:
            assert sweep.end() == 0, sweep.log
            assert f"{SHARDS} images" in sweep.log
            assert "WARNING" not in sweep.log
            found.append(accuracies(sweep.results, experiment))
    pd.testing.assert_frame_equal(*found)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_decoding_that_is_killed_ten_times_resumes(tmp_path, experiment):
    """Whatever is killed, a shard that was made is not made again."""
    draw = random.Random(0)
    kept = {}
    kills = 0
    while kills < 10:
        with sweeping(tmp_path, experiment, "--debug", driver=DRIVER) as sweep:
            there = made(sweep.results)
            sweep.until(lambda there=there, sweep=sweep: len(made(sweep.results)) > len(there))
            time.sleep(draw.random() * 0.05)
            sweep.process.kill()
            kills += 1
        now = made(sweep.results)
        assert kept.items() <= now.items()
        kept = now
        if len(kept) == SHARDS:
            break
    with sweeping(tmp_path, experiment, "--debug", driver=DRIVER) as sweep:
        assert sweep.end() == 0, sweep.log
    assert kept.items() <= made(sweep.results).items()
    assert len(made(sweep.results)) == SHARDS
    with sweeping(tmp_path, experiment, "--debug", driver=DRIVER, results=tmp_path / "whole") as whole:
        assert whole.end() == 0, whole.log
    pd.testing.assert_frame_equal(*(accuracies(one.results, experiment) for one in (sweep, whole)))


def accuracies(results, experiment):
    """Returns the table of study 1, without what says when and where."""
    found = rows(results, experiment.stem)["features"]
    assert len(found)
    return found


def made(results):
    """Returns the shards that are there, with the time at which each was made."""
    return {
        file.parent.name: file.stat().st_mtime_ns for file in results.glob("artifacts/images/*/manifest.json")
    }


@pytest.mark.slow
@pytest.mark.parametrize("place", ["--debug", "--address=local"])
def test_images_that_cannot_be_decoded_are_all_named_in_one_line(tmp_path, experiment, place):
    bad = [tmp_path / "images" / name for name in ("cat/4.png", "dog/41.png")]
    for file in bad:
        broken(file)
    with sweeping(tmp_path, experiment, place, driver=DRIVER) as sweep:
        assert sweep.end() == 2, sweep.log
        (line,) = [line for line in sweep.log.splitlines() if line.startswith("harness: ")]
        assert all(str(file) in line for file in bad)
        assert line.count("the image cannot be read") == 2
        assert "Traceback" not in sweep.log
    with sweeping(tmp_path, experiment, place, "--set=data.skip_unreadable=true", driver=DRIVER) as sweep:
        assert sweep.end() == 0, sweep.log
        assert "left out 2 images that cannot be read" in sweep.log


@pytest.mark.slow
def test_an_edit_that_keeps_size_and_time_ends_a_sweep_in_one_line_or_is_verified(tmp_path, experiment):
    with sweeping(tmp_path, experiment, "--debug", driver=DRIVER) as sweep:
        assert sweep.end() == 0, sweep.log
    file = tmp_path / "images" / "cat" / "4.png"
    about = file.stat()
    broken(file)

    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    elsewhere = tmp_path / "elsewhere"
    with sweeping(tmp_path, experiment, "--debug", driver=DRIVER, results=elsewhere) as sweep:
        assert sweep.end() == 2, sweep.log
        assert f"{file}: the images have changed since the sweep was planned" in sweep.log
    with sweeping(tmp_path, experiment, "--debug", "--verify", driver=DRIVER, results=elsewhere) as sweep:
        assert sweep.end() == 2, sweep.log
        assert f"{file}, " in sweep.log or f"{file}: the image cannot be read" in sweep.log


def test_a_machine_that_does_not_see_the_images_is_named_before_work_starts(
    tmp_path, experiment, monkeypatch
):
    config = DataConfig(**yaml.safe_load(experiment.read_text())["data"])
    monkeypatch.setattr("harness.data.shards.SHARD_BYTES", 2 * 3 * 16 * 16)
    stage = dataset_stage(config, 0, read(config, 0))
    nodes = [SimpleNamespace(name="10.0.0.1 (head)"), SimpleNamespace(name="10.0.0.2")]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    answers = {"10.0.0.1 (head)": cluster.glimpse(config.path), "10.0.0.2": None}
    monkeypatch.setattr(
        cluster, "on_every_node", lambda function, path: [(node, answers[node.name]) for node in nodes]
    )
    with pytest.raises(UserError, match=r"node 10\.0\.0\.2 cannot read it \(missing\)"):
        cluster.check_data(stage.parts)
    answers["10.0.0.2"] = "something else"
    with pytest.raises(UserError, match="not the same there"):
        cluster.check_data(stage.parts)
    answers["10.0.0.2"] = answers["10.0.0.1 (head)"]
    cluster.check_data(stage.parts)


def test_small_data_sets_are_decoded_where_the_sweep_is_planned(experiment):
    config = DataConfig(**yaml.safe_load(experiment.read_text())["data"])
    (shard,) = dataset_stage(config, 0, read(config, 0)).parts
    assert shard.local
