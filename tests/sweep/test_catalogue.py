"""What `list` and `describe` say."""

from pathlib import Path

import pytest

import harness
from harness.core.errors import UserError
from harness.sweep.catalogue import catalogue, describe, registries

EXPERIMENT = """
data: {{name: digits{data}}}
features:
  backbone: {{name: unet, block_out_channels: [8, 16], layers_per_block: 1{backbone}}}
  timesteps: [10, {{sigma: 0.3}}]
"""


@pytest.fixture
def written(tmp_path):
    """Writes an experiment with more settings of its data and backbone; returns its path."""

    def write(data="", backbone=""):
        path = tmp_path / "mine.yaml"
        path.write_text(EXPERIMENT.format(data=data, backbone=backbone))
        return str(path)

    return write


def test_an_experiment_is_described_with_its_blocks_and_noise_levels(written):
    text = describe(written())
    assert "data: {name: digits}" in text
    assert "images of 8 pixels and 1 channels" in text
    assert "5  mid_block" in text
    assert "of T = 1000: 10: 0.0469 / 6.12, 88: 0.301 / 2.4" in text


def test_size_and_channels_are_those_that_the_experiment_sets(written):
    """Data that cannot be read here are no obstacle."""
    text = describe(written(data=", path: /nowhere, size: 32, channels: 3"))
    assert "images of 32 pixels and 3 channels" in text
    assert "/nowhere" in text


def test_what_cannot_be_described_here_is_shown_with_the_reason(written):
    text = describe(written(backbone=", timesteps: 5"))
    assert "block_out_channels: [8, 16]" in text
    assert "further details are not available here: features.timesteps: 10 is not between 0 and 4" in text


def test_a_part_that_several_studies_share_is_listed_once():
    kinds = [registry.kind for registry in registries()]
    assert len(kinds) == len(set(kinds))
    assert {"unet", "pretrained", "adm"} <= set(catalogue()["backbone"])
    assert describe("adm").count("backbone adm") == 1


def test_a_file_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="no such file"):
        describe("nowhere.yaml")


def test_the_data_dictionary_in_the_docs_is_what_the_tables_declare():
    """Write it anew with: python -m harness describe tables > docs/tables.md"""
    written = (Path(harness.__file__).parents[1] / "docs" / "tables.md").read_text()
    assert written == describe("tables") + "\n"


def test_a_table_is_described_by_its_columns():
    text = describe("networks")
    assert "| `max_similarity` | double | metric | share, 0 to 1 | IoU to the most similar original" in text
    assert "table" in catalogue()
    assert "options" not in text
