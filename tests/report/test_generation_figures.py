"""Samples and distances in the page: against the rows, and against pictures that are none."""

import base64
import io

import pytest
import synthetic_results as synthetic
from PIL import Image

from harness.report.figures.figure import Absent
from harness.report.figures.generation import (
    BESIDE,
    SAMPLES,
    Beside,
    Point,
    beside,
    draw_beside,
    draw_sheet,
    sheet,
    sheets,
)
from harness.report.tables import from_arrow


def picture(width, height, kind="PNG"):
    content = io.BytesIO()
    Image.new("RGB", (width, height), (9, 99, 200)).save(content, kind)
    return base64.b64encode(content.getvalue()).decode()


def study(**generation):
    """Returns the tables of probes and samples of two trainings, with other values in the samples' rows."""
    probes = synthetic.feature_rows(blocks=(3, 6), timesteps=(1, 50), pools=(1,), n=300, controls=False)
    other = synthetic.feature_rows(
        blocks=(3, 6), timesteps=(1, 50), pools=(1,), n=300, controls=False, seed=3
    )
    for row in other["features"]:
        row.update(key=f"d{row['key']}", regulariser="dispersive")
    rows = [{**row, **generation} for row in synthetic.generation_rows()["generation"]]
    return {"features": probes["features"] + other["features"], "generation": rows}


def tables_of(parts):
    return from_arrow(synthetic.arrow(parts))


def test_a_picture_says_how_large_it_is():
    assert sheet(picture(30, 17))[1:] == (30, 17)


@pytest.mark.parametrize(
    "content",
    [
        None,
        float("nan"),
        "",
        "no base64",
        '"><script>alert(1)</script>',
        picture(3, 3, "GIF"),
        base64.b64encode(b"\x89PNG\r\n\x1a\nshort").decode(),
    ],
)
def test_what_is_no_picture_is_not_shown(content):
    assert sheet(content) is None
    assert isinstance(SAMPLES.views(tables_of(study(grid=None))), Absent)


def test_encoders_share_the_samples_and_trainings_do_not():
    found = sheets(tables_of(study(grid=picture(20, 10))))
    assert [choice for choice, _ in found] == [
        {"data": "cifar10", "regulariser": "dispersive"},
        {"data": "cifar10", "regulariser": "none"},
    ]


def test_a_picture_is_drawn_whole_and_upright():
    drawing = draw_sheet(sheet(picture(20, 10)))
    (image,) = drawing.layout["images"]
    assert image["source"] == f"data:image/png;base64,{picture(20, 10)}"
    assert drawing.layout["xaxis"]["range"] == [0, 20]
    assert drawing.layout["yaxis"]["range"] == [10, 0], "rows go down"
    assert (image["sizex"], image["sizey"], image["x"], image["y"]) == (20, 10, 0, 0)


def test_each_network_has_the_test_accuracy_of_what_was_best_on_validation():
    parts = study()
    found = {choice["encoder"]: numbers for choice, numbers in beside(tables_of(parts))}
    assert set(found) == {"resnet-18", "pixels"}
    for encoder, numbers in found.items():
        assert {point.name for point in numbers.points} == {"ddpm", "ddpm, dispersive"}
        assert numbers.real == 2.5
        for point in numbers.points:
            regulariser = "dispersive" if "dispersive" in point.name else None
            rows = [row for row in parts["features"] if row.get("regulariser") == regulariser]
            best = max(rows, key=lambda row: row["validation_accuracy"])
            assert point.accuracy == pytest.approx(100 * best["test_accuracy"], abs=1e-3)
            assert point.low == pytest.approx(100 * best["test_accuracy_low"], abs=1e-3)
            (distance,) = [
                row["frechet"]
                for row in parts["generation"]
                if (row["regulariser"], row["encoder"]) == (regulariser, encoder)
            ]
            assert point.frechet == distance


def test_one_network_alone_is_not_compared():
    parts = study()
    alone = {**parts, "generation": [row for row in parts["generation"] if row["regulariser"] is None]}
    assert isinstance(BESIDE.views(tables_of(alone)), Absent)
    assert beside(tables_of({**parts, "features": []})) == []


def test_intervals_reach_from_their_ends_and_the_reference_is_drawn_where_it_is_known():
    points = [Point("a", 3.0, 50.0, 45.0, 57.0), Point("b<i>", 2.0, 60.0, None, None)]
    drawing = draw_beside(Beside("pixels", points, None))
    first, second = drawing.data
    assert (first["error_y"]["array"], first["error_y"]["arrayminus"]) == ([7.0], [5.0])
    assert (second["error_y"]["array"], second["error_y"]["arrayminus"]) == ([0.0], [0.0])
    assert second["name"] == "b&lt;i&gt;"
    (line,) = draw_beside(Beside("pixels", points, 1.5)).data[2:]
    assert (line["x"], line["y"]) == ([1.5, 1.5], [45.0, 60.0])
    low, high = draw_beside(Beside("pixels", points, 1.5)).layout["xaxis"]["range"]
    assert low < 1.5 < 3 < high
