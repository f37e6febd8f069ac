"""Study 2 in words and tables: what is selected, compared, averaged, said."""

import json
import re
from html import unescape
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic_results as synthetic
from scipy.stats import ttest_1samp

from harness.metrics.inference import holm, mcnemar
from harness.report import answer_weights, honest_panel
from harness.report.correctness import Correctness
from harness.report.sections import SECTIONS
from harness.report.tables import Tables, from_arrow
from harness.report.trial_results import MEASURES, Trial, settings, trials


def text(html: str) -> str:
    """Returns HTML as words."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def trialled(tables: Tables) -> list[Trial]:
    return trials(tables, Correctness(tables.correctness))


def section(tables: Tables) -> str:
    above = SECTIONS["weights"].above
    assert above is not None
    return above(tables, trialled(tables))


def one_trial(small_weights: dict, **values: Any) -> Tables:
    """Returns the tables of the trial of the largest K, some of its columns replaced."""
    row = next(row for row in small_weights["weights"] if row["k"] == 20)
    part = {name: [r for r in rows if r["key"] == row["key"]] for name, rows in small_weights.items()}
    return from_arrow(synthetic.arrow({**part, "weights": [{**row, **values}]}))


@pytest.fixture(scope="module")
def repeated() -> dict:
    """Two data sets of which one is the paper's, two seeds, three runs of the generator, two places of noise."""
    setups = [
        {"data": data, "seed": seed, "generator": generator, "latent_noise": noise}
        for data in ("CIFAR-100", "digits")
        for seed in (0, 1)
        for generator in range(3)
        for noise in (0, 0.1)
    ]
    return synthetic.weight_rows(ks=(3,), subsets=("first",), generated=6, n=200, setups=setups)


def test_trials_against_pandas(tables: Tables, small_weights: dict) -> None:
    found = trialled(tables)
    assert [(trial.setup["k"], trial.setup["subset"]) for trial in found] == [
        (k, subset) for k in (1, 5, 20) for subset in ("first", "strided")
    ]
    vectors = {
        (r["key"], r["kind"], r["setting"], r["index"]): r["correct"] for r in small_weights["correctness"]
    }
    networks = tables.networks.assign(
        step_gap=(tables.networks["step"] - tables.networks["nearest_step"]).abs()
    )
    for place, trial in enumerate(found):
        key = f"w{place:05d}"
        rows = networks[networks["key"] == key]
        for kind in trial.kinds:
            same = rows[rows["kind"] == kind.kind]
            same = same if kind.setting is None else same[same["setting"] == kind.setting]
            best = same.loc[same["validation_accuracy"].idxmax()]
            assert (kind.networks, kind.best.value) == (len(same), best["test_accuracy"])
            assert kind.validation == same["validation_accuracy"].max()
            assert kind.mean == pytest.approx(same["test_accuracy"].mean())
            for name in MEASURES:
                expected = same[name].astype(float).quantile([0.5, 0.05, 0.95]).tolist()
                got = [np.nan if value is None else value for value in kind.measures[name]]
                assert got == pytest.approx(expected, nan_ok=True)
            if kind.kind != "generated":
                made = rows[rows["kind"] == "generated"]
                first = made.loc[made["validation_accuracy"].idxmax(), "index"]
                pair = (("generated", None, first), (kind.kind, kind.setting, best["index"]))
                assert kind.paired is not None
                assert kind.paired.p == mcnemar(*(vectors[key, *who] for who in pair))


def test_trials_are_told_in_plain_words(tables: Tables) -> None:
    said = text(answer_weights.to_html(trialled(tables)))
    assert (
        "better than the best original in 0 of 6 trials, worse in 0 , and indistinguishable from it in 6"
        in said
    )
    assert "no difference larger than noise (" in said
    assert "p = 1)" in said  # 0.41 in each of six trials
    assert "corrected for there being 6 trials, by Holm's method" in said
    assert "By the rules below, in the 6 trials where distances were measured, they are copies" in said
    assert "averages : drawn to the originals' mean, as averages are" in said
    assert "The strongest trivial control, " in said


def test_trials_are_judged_together(small_weights: dict) -> None:
    """Of six trials with p-values of which four are below 0.05, Holm's method leaves one."""
    p_values = [0.04, 0.008, 0.03, 0.011, 0.5, 0.41]
    rows = [
        {**row, "p_value": p, "generated_minus_original": 0.02}
        for row, p in zip(small_weights["weights"], p_values, strict=True)
    ]
    tables = from_arrow(synthetic.arrow({**small_weights, "weights": rows}))
    found = trialled(tables)
    adjusted = [0.12, 0.048, 0.12, 0.055, 0.82, 0.82]
    assert [trial.p for trial in found] == p_values
    assert [trial.p_adjusted for trial in found] == pytest.approx(adjusted)
    assert [one.p_adjusted for one in settings(tables)] == pytest.approx(adjusted)
    assert [one.p for one in settings(tables)] == p_values
    assert [trial.verdict.against_originals for trial in found].count("better") == 1
    assert found[1].verdict.against_originals == "better"
    table = text(answer_weights.accuracy_table(settings(tables)))
    assert [p for p in ("0.048", "0.12", "0.82", "0.008") if f"p = {p}" in table] == ["0.048", "0.12", "0.82"]


def test_controls_are_judged_over_all_trials(tables: Tables) -> None:
    found = trialled(tables)
    groups = [[trial.trivial.paired for trial in found if trial.trivial]]
    for name in ("ensemble", "original"):
        groups.append([kind.paired for trial in found for kind in trial.kinds if kind.kind == name])
    for pairs in groups:
        assert len(pairs) == 6
        expected = holm([pair and pair.p for pair in pairs])
        assert [pair and pair.p_adjusted for pair in pairs] == pytest.approx(expected)


def test_one_trial_is_judged_by_itself(small_weights: dict) -> None:
    (trial,) = trialled(one_trial(small_weights))
    assert (trial.p, trial.p_adjusted) == (0.41, 0.41)
    said = text(answer_weights.to_html([trial]))
    assert "p = 0.41" in said
    assert "corrected" not in said


def test_a_worse_best_is_called_worse(small_weights: dict) -> None:
    found = trialled(one_trial(small_weights, generated_minus_original=-0.02, p_value=0.001))
    assert "worse by more than noise (−2.00 points, p = 0.001)" in text(answer_weights.to_html(found))
    assert "worse than the best original" in text(honest_panel.to_html(found))


def test_the_strongest_trivial_control_is_chosen_on_validation(small_weights: dict) -> None:
    tables = one_trial(small_weights)
    (trial,) = trialled(tables)
    rows = tables.networks[tables.networks["kind"].isin(["average", "gaussian"])]
    best = rows.loc[rows["validation_accuracy"].idxmax()]
    assert trial.trivial is not None
    assert (trial.trivial.kind, trial.trivial.best.value) == (best["kind"], best["test_accuracy"])
    mean = rows[rows["kind"] == best["kind"]]["test_accuracy"].mean()
    assert trial.trivial_mean_gain == (pytest.approx(mean - trial.original.mean), None, None, 1)
    assert "one run" in text(honest_panel.to_html([trial]))


def test_k_1_has_no_mean_to_be_near(small_weights: dict) -> None:
    numbers = {"copying_z": -5.0, "mean_z": -5.0, "variance_ratio": 0.1, "distance_ratio": 0.7}
    assert trialled(one_trial(small_weights, **numbers))[0].verdict.newness == "averages"
    assert trialled(one_trial(small_weights, k=1, **numbers))[0].verdict.newness == "copies"
    for count, shown in ((1, "<td>–</td>"), (20, 'class="missing"')):
        values = {**numbers, "variance_ratio": None, "original_networks": count}
        assert shown in honest_panel.evidence_table(trialled(one_trial(small_weights, **values)))


def test_originals_of_different_networks_are_warned_of(small_weights: dict) -> None:
    for permuted in (True, False, None):
        found = trialled(one_trial(small_weights, permuted=permuted))
        assert ("Hard case:" in answer_weights.to_html(found)) is (permuted is True)
        assert ("originals of different networks" in honest_panel.to_html(found)) is (permuted is True)


def test_runs_of_one_setup_stand_in_one_row(repeated: dict) -> None:
    tables = from_arrow(synthetic.arrow(repeated))
    found = settings(tables)
    assert [list(one.setup.values()) for one in found] == [
        [data, noise, 3] for data in ("CIFAR-100", "digits") for noise in ("parameters", "both")
    ]
    for one in found:
        frame = tables.weights
        rows = frame[(frame["data"] == one.setup["data"]) & (frame["noise"] == one.setup["noise"])]
        assert one.runs == len(rows) == 6
        for column, mean in one.accuracies.items():
            assert mean.value == pytest.approx(rows[column].mean())
        gains = rows.groupby("seed")["generated_minus_original"].mean()
        if gains.nunique() > 1:
            expected = ttest_1samp(gains, 0).confidence_interval(0.95)
            assert (one.gain.low, one.gain.high) == pytest.approx((expected.low, expected.high))
        assert one.p is None


def test_the_mean_s_gain_is_over_all_runs(repeated: dict) -> None:
    tables = from_arrow(synthetic.arrow(repeated))
    found = trialled(tables)
    assert list(found[0].setup) == ["data", "noise", "seed", "generator", "k"]
    frame = tables.weights.assign(
        gain=lambda rows: rows["generated_mean_accuracy"] - rows["original_mean_accuracy"]
    )
    for trial in found:
        same = frame[(frame["data"] == trial.setup["data"]) & (frame["noise"] == trial.setup["noise"])]
        assert trial.mean_gain.value == pytest.approx(same["gain"].mean())
        assert trial.mean_gain.runs == 6
    assert "6 runs" in text(honest_panel.to_html(found))
    assert re.search(
        r"from the mean original \((95 % interval .* to .*, )?6 runs\)", text(answer_weights.to_html(found))
    )


def test_a_network_that_is_varied_as_a_whole_is_named_once() -> None:
    setups = [
        {
            "network": name,
            "varied": json.dumps({"network": {"name": name, "depths": [1, 1]}}),
            "generator": generator,
        }
        for name in ("resnet", "vit")
        for generator in (0, 1)
    ]
    rows = synthetic.weight_rows(ks=(3,), subsets=("first",), generated=6, n=200, setups=setups)
    tables = from_arrow(synthetic.arrow(rows))
    assert [list(one.setup) for one in settings(tables)] == [["network", "k"]] * 2
    assert [list(trial.setup) for trial in trialled(tables)] == [["network", "generator", "k"]] * 4
    assert "depths" not in section(tables) + answer_weights.to_html(trialled(tables))


def test_distances_that_are_rounding_are_none(small_weights: dict) -> None:
    tables = one_trial(small_weights)
    ensemble = tables.networks["kind"] == "ensemble"
    for value, shown in ((6e-8, "<td>0</td>"), (2e-5, "<td>2e-05</td>"), (0.5, "<td>0.500</td>")):
        networks = tables.networks.assign(distance=tables.networks["distance"].mask(ensemble, value))
        (row,) = re.findall(
            r"<tr><th[^>]*>average of all.*?</tr>", section(tables.with_frames(networks=networks))
        )
        assert shown in row


def test_published_numbers_stand_beneath_the_same_data_and_network(repeated: dict) -> None:
    found = settings(from_arrow(synthetic.arrow(repeated)))
    table = answer_weights.accuracy_table(found)
    cells = re.findall(r"<tr>(.*?)</tr>", table, re.S)
    rows = [text(row) for row in cells][2:]
    assert [row.split()[0] for row in rows] == ["CIFAR-100"] * 2 + ["published,"] * 2 + ["digits"] * 2
    assert "edition 2024-02" in rows[2]
    assert "best chosen on test" in rows[2]
    assert "76.9\u202f%".replace("\u202f", " ") in rows[2].replace("\u202f", " ")
    assert "77.9" in rows[3]
    columns = len(re.findall(r"<t[hd]", cells[2]))
    beneath = cells[4]
    assert (
        int(re.findall(r'colspan="(\d+)"', beneath)[0]) - 1 + len(re.findall(r"<t[hd]", beneath)) == columns
    )


def test_every_kind_is_measured_and_named(small_weights: dict) -> None:
    said = text(section(one_trial(small_weights)))
    names = ("held-out checkpoints", "prediction ensemble (vote)", "noise 0.05", "average of 16")
    names += ("average of all weights (the paper's ensemble)", "fine-tuned further", "another seed")
    for name in (*names, "Gaussian per coordinate", "decoded Gaussian latents"):
        assert name in said
    assert "The rules of the verdict" in said


def test_missing_numbers_are_called_missing(small_weights: dict) -> None:
    row = {**small_weights["weights"][0], "generated_mean_accuracy": None, "p_value": None}
    row |= {"generated_minus_original": None, "copying_z": None}
    tables = from_arrow(synthetic.arrow({"weights": [row]}))
    table = answer_weights.accuracy_table(settings(tables))
    assert table.count('<td class="missing">missing</td>') == 2
    found = trialled(tables)
    assert "their difference is missing" in answer_weights.to_html(found)
    assert "is undecided" in answer_weights.to_html(found)
    assert "No average and no Gaussian control was measured." in answer_weights.to_html(found)
    assert 'class="missing"' in honest_panel.evidence_table(found)


def test_rows_of_an_older_schema_make_the_section(small_weights: dict) -> None:
    known = {"network", "parameters", "parameter_count", "k", "subset", "generated_minus_original", "p_value"}
    measured = {"kind", "setting", "index", "selected", "max_similarity", "distance", "key", "k", "subset"}
    weights, networks = (
        [
            {
                n: v
                for n, v in row.items()
                if n in kept or "accuracy" in n or n in synthetic.COMMON or n == "key"
            }
            for row in small_weights[table]
        ]
        for table, kept in (("weights", known), ("networks", measured))
    )
    tables = from_arrow(synthetic.arrow({"weights": weights, "networks": networks}))
    said = text(section(tables))
    assert "accuracy: open" not in said
    assert "open as good as the best original" in said
    assert " nan" not in said.lower()


def test_what_users_write_is_text(small_weights: dict) -> None:
    bad = "<img src=x>"
    first = one_trial(
        small_weights, parameters=bad, varied=json.dumps({"checkpoints.path": bad}), network=bad, data=bad
    )
    other = one_trial(small_weights, key="other")
    tables = first.with_frames(weights=pd.concat([first.weights, other.weights]))
    html = section(tables) + answer_weights.to_html(trialled(tables)) + answer_weights.published_note(tables)
    assert "<img" not in html
    assert "&lt;img src=x&gt;" in html
