"""Figures of CKA: their numbers against the rows, and both ways round."""

import itertools

import pytest
import synthetic_results as synthetic

from harness.report.figures.cka import (
    BLOCKS,
    ENCODERS,
    TIMESTEPS,
    both_ways,
    matrix,
    of_blocks,
    of_encoders,
    of_timesteps,
    pairs,
)
from harness.report.figures.cka_lines import OVER_TIMESTEP, POOLS, lines, of_pools, with_others
from harness.report.figures.figure import Absent
from harness.report.tables import from_arrow

BLOCK, TIMESTEP, POOL = (3, 6, 9), (0, 50, 300), (1, 2)


def value(a, b):
    """A number of its own for each pair, the same both ways."""
    return round(1 / (1 + abs(a[0] - b[0]) + abs(a[1] - b[1]) / 100 + abs(a[2] - b[2]) / 10), 6)


def side(name, network, place):
    block, timestep, pool = place
    columns = {
        "model": network,
        "block": block,
        "block_name": f"<{block}>",
        "timestep": timestep,
        "pool": pool,
    }
    return {f"{name}_{column}": one for column, one in columns.items()}


def rows():
    """What the study leaves: each pair once, never one with itself."""
    places = list(itertools.product(BLOCK, TIMESTEP, POOL))
    found = []
    for a, b in itertools.combinations(places, 2):
        if sum(one != other for one, other in zip(a, b, strict=True)) == 1:
            found.append({**side("a", "backbone", a), **side("b", "backbone", b), "cka": value(a, b)})
    for a, b in itertools.product(places, places):
        if a[1:] == b[1:]:
            found.append({**side("a", "backbone", a), **side("b", "untrained", b), "cka": value(a, b) / 2})
    for a in places:
        for layer, name in enumerate(("embeddings", "pooled")):
            seen = {"b_model": "vit", "b_block": layer, "b_block_name": name, "cka": a[0] / 100 + layer / 2}
            found.append({**side("a", "backbone", a), **seen})
    return [{**synthetic.COMMON, "key": f"s{i}", "images": 40, **row} for i, row in enumerate(found)]


def tables(*more, only=None):
    found = [row for row in rows() if only is None or only(row)]
    return from_arrow(synthetic.arrow({"similarity": [*found, *more]}))


def view(figure, **choice):
    (found,) = [one for one in figure.views(tables()) if one.choice == choice]
    (trace,) = [trace for trace in found.figure.data if trace["type"] == "heatmap"]
    return trace


def test_blocks_are_drawn_both_ways_with_ones_between():
    trace = view(BLOCKS, **{"with": "backbone", "timestep": "50", "pool": "2"})
    assert trace["x"] == trace["y"] == ["3", "6", "9"]
    expected = [[value((a, 50, 2), (b, 50, 2)) for b in BLOCK] for a in BLOCK]
    assert trace["z"] == expected
    assert [trace["z"][i][i] for i in range(3)] == [1, 1, 1]


def test_another_backbone_is_not_turned_round():
    trace = view(BLOCKS, **{"with": "untrained", "timestep": "0", "pool": "1"})
    assert trace["z"] == [[value((a, 0, 1), (b, 0, 1)) / 2 for b in BLOCK] for a in BLOCK]


def test_encoders_are_drawn_by_layer():
    trace = view(ENCODERS, **{"with": "vit", "timestep": "300", "pool": "1"})
    assert (trace["x"], trace["y"]) == (["embeddings", "pooled"], ["3", "6", "9"])
    assert trace["z"] == [[a / 100 + layer / 2 for layer in (0, 1)] for a in BLOCK]


def test_timesteps_are_drawn_for_each_block():
    trace = view(TIMESTEPS, block="6", pool="1")
    assert trace["x"] == ["0", "50", "300"]
    assert trace["z"] == [[value((6, a, 1), (6, b, 1)) for b in TIMESTEP] for a in TIMESTEP]


def test_every_row_is_in_a_figure():
    frame = pairs(tables())
    parts = [of_blocks(frame), of_encoders(frame), of_timesteps(frame), of_pools(frame)]
    assert sorted(key for part in parts for key in part["key"]) == sorted(frame["key"])


def test_lines_over_timestep():
    frame = with_others(pairs(tables()))
    assert set(frame["with"]) == {
        "itself at t = 0",
        "untrained: same block",
        "vit: embeddings",
        "vit: pooled",
    }
    itself = frame[(frame["with"] == "itself at t = 0") & (frame["a_pool"] == 1)]
    for line, block in zip(lines(itself, "a_timestep", "a_block", "block"), BLOCK, strict=True):
        assert line.name == f"block {block}"
        assert line.x == [50, 300]
        assert line.cka == [value((block, t, 1), (block, 0, 1)) for t in (50, 300)]
    assert len(OVER_TIMESTEP.views(tables())) == 4 * 2


def test_lines_between_pools():
    (first, *_) = POOLS.views(tables())
    (trace,) = first.figure.data
    assert trace["name"] == "pools 1 and 2"
    assert (trace["x"], trace["y"]) == ([3, 6, 9], [value((3, 0, 1), (3, 0, 2))] * 3)


def test_repeats_are_averaged_and_missing_stays_missing():
    same = [dict(row) for row in rows()[:1]]
    place = (same[0]["a_block"], same[0]["b_block"])
    more = {**same[0], "key": "again", "seed": 1, "cka": same[0]["cka"] + 0.25}
    frame = pairs(tables(more))
    of_pair = both_ways(frame)[lambda f: f["key"].isin(["again", same[0]["key"]])]
    assert len(of_pair) == 4
    part = of_pools(frame)
    mean = lines(part[(part["timestep"] == 0)], "a_block", "pools", "pools")[0].cka[0]
    assert place == (3, 3)
    assert mean == pytest.approx(same[0]["cka"] + 0.125)
    gaps = [{**row, "cka": None} if row["b_model"] == "vit" and row["b_block"] else row for row in rows()]
    frame = of_encoders(pairs(from_arrow(synthetic.arrow({"similarity": gaps}))))
    assert matrix(frame, "a_block", "b_block", symmetric=False).columns == ["0"]


def test_names_of_users_are_no_html():
    trace = view(BLOCKS, **{"with": "backbone", "timestep": "0", "pool": "1"})
    assert trace["customdata"][0][1] == "&lt;3&gt; × &lt;6&gt;"


@pytest.mark.parametrize("figure", [BLOCKS, ENCODERS, TIMESTEPS, OVER_TIMESTEP, POOLS])
def test_what_was_not_compared_is_said(figure):
    for found in (
        from_arrow(synthetic.arrow({})),
        tables(only=lambda row: False),
        from_arrow(synthetic.arrow({"similarity": [{**row, "cka": None} for row in rows()]})),
        from_arrow(synthetic.arrow({"similarity": [{**r, "status": "failed", "cka": None} for r in rows()]})),
    ):
        absent = figure.views(found)
        assert isinstance(absent, Absent)
        assert absent.why.endswith(".")
    one = tables(only=lambda row: row["b_model"] == "vit" and row["a_timestep"] == 0 and row["a_pool"] == 1)
    assert isinstance(figure.views(one), Absent) == (figure is not ENCODERS)


def test_another_backbone_is_drawn_where_its_schedule_has_the_level_at_another_step():
    here, there = (3, 10, 1), (3, 2, 1)
    row = {**side("a", "backbone", here), **side("b", "flow", there), "cka": 0.25, "images": 40}
    frame = of_blocks(pairs(tables({**synthetic.COMMON, "key": "other", **row}, only=lambda one: False)))
    assert frame["cka"].tolist() == [0.25]
