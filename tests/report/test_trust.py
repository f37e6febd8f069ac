"""What the page says before anyone trusts it."""

import numpy as np
import synthetic_results as synthetic

from harness.core.storage import Storage
from harness.data.contact import grid
from harness.report.page import write_report
from harness.report.tables import Tables, from_arrow, read_tables
from harness.report.trust import to_html, warnings
from harness.sweep import studies


def tables_of(rows: list[dict]) -> Tables:
    return from_arrow(synthetic.arrow({"features": rows}))


def test_nothing_is_said_of_sound_results(small_features: dict) -> None:
    assert warnings(tables_of(small_features["features"])) == []


def test_accuracies_of_few_samples_are_named(small_features: dict) -> None:
    rows = [{**row} for row in small_features["features"]]
    rows[0]["test_accuracy_n"] = 3
    rows[1] = synthetic.failed({**rows[1], "test_accuracy_n": 2})
    (line,) = warnings(tables_of(rows))
    assert "1 result with a test accuracy of 3 samples only" in line


def test_constant_features_are_named(small_features: dict) -> None:
    rows = [
        {**row, "constant_share": 1.0 if place < 2 else 0.5}
        for place, row in enumerate(small_features["features"])
    ]
    (line,) = warnings(tables_of(rows))
    assert "2 results on features that are the same for all training images" in line


def test_mixed_precision_is_named(small_features: dict) -> None:
    both = ("float32", "bfloat16", None)
    rows = [{**row, "precision": both[place % 3]} for place, row in enumerate(small_features["features"])]
    (line,) = warnings(tables_of(rows))
    assert "in float32" in line
    assert "in bfloat16" in line
    assert warnings(tables_of([{**row, "precision": "float32"} for row in rows])) == []


def test_what_the_sweep_found_in_its_data_comes_first_and_is_escaped(
    storage: Storage, small_features: dict
) -> None:
    synthetic.write(storage, "study", small_features)
    declared = studies.tables()
    tables = {name: table.empty() for name, table in declared.items()} | synthetic.arrow(small_features)
    keys = [row["key"] for row in small_features["features"]]
    from harness.core.row_store import RowStore

    found = ["digits: 12 of 12 test images are exact copies of <b>training</b> images"]
    RowStore(storage, declared).write_experiment(
        "study", keys, tables, {"data": ["digits: 3 images"], "warnings": found}
    )
    assert warnings(read_tables(storage, "study", declared)) == found
    write_report(storage, "study", declared)
    page = storage.read("study/report.html").decode()
    section = page[page.index('id="trust"') :].partition("</section>")[0]
    assert "exact copies of &lt;b&gt;training" in section
    assert "digits: 3 images" in section
    assert page.index('id="answer"') < page.index('id="trust"') < page.index('id="features"')


def test_what_nobody_checked_is_not_said_to_be_sound(small_features: dict) -> None:
    tables = tables_of(small_features["features"])
    assert "about.json" in to_html(tables)
    assert "Nothing was found" not in to_html(tables)
    checked = to_html(tables._replace(warnings=()))
    assert "Nothing was found" in checked
    assert "about.json" not in checked


def test_sample_images_are_shown_by_class_and_what_is_no_picture_is_not(small_features: dict) -> None:
    tables = tables_of(small_features["features"])
    picture = grid(np.zeros((2, 3, 4, 4), np.uint8), 2)
    rows = [
        {"name": "<i>cat</i>", "images": 1200, "picture": picture},
        {"name": "dog", "images": 7, "picture": '"><script>'},
        {"name": None, "images": 5, "picture": picture},
    ]
    page = to_html(tables._replace(warnings=(), sheets=({"data": "pets", "classes": 9, "rows": rows},)))
    assert page.count("<img") == 2
    assert f'src="data:image/png;base64,{picture}"' in page
    assert "&lt;i&gt;cat" in page
    assert "1,200" in page
    assert "without a label" in page
    assert "some of 9 classes" in page
    assert "script" not in page
