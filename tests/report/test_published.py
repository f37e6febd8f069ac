"""The published numbers: read as they are, on their own noise levels, beside settings that correspond."""

import math

import pandas as pd
import pytest

from harness.report.figures.over_axis import published_over_block, published_over_timestep
from harness.report.figures.over_parameters import published_heads
from harness.report.figures.transfer import published_by_head
from harness.report.published import ADM_BLOCKS, log_snr, of_figure, published, same_blocks, sigma
from harness.report.unified import published_learners


def test_every_row_is_whole() -> None:
    frame = published()
    assert len(frame) == 136
    assert (
        frame[["figure", "dataset", "backbone", "head", "metric", "value", "source"]].notna().all(axis=None)
    )
    assert frame["metric"].isin(["top1", "fid"]).all()
    assert frame["value"].between(0, 100).all()


@pytest.mark.parametrize(
    ("timestep", "decibel"),
    [(10, 27.2), (30, 19.3), (50, 15.3), (90, 10.3), (150, 5.7), (300, -1.8), (500, -10.7)],
)
def test_noise_levels_are_the_paper_s(timestep: int, decibel: float) -> None:
    # what is told of them counts steps from 1, code from 0
    assert 10 * log_snr(timestep - 1) / math.log(10) == pytest.approx(decibel, abs=0.06)
    assert sigma(timestep) == pytest.approx(math.exp(-log_snr(timestep) / 2))


def test_lines_stand_only_beside_what_corresponds() -> None:
    rows = pd.DataFrame({"backbone": ["adm"], "block": [24], "block_name": [ADM_BLOCKS[24]]})
    linear, mlp = {"pool": "1", "head": "linear"}, {"pool": "1", "head": "mlp"}
    assert [len(published_over_block(rows, choice, "block")) for choice in (linear, mlp)] == [2, 0]
    other = rows.assign(backbone="unet", block_name="up_blocks.1.resnets.2")
    assert published_over_block(other, linear, "block") == []
    (line,) = published_over_timestep(other, linear, "timestep")
    assert (line.x[0], line.accuracy[0], line.low[0]) == (10, 49.23, None)
    (by_noise,) = published_over_timestep(other, linear, "sigma")
    assert by_noise.accuracy == line.accuracy
    assert by_noise.x == [sigma(t) for t in line.x]
    assert published_over_timestep(other, {"pool": "2", "head": "linear"}, "timestep") == []


def test_networks_numbered_as_adm_are_known_by_their_blocks() -> None:
    blocks = pd.DataFrame(
        {"backbone": "pretrained", "block": [19.0, None], "block_name": ["mid_block", None]}
    )
    assert same_blocks(blocks)
    assert not same_blocks(blocks.assign(block=[5.0, None]))
    resnets = pd.DataFrame({"backbone": ["unet"], "block": [24], "block_name": ["up_blocks.1.resnets.1"]})
    assert same_blocks(resnets)


def test_an_adm_of_another_depth_is_not_the_published_one() -> None:
    other = pd.DataFrame(
        {"backbone": "adm", "block": [9, 24], "block_name": ["down_blocks.2.resnets.1", "x"]}
    )
    assert not same_blocks(other)
    assert same_blocks(other.assign(block=[8, 20]))


def test_heads_have_their_parameters() -> None:
    linear, attention = published_heads()
    layers = [(1024 * pool * pool) * 50 + 50 for pool in (1, 2, 4, 8)]
    assert linear.x == layers
    assert linear.accuracy == [87.2, 89.4, 89.6, 88.3]
    assert attention.x == [13.6e6, 26.2e6, 38.8e6, 51.4e6, 64.0e6]


def test_transfer_is_found_by_the_name_of_the_data() -> None:
    found = {row.head: row for row in published_by_head(["my-CUB-copy", "digits", "nabirds"])}
    assert set(found) == {
        "ADM, attention",
        "ADM, cnn",
        "ADM, linear",
        "ADM, mlp",
        "simclr, linear",
        "swav, linear",
    }
    assert found["ADM, linear"].data == ["my-CUB-copy", "nabirds"]
    assert found["ADM, linear"].accuracy == [31.57, 22.47]
    assert published_by_head(["digits"]) == []


def test_unified_learners_have_both_sides() -> None:
    rows = published_learners().set_index(["backbone", "head"])[["top1", "fid"]]
    assert rows.loc[("mage", "linear")].tolist() == [78.9, 9.1]
    assert rows.loc[("bigbigan", "linear")].tolist() == [60.8, 28.54]
    assert rows.loc[("adm-256-uncond", "attention")].tolist() == [71.89, 26.21]
    assert "simclr" not in rows.index.get_level_values(0)
    assert len(of_figure("main", backbone="simclr")) == 1
