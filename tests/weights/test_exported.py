"""Taking generated networks home, and drawing more from the generator of a finished sweep."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny_weights import DATA, WEIGHTS

import harness
from harness.cli import main
from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.dataset import load as load_dataset
from harness.models.classifiers.convnet import ConvNet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """An experiment that has run: its file and its results."""
    folder = tmp_path_factory.mktemp("swept")
    path, results = folder / "tiny.yaml", str(folder / "results")
    path.write_text(json.dumps({"data": DATA, "weights": {**WEIGHTS, "generate": 12}}))
    assert main(["sweep", str(path), "--debug", "--results", results]) == 0
    return str(path), results


@pytest.fixture(scope="module")
def best(swept, tmp_path_factory):
    folder = tmp_path_factory.mktemp("best") / "mine"
    assert main(["export", swept[0], "--results", swept[1], "--networks", "4", "--to", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def more(swept, tmp_path_factory):
    folder = tmp_path_factory.mktemp("more") / "mine"
    arguments = ["generate", swept[0], "--results", swept[1], "--networks", "5", "--to", str(folder)]
    assert main(arguments) == 0
    return folder


def rows(swept):
    """Returns the best trial's row and those of its generated networks, the best on validation first."""
    tables = {
        name: pd.read_parquet(Path(swept[1], "tiny", f"{name}.parquet")) for name in ("weights", "networks")
    }
    weights = tables["weights"].sort_values("generated_best_validation_accuracy", kind="stable")
    trial = weights[
        weights.generated_best_validation_accuracy == weights.iloc[-1].generated_best_validation_accuracy
    ]
    networks = tables["networks"]
    networks = networks[(networks.key == trial.iloc[0].key) & (networks.kind == "generated")]
    return trial.iloc[0], networks.sort_values("validation_accuracy", ascending=False, kind="stable")


def predicted(network, split):
    data = load_dataset(DataConfig(**DATA), 0)
    places = data.splits[split]
    x = torch.from_numpy(data.images[places]).float() / 127.5 - 1
    return network(x).argmax(1).numpy() == data.labels[places]


def test_the_best_on_validation_are_written_best_first(swept, best):
    _, networks = rows(swept)
    found = harness.load(best)
    assert len(found) == 4
    assert [one.number for one in found.about.networks] == list(networks["index"][:4])
    for network, row in zip(found, networks.to_dict("records"), strict=False):
        assert predicted(network, "validation").mean() == pytest.approx(row["validation_accuracy"])
        assert predicted(network, "test").mean() == pytest.approx(row["test_accuracy"])


def test_a_file_loads_into_the_original_class_in_one_line(best):
    network = ConvNet(1, [8, 8], 10, 2)
    network.load_state_dict(load_file(best / "network-002.safetensors"))
    np.testing.assert_array_equal(predicted(network.eval(), "test"), predicted(harness.load(best)[2], "test"))


def test_networks_differ_in_what_was_generated_alone(best):
    one, other = (load_file(best / f"network-00{n}.safetensors") for n in (0, 1))
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    assert differing == {"norm2.weight", "norm2.bias"}


def test_images_of_any_kind_get_probabilities(best):
    networks = harness.load(best)
    images = load_dataset(DataConfig(**DATA), 0).images[:7]
    found = networks(images, network=1)
    expected = networks[1](torch.from_numpy(images).float() / 127.5 - 1).softmax(1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(networks(images.transpose(0, 2, 3, 1), network=1), expected)
    assert networks.classes == tuple(map(str, range(10)))


def test_more_networks_are_others_from_the_same_generator(swept, more, best):
    found = harness.load(more)
    assert sorted(one.number for one in found.about.networks) == [12, 13, 14, 15, 16]
    validation = [one.validation_accuracy for one in found.about.networks]
    assert validation == sorted(validation, reverse=True)
    old = {load_file(file)["norm2.weight"].numpy().tobytes() for file in best.glob("*.safetensors")}
    assert old.isdisjoint(
        load_file(file)["norm2.weight"].numpy().tobytes() for file in more.glob("*.safetensors")
    )


def test_networks_drawn_later_are_those_that_a_larger_sweep_would_have_drawn(swept, more, tmp_path):
    path, results = swept
    folder = tmp_path / "all"
    row, _ = rows(swept)
    settings = ["--set", "weights.generate=17", "--set", f"weights.k=[{row.k}]"]
    assert main(["sweep", path, "--debug", "--results", results, *settings, "--set", "name=larger"]) == 0
    assert (
        main(["export", path, "--results", results, *settings, "--networks", "17", "--to", str(folder)]) == 0
    )
    everyone = {one.number: load_file(folder / one.file) for one in harness.load(folder).about.networks}
    for one in harness.load(more).about.networks:
        for name, value in load_file(more / one.file).items():
            torch.testing.assert_close(value, everyone[one.number][name], rtol=1e-4, atol=1e-5)


def test_the_card_says_how_good_and_how_new_they_are(swept, best):
    row, _ = rows(swept)
    card = (best / "README.md").read_text()
    assert f"K = {row.k} checkpoints" in card
    assert f"Z_U {row.copying_z:.2f}" in card
    assert "`norm2.weight`, `norm2.bias`" in card
    assert f"{100 * row.original_best_accuracy:.1f} % (95 % interval" in card


def test_without_a_classifier_an_export_is_of_networks(swept, tmp_path):
    assert main(["export", swept[0], "--results", swept[1], "--to", str(tmp_path / "x")]) == 0
    assert len(harness.load(tmp_path / "x")) == 5


def test_those_that_there_are_are_written_where_more_are_asked_for(swept, tmp_path, capsys):
    folder = str(tmp_path / "x")
    assert main(["export", swept[0], "--results", swept[1], "--networks", "1000", "--to", folder]) == 0
    assert len(harness.load(folder)) == 12
    assert "generated only 12; `python -m harness generate` draws more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "--to", "x"], ["--networks"]),
        (["generate", "--networks", "0", "--to", "x"], ["'0' is not an integer from 1"]),
        (["export", "--networks", "many", "--to", "x"], ["'many' is not an integer"]),
        (["generate", "--networks", "3", "--to", "x", "--set", "seed=9"], ["no more networks", "run:"]),
        (["export", "--to", ""], ["--to: no folder"]),
        (["export", "--to", f"{__file__}/x"], ["cannot be created: Not a directory; choose another folder"]),
        (["export", "--to", "/proc/nothing/x"], ["cannot be created: No such file"]),
        (["export", "--to", "a\0b"], ["cannot be created"]),
        (["export", "--to", "~nobody-of-this-name/x"], ["cannot be created"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(swept, arguments, words, capsys):
    path, results = swept
    command, *rest = arguments
    assert main([command, path, "--results", results, *rest]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert all(word in said for word in words), said


def test_a_generator_that_is_gone_is_not_trained_again(swept, tmp_path, capsys):
    path, results = swept
    copy = tmp_path / "results"
    shutil.copytree(results, copy)
    shutil.rmtree(copy / "artifacts" / "denoiser")
    said = main(["generate", path, "--results", str(copy), "--networks", "3", "--to", str(tmp_path / "x")])
    assert said == 2
    assert "denoiser" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_damaged_folder_is_refused(best, tmp_path):
    copy = tmp_path / "mine"
    shutil.copytree(best, copy)
    (copy / "network-000.safetensors").write_bytes(b"nothing")
    networks = harness.load(copy)
    with pytest.raises(UserError, match=r"network-000\.safetensors: cannot be read"):
        networks[0]
    about = json.loads((copy / "networks.json").read_text())
    (copy / "networks.json").write_text(json.dumps({**about, "format": 9}))
    with pytest.raises(UserError, match="format 9"):
        harness.load(copy)
    about["networks"][0]["file"] = "../network-000.safetensors"
    (copy / "networks.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="file"):
        harness.load(copy)
    with pytest.raises(UserError, match="not an export"):
        harness.load(tmp_path)
