"""The page as a whole: whole, escaped, self-contained, for any rows; and clear errors."""

import errno
import json
import os
import random
import re
import resource
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_results as synthetic

from harness.cli import main
from harness.core.errors import UserError
from harness.core.storage import Storage
from harness.core.tables import SCHEMA_VERSION
from harness.report import page as page_module
from harness.report.figures import FIGURES
from harness.report.figures.figure import worded
from harness.report.page import embedded, write_report
from harness.report.published import ADM_BLOCKS
from harness.report.sections import SECTIONS
from harness.report.tables import from_arrow
from harness.sweep import studies

HOSTILE = '</script><script>alert("1")</script><img src=x onerror=alert(1)>\x00 & \u2028 $title %{x} ${y}'
HOSTILE += ' \x1b[1;95mred\x1b[0m \'" onfocus=alert(1) x=" {{ 7 * 7 }} {% raw %}'


class Reader(HTMLParser):
    """Collects the tags, identifiers and text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self._skip = False
        self.feed(page)
        self.text = re.sub(r"[ \n]+", " ", self.text)  # as browsers do

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value for name, value in attrs if name == "id"]
        self._skip = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._skip else data


def written(storage: Storage, *parts: dict, experiment: str = "study") -> str:
    synthetic.write(storage, experiment, *parts)
    assert write_report(storage, experiment, studies.tables()) == storage.describe(
        f"{experiment}/report.html"
    )
    return storage.read(f"{experiment}/report.html").decode()


def data(page: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="page-data">(.*?)</script>', page, re.S)
    return json.loads(found)


def test_page_has_everything_in_order(storage: Storage, small_features: dict, small_weights: dict) -> None:
    page = written(storage, small_features, small_weights)
    reader = Reader(page)
    sections = [
        name
        for name in reader.ids
        if name in ("answer", "trust", "features", "weights", "failures", "provenance")
    ]
    assert sections == ["answer", "trust", "features", "weights", "failures", "provenance"]
    assert len(set(reader.ids)) == len(reader.ids)
    assert reader.tags.count("script") == 3
    assert set(data(page)["figures"]) == {
        name.removeprefix("figure-") for name in reader.ids if "figure-" in name
    }
    for word in ("pandas", "DuckDB", "polars", "d41d8cd98f00", "NVIDIA A100", "2.60.0"):
        assert word in reader.text


def test_page_is_alone(storage: Storage, small_features: dict) -> None:
    page = written(storage, small_features)
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert "http://" not in outside
    assert "https://" not in outside
    assert "default-src 'none'" in page
    assert page.count("plotly.js v") == 1
    assert len(page) < 5.5e6


@pytest.mark.slow
def test_nothing_that_users_write_becomes_markup(
    storage: Storage, study_one: dict, small_features: dict, small_weights: dict
) -> None:
    def hostile(rows: list[dict], columns: tuple[str, ...]) -> list[dict]:
        return [{**row, **{c: HOSTILE for c in columns if row.get(c) is not None}} for row in rows]

    strings = ("data", "device", "run", "block_name", "head", "backbone", "subset", "network", "code_commit")
    strings += ("regulariser", "encoder", "sampler", "a_model", "b_model", "a_block_name", "b_block_name")
    features = hostile(small_features["features"], strings)
    features[0] = synthetic.failed(features[0], HOSTILE)
    own = (*strings, "parameters", "preset", "optimizer", "buffers")
    networks = hostile(small_weights["networks"], ("subset",))
    weights = [
        {**row, "varied": json.dumps({"checkpoints.path": HOSTILE if place < 3 else "x"})}
        for place, row in enumerate(small_weights["weights"])
    ]
    for row in networks:
        row["kind"] = HOSTILE if row["kind"] == "gaussian" else row["kind"]
    parts = {
        "features": features,
        "weights": hostile(weights[:3], own) + weights[3:],  # so that all of them vary, and are shown
        "networks": networks,
    }
    parts |= {table: hostile(study_one[table], strings) for table in ("similarity", "generation")}
    other = [{**row, "key": f"o{row['key']}", "data": HOSTILE + "2"} for row in study_one["features"]]
    parts["features"] += hostile(other, tuple(name for name in strings if name != "data"))
    name = "<b>&nasty"
    page = written(storage, parts, experiment=name)
    reader = Reader(page)
    assert reader.tags.count("script") == 3
    assert "img" not in reader.tags
    assert "<b>&nasty" in reader.text
    assert "onerror" in reader.text  # shown as text
    assert not {name for name in reader.attributes if name.startswith("on")}
    assert "{{ 7 * 7 }} {% raw %}" in reader.text
    for code in ("\x00", "\x1b", "[1;95m"):
        assert code not in page
    figures = data(page)["figures"]
    offered = {value for figure in figures.values() for view in figure["views"] for value in view["choice"]}
    assert any("onfocus" in (value or "") for value in offered)  # picked by the same text as in its control
    del figures["parallel"]  # its tick texts are not read as HTML; the browser's test looks
    drawn = json.dumps([[view["data"], view["layout"]] for f in figures.values() for view in f["views"]])
    assert "&lt;img" in drawn
    assert "<img" not in drawn
    assert "<script" not in drawn


def test_templates_trust_nothing_but_the_page_s_own_scripts_style_and_policy() -> None:
    for path in (Path(page_module.__file__).parent / "templates").glob("*.html"):
        trusted = re.findall(r"\{\{ (\w+) \| safe \}\}", path.read_text())
        own = ["policy", "style", "data", "plotly", "script"] if path.name == "page.html" else []
        assert trusted == own, path.name
        assert path.read_text().count("safe") == len(own)


def test_a_number_that_is_not_finite_is_null() -> None:
    value = {"a": [1.0, float("nan"), {"b": (float("inf"), "NaN")}], "c": None}
    assert json.loads(embedded(value)) == {"a": [1.0, None, {"b": [None, "NaN"]}], "c": None}


def test_embedded_json_stays_inside_its_script() -> None:
    text = embedded({"a": HOSTILE})
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text)["a"] == HOSTILE


@pytest.mark.slow
@pytest.mark.parametrize("study", ["features", "weights"])
def test_either_study_alone(storage: Storage, small_features: dict, small_weights: dict, study: str) -> None:
    page = written(storage, {"features": small_features, "weights": small_weights}[study])
    reader = Reader(page)
    assert study in reader.ids
    assert {"features": "weights", "weights": "features"}[study] not in reader.ids


@pytest.mark.slow
@pytest.mark.parametrize("study", ["cka", "generation"])
def test_a_study_appears_with_rows_of_its_table(storage: Storage, study_one: dict, study: str) -> None:
    table = SECTIONS[study].table
    page = written(storage, {table: study_one[table]})
    reader = Reader(page)
    assert [name for name in reader.ids if name in SECTIONS] == [study]
    assert f"{len(study_one[table])} results" in reader.text
    broken = written(
        storage, {table: [synthetic.failed(row) for row in study_one[table]]}, experiment="broken"
    )
    assert f"{len(study_one[table])} rows of {len(study_one[table])} failed" in Reader(broken).text


@pytest.mark.slow
def test_all_kinds_of_rows_make_a_page(storage: Storage, study_one: dict, small_weights: dict) -> None:
    page = written(storage, study_one, small_weights)
    reader = Reader(page)
    assert [name for name in reader.ids if name in SECTIONS] == list(SECTIONS)
    assert set(data(page)["figures"]) == set(FIGURES.names())
    assert "not drawn" not in reader.text
    assert "No number is missing" not in reader.text  # CKA has no gap, K = 1 has


def test_published_numbers_are_marked_and_can_be_hidden(storage: Storage, small_features: dict) -> None:
    page = written(storage, small_features)
    assert page.count("data-published checked") == 1
    assert "another data set or backbone than the one measured here (cifar10, ddpm)" in Reader(page).text
    marked = set(re.findall(r'id="figure-(\w+)" class="plot" data-beside="published"', page))
    for name, figure in data(page)["figures"].items():
        traces = [trace for view in figure["views"] for trace in view["data"]]
        old = [trace for trace in traces if (trace.get("meta") or {}).get("published")]
        assert bool(old) == (name in marked)
        assert all(
            trace["name"].startswith("published: ") and "open" in trace["marker"]["symbol"] for trace in old
        )
        assert not any("published" in (trace.get("name") or "") for trace in traces if trace not in old)
    assert "over_timestep" in marked


@pytest.mark.slow
def test_each_study_has_its_own_switch_for_published_numbers(
    storage: Storage, small_features: dict, small_weights: dict
) -> None:
    page = written(storage, small_features, small_weights)
    assert set(re.findall(r'id="(\w+)-published" data-published', page)) == {"features", "weights"}
    text = Reader(page).text
    assert "another data set or network than some of those measured here (cifar10, resnet18)" in text
    figures = data(page)["figures"]
    for name in ("ablation", "similarity_cases", "similarity_range"):
        assert f'id="figure-{name}" class="plot" data-beside="published"' in page
        traces = [trace for view in figures[name]["views"] for trace in view["data"]]
        old = [trace for trace in traces if (trace.get("meta") or {}).get("published")]
        assert all(trace["name"].startswith("published: 2024-") for trace in old)
        assert not any("published" in (trace.get("name") or "") for trace in traces if trace not in old)


@pytest.mark.slow
def test_the_paper_s_own_setting_of_study_2_needs_no_warning(storage: Storage, small_weights: dict) -> None:
    rows = [{**row, "data": "CIFAR-100"} for row in small_weights["weights"]]
    text = Reader(written(storage, {**small_weights, "weights": rows})).text
    assert "Published numbers" in text
    assert "They come from another data set" not in text


@pytest.mark.slow
def test_the_paper_s_own_setting_needs_no_warning(storage: Storage, small_features: dict) -> None:
    rows = [
        {**row, "data": "imagenet-1k", "backbone": row["backbone"] and "adm"}
        for row in small_features["features"]
    ]
    numbered = [{**row, "block_name": ADM_BLOCKS.get(row["block"], row["block_name"])} for row in rows]
    text = Reader(written(storage, {"features": numbered})).text
    assert "Published numbers" in text
    assert "another data set or backbone" not in text
    assert "another data set or backbone" in Reader(written(storage, {"features": rows})).text


def test_tables_of_one_study_suffice(storage: Storage, small_features: dict) -> None:
    synthetic.write(storage, "study", small_features)
    for name in ("weights", "networks", "correctness"):
        storage.remove(f"study/{name}.parquet")
    write_report(storage, "study", studies.tables())
    assert "no paired test" in storage.read("study/report.html").decode()


def test_all_failed(storage: Storage, small_features: dict, small_weights: dict) -> None:
    parts = [
        {table: [synthetic.failed(row) for row in rows[table]]}
        for rows, table in ((small_features, "features"), (small_weights, "weights"))
    ]
    page = written(storage, *parts)
    text = Reader(page).text
    assert "No probe succeeded, so there is no answer." in text
    assert "No trial succeeded, so there is no answer." in text
    assert data(page)["figures"] == {}
    for name in FIGURES.names():
        figure = FIGURES.load(name)
        title = worded(figure.title, "accuracy")
        assert (f"{title}: " in text) == (figure.study in ("features", "weights"))


@pytest.fixture(scope="module")
def minimal() -> dict:
    """All tables, of two data sets, with few rows."""
    sizes: dict = {"blocks": (3, 6), "timesteps": (1, 50), "pools": (1, 2), "n": 30, "extra": True}
    parts = [
        *(synthetic.feature_rows(**sizes, data=data, name=data) for data in ("cifar10", "cub-200")),
        synthetic.similarity_rows(),
        synthetic.generation_rows(),
        synthetic.weight_rows(ks=(1, 5), subsets=("first",), generated=6, n=30),
    ]
    return {name: [row for part in parts for row in part.get(name, [])] for name in studies.tables()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("features", "data", "cub-200"),
        ("features", "features", "trained"),
        ("features", "block", 3),
        ("similarity", "a_timestep", 0),
        ("generation", "regulariser", None),
        ("weights", "k", 1),
        ("networks", "kind", "generated"),
    ],
)
def test_any_group_may_have_failed_or_have_no_numbers(
    minimal: dict, table: str, column: str, value: object
) -> None:
    def without_numbers(row: dict) -> dict:
        return {**row, **{name: None for name in row if "accuracy" in name or name in ("cka", "frechet")}}

    for change in (synthetic.failed, without_numbers):
        rows = [change(row) if row[column] == value else row for row in minimal[table]]
        beside = {"networks": ["weights"], "weights": ["networks"]}.get(table, [])
        tables = from_arrow(synthetic.arrow({table: rows} | {name: minimal[name] for name in beside}))
        said, figures = page_module.page(tables, "study").split('id="page-data">')
        assert "NaN" not in figures.partition("</script>")[0]
        assert " nan" not in Reader(said).text.lower()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_any_trials_may_have_failed(minimal: dict, seed: int) -> None:
    draw = random.Random(seed)
    share = draw.choice([0.1, 0.5, 0.9, 1.0])
    keys = sorted({row["key"] for rows in minimal.values() for row in rows})
    bad = {key for key in keys if draw.random() < share}
    rows = {
        name: [
            synthetic.failed(row, "Traceback: no & <b>luck</b>") if row["key"] in bad else row
            for row in found
        ]
        for name, found in minimal.items()
        if name != "correctness"
    }
    rows["correctness"] = [row for row in minimal["correctness"] if row["key"] not in bad]
    said, figures = page_module.page(from_arrow(synthetic.arrow(rows)), "study").split('id="page-data">')
    assert "NaN" not in figures.partition("</script>")[0]
    text = Reader(said).text
    assert " nan" not in text.lower()
    assert "no &amp; &lt;b&gt;luck&lt;/b&gt;" in said or not bad


def test_no_rows_at_all(storage: Storage) -> None:
    assert "no rows yet" in Reader(written(storage, {})).text


def test_nulls_everywhere(storage: Storage, small_features: dict, small_weights: dict) -> None:
    kept = ("key", "status", "began_at", "run")
    parts = {
        table: [{name: row[name] for name in kept} for row in rows[table][:3]]
        for rows, table in (
            (small_features, "features"),
            (small_weights, "weights"),
            (small_weights, "networks"),
        )
    }
    text = Reader(written(storage, parts)).text
    assert "0.0 %" not in text.replace("\u202f", " ")
    assert "nan" not in text.lower().split()


def test_single_trial_of_each(storage: Storage, small_features: dict, small_weights: dict) -> None:
    parts = {"features": small_features["features"][:1], "weights": small_weights["weights"][:1]}
    assert "Only one setting was measured" in Reader(written(storage, parts)).text


def test_choices_open_at_the_best_setting(storage: Storage, small_features: dict) -> None:
    page = written(storage, small_features)
    rows = [row for row in small_features["features"] if row["features"] == "trained"]
    best = max(rows, key=lambda row: row["validation_accuracy"])
    controls = re.findall(r'data-choice="(pool|head)">.*?<option value="([^"]*)" selected>', page)
    assert set(controls) == {("pool", str(best["pool"])), ("head", best["head"])}


def test_unknown_experiment_names_the_nearest(storage: Storage, small_features: dict) -> None:
    synthetic.write(storage, "quickstart", small_features)
    (Path(storage.root) / "rows" / "features").mkdir(parents=True)
    with pytest.raises(
        UserError, match=r"no tables of experiment 'quikstart'.*did you mean 'quickstart'.*known: quickstart$"
    ):
        write_report(storage, "quikstart", studies.tables())
    with pytest.raises(UserError, match="no tables"):
        write_report(storage, "", studies.tables())


def test_unreadable_and_foreign_tables(storage: Storage, small_features: dict) -> None:
    synthetic.write(storage, "study", small_features)
    storage.remove("study/about.json")
    storage.write("study/weights.parquet", b"PAR1 but not really")
    with pytest.raises(UserError, match=r"weights\.parquet: not a readable table"):
        write_report(storage, "study", studies.tables())


@pytest.mark.parametrize("name", ["features.parquet", "about.json"])
def test_a_table_that_does_not_match_its_checksum_is_refused(
    storage: Storage, small_features: dict, name: str
) -> None:
    synthetic.write(storage, "study", small_features)
    content = storage.read(f"study/{name}")
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
    storage.write(f"study/{name}", flipped)
    with pytest.raises(UserError, match=rf"{name}: .*; run the same sweep again, which writes it anew"):
        write_report(storage, "study", studies.tables())


def test_newer_schema_is_refused(storage: Storage, small_features: dict) -> None:
    synthetic.write(storage, "study", small_features)
    path = storage.full("study/features.parquet")
    table = pq.read_table(path)
    newer = {**table.schema.metadata, b"harness_schema_version": str(SCHEMA_VERSION + 1).encode()}
    pq.write_table(table.replace_schema_metadata(newer), path)
    storage.remove("study/about.json")
    with pytest.raises(UserError, match=f"schema version {SCHEMA_VERSION + 1}.*install a newer"):
        write_report(storage, "study", studies.tables())


def test_object_store() -> None:
    storage = Storage("memory://results")
    synthetic.write(
        storage, "study", synthetic.feature_rows(blocks=(1, 2), timesteps=(1, 2), pools=(1,), n=50)
    )
    assert write_report(storage, "study", studies.tables()).startswith("memory://")


@pytest.mark.slow
def test_ten_thousand_rows_within_five_seconds(storage: Storage) -> None:
    rows = synthetic.feature_rows(
        blocks=range(1, 26),
        timesteps=range(0, 500, 10),
        pools=(1, 2),
        heads=("a", "b", "c", "d"),
        n=20,
        correct=False,
    )
    synthetic.write(storage, "big", rows)
    program = (
        "import sys; from harness.core.storage import Storage; from harness.report.page import write_report; "
    )
    program += (
        "from harness.sweep import studies; write_report(Storage(sys.argv[1]), 'big', studies.tables())"
    )
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime  # other work on the machine does not count
    subprocess.run([sys.executable, "-c", program, storage.url], check=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began < 5
    assert len(rows["features"]) > 10_000


def test_import_is_light() -> None:
    heavy = {"jinja2", "pandas", "plotly", "pyarrow", "torch"}
    program = f"import sys, harness.report; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_a_users_own_file_beside_the_tables_is_left_out(storage: Storage, small_features: dict) -> None:
    synthetic.write(storage, "study", small_features)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"mine": [1]}), sink)
    storage.write("study/mine.parquet", sink.getvalue().to_pybytes())
    storage.write("study/broken.parquet", b"PAR1")
    write_report(storage, "study", studies.tables())
    assert "mine" not in storage.read("study/report.html").decode().split("</main>")[0]


def test_a_page_that_may_not_be_written_is_one_line(
    storage: Storage, small_features: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    synthetic.write(storage, "study", small_features)

    def refuse(self: Storage, path: str, content: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), self.full(path))

    monkeypatch.setattr(Storage, "write", refuse)
    assert main(["report", "study", "--results", storage.url]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "study/report.html: Read-only file system" in said
