"""The answers in words: what is selected, what is compared, what is said."""

import re

import numpy as np
import pytest
import synthetic_results as synthetic
from scipy.stats import binomtest

from harness.metrics.inference import mcnemar
from harness.report import answer_features, failures, provenance, transfer, unified
from harness.report.correctness import Correctness
from harness.report.tables import Tables, from_arrow
from harness.report.words import moment


def text(html: str) -> str:
    """Returns HTML as words."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))


def answered(tables: Tables) -> list[answer_features.Answer]:
    return answer_features.answers(tables, Correctness(tables.correctness))


def test_best_is_selected_on_validation_and_told_on_test(tables: Tables) -> None:
    (answer,) = answered(tables)
    trained = tables.features[tables.features["features"] == "trained"]
    row = trained.loc[trained["validation_accuracy"].idxmax()]
    assert answer.best is not None
    assert answer.best.setting == {axis: row[axis] for axis in ("block", "timestep", "pool", "head")}
    assert answer.best.test.value == row["test_accuracy"]
    assert answer.best.candidates == len(trained) == answer.combinations
    said = text(answer_features.to_html(answer, named=False))
    assert f"{100 * row['test_accuracy']:.1f} % on test (95 % interval" in said
    assert "n = 300" in said


def test_controls_are_compared_in_pairs(tables: Tables, small_features: dict) -> None:
    (answer,) = answered(tables)
    vectors = {row["key"]: row["correct"] for row in small_features["correctness"]}
    frame = tables.features
    keys = {}
    for kind in ("trained", "untrained", "pixels"):
        rows = frame[frame["features"] == kind]
        keys[kind] = rows.loc[rows["validation_accuracy"].idxmax()]["key"]
    for control in answer.controls:
        first, second = vectors[keys["trained"]], vectors[keys[control.kind]]
        assert control.paired is not None
        assert control.paired.p == mcnemar(first, second)
        ordered = sorted(one.paired.p for one in answer.controls if one.paired is not None)
        expected = 2 * ordered[0] if control.paired.p == ordered[0] else max(2 * ordered[0], ordered[1])
        assert control.paired.p_adjusted == pytest.approx(min(1.0, expected))
        assert control.paired.difference == pytest.approx(first.mean() - second.mean())
    assert "points better, more than noise (p &lt; 0.001" in text(
        answer_features.to_html(answer, named=False)
    )


def test_comparisons_that_stand_in_one_list_are_judged_together(small_features: dict) -> None:
    """The best setting beats two controls, by p-values each of which alone would be more than noise."""
    rows = {name: [dict(row) for row in part] for name, part in small_features.items()}
    trained = np.arange(300) < 280
    control = np.arange(300) < 280
    control[:13] = False
    control[280:284] = True
    kinds = {row["key"]: row["features"] for row in rows["features"]}
    for part in rows["correctness"]:
        part["correct"] = trained if kinds[part["key"]] == "trained" else control
    for row in rows["features"]:
        row["test_accuracy"] = float((trained if row["features"] == "trained" else control).mean())
    (answer,) = answered(from_arrow(synthetic.arrow(rows)))
    p = binomtest(4, 17).pvalue
    assert p < 0.05 < 2 * p
    assert [one.paired and one.paired.p for one in answer.controls] == [pytest.approx(p)] * 2
    assert [one.paired and one.paired.p_adjusted for one in answer.controls] == [pytest.approx(2 * p)] * 2
    said = text(answer_features.to_html(answer, named=False))
    assert said.count("no difference larger than noise (+3.0 points)") == 2
    assert "corrected for 2 comparisons" in said


def test_rivals_and_regularisers_are_judged_in_pairs(study_one: dict) -> None:
    answer = next(
        answer for answer in answered(from_arrow(synthetic.arrow(study_one))) if answer.data == "cifar10"
    )
    vectors = {row["key"]: row["correct"] for row in study_one["correctness"]}

    def best(features: str, regulariser: str | None = None) -> dict:
        rows = [
            row for row in study_one["features"] if (row["data"], row["features"]) == ("cifar10", features)
        ]
        rows = [row for row in rows if features != "trained" or row["regulariser"] == regulariser]
        return max(rows, key=lambda row: row["validation_accuracy"])

    frozen = max((best("trained"), best("trained", "dispersive")), key=lambda row: row["validation_accuracy"])
    pairs = [(found, frozen, best(found.kind)) for found in answer.rivals]
    pairs += [(found, best("trained"), best("trained", found.kind)) for found in answer.regularisers]
    assert [found.kind for found, _, _ in pairs] == ["combined", "finetuned", "dispersive"]
    for found, first, second in pairs:
        assert found.paired is not None
        assert found.paired.p == mcnemar(vectors[first["key"]], vectors[second["key"]])
        assert found.best.test.value == second["test_accuracy"]
    said = text(answer_features.to_html(answer, named=False))
    assert (
        "The best of several blocks and timesteps together (blocks 3+6+9 at t 1+50+300, pool 1, head" in said
    )
    assert "worse than the best probe of one frozen block, more than noise (p" in said
    assert "Trained with dispersive, the best setting (block 6" in said


def test_a_rival_that_is_better_is_called_better(study_one: dict) -> None:
    rows = {name: [dict(row) for row in study_one[name]] for name in ("features", "correctness")}
    key = next(row["key"] for row in rows["features"] if row["features"] == "finetuned")
    for part in (row for row in rows["correctness"] if row["key"] == key):
        part["correct"] = np.ones_like(part["correct"])
    for row in (row for row in rows["features"] if row["key"] == key):
        row |= {"test_accuracy": 1.0, "validation_accuracy": 1.0}
    said = " ".join(
        text(answer_features.to_html(one, named=True)) for one in answered(from_arrow(synthetic.arrow(rows)))
    )
    assert re.search(
        r"fine-tuned backbones \(block 6.*reaches 100.0 % on test: [\d.]+ points better than the best", said
    )


def test_transfer_is_told_in_words(study_one: dict, tables: Tables) -> None:
    assert transfer.sentence(tables) == ""
    rows = [dict(row) for row in study_one["features"]]
    best = max(
        (r for r in rows if r["data"] == "cub-200" and r["features"] == "trained"),
        key=lambda r: r["validation_accuracy"],
    )
    best["validation_accuracy"] -= 0.5
    said = text(transfer.sentence(from_arrow(synthetic.arrow({"features": rows}))))
    assert said.startswith(
        "Transfer between 2 data sets. The ranking of settings differs most between cifar10 and cub-200 (Spearman 0."
    )
    assert re.search(r"costs at most \d+\.\d points on validation \(that of cifar10 on cub-200\)", said)


def test_unified_learners_pair_recognition_with_generation(study_one: dict) -> None:
    tables = from_arrow(synthetic.arrow(study_one))
    with_one, without = unified.learners(tables)
    assert (with_one.network["regulariser"], without.network["regulariser"]) == ("dispersive", "none")
    assert [(one.encoder, one.frechet, one.real) for one in without.distances] == [
        ("resnet-18", 30.0, 2.5),
        ("pixels", 38.0, 2.5),
    ]
    rows = [row for row in study_one["features"] if row["data"] == "cifar10" and row["regulariser"] is None]
    rows = [row for row in rows if row["features"] in ("trained", "combined", "finetuned")]
    best = max(rows, key=lambda row: row["validation_accuracy"])
    assert without.accuracy.value == best["test_accuracy"]
    said = text(unified.to_html(tables))
    assert said.count("measured here") == 2
    assert said.count("published") >= 5
    assert "resnet-18, 500 samples" in said
    alone = unified.learners(from_arrow(synthetic.arrow({"generation": study_one["generation"]})))
    assert all(one.classifier is None and one.accuracy.value is None for one in alone)
    assert "missing" in unified.to_html(from_arrow(synthetic.arrow({"generation": study_one["generation"]})))


def test_a_learner_and_an_answer_say_the_condition_and_what_was_tuned(small_features: dict) -> None:
    """The best classifier is adapted, under one of two prompts."""
    rows = [{**row, "condition": 'prompt ""'} for row in small_features["features"]]
    best = max(
        (row for row in rows if row["features"] == "trained"), key=lambda row: row["validation_accuracy"]
    )
    changed = {
        "features": "finetuned",
        "tuning": "lora rank 8",
        "validation_accuracy": 0.999,
        "caching": None,
    }
    rows.append({**best, **changed, "key": "tuned", "condition": 'prompt "a"'})
    generation = synthetic.generation_rows((None,))["generation"]
    tables = from_arrow(synthetic.arrow({"features": rows, "generation": generation}))
    [learner] = unified.learners(tables)
    where = f"block {best['block']}, timestep {best['timestep']}, pool {best['pool']}"
    assert learner.classifier is not None
    assert learner.classifier.where == f'condition prompt "a", {where}, fine-tuned (lora rank 8)'
    [answer] = answer_features.answers(tables, Correctness(tables.correctness))
    [rival] = answer.rivals
    assert rival.best.setting["tuning"] == "lora rank 8"
    assert "tuning" not in answer.best.setting


def test_data_sets_of_one_name_are_told_apart(small_features: dict) -> None:
    rows = small_features["features"]
    other = [{**row, "key": f"o{row['key']}", "data_fingerprint": "abcdef012345"} for row in rows]
    tables = from_arrow(synthetic.arrow({"features": rows + other}))
    assert sorted(set(tables.features["data"])) == ["cifar10 abcdef", "cifar10 d41d8c"]


def test_a_difference_within_noise_is_called_that(small_features: dict) -> None:
    rows = {name: [dict(row) for row in part] for name, part in small_features.items()}
    right = rows["correctness"][0]["correct"]
    for part in rows["correctness"]:
        part["correct"] = right
    for row in rows["features"]:
        row["test_accuracy"] = float(right.mean())
    (answer,) = answered(from_arrow(synthetic.arrow(rows)))
    said = text(answer_features.to_html(answer, named=False))
    assert said.count("no difference larger than noise (+0.0 points) (p = 1,") == 2


def test_predictions_of_another_network_are_not_paired(small_features: dict) -> None:
    rows = {name: [dict(row) for row in part] for name, part in small_features.items()}
    for part in rows["correctness"]:
        part["correct"] = ~np.asarray(part["correct"])
    (answer,) = answered(from_arrow(synthetic.arrow(rows)))
    assert all(control.paired is None for control in answer.controls)
    assert "no paired test" in text(answer_features.to_html(answer, named=False))


def test_effects_are_shares_of_the_variance_that_is_explained() -> None:
    rows = synthetic.feature_rows(
        blocks=(1, 2), timesteps=(0, 9), pools=(1,), heads=("linear",), controls=False
    )
    for row in rows["features"]:
        row["validation_accuracy"] = 0.5 + 0.1 * (row["block"] == 2) + 0.02 * (row["timestep"] == 9)
    (answer,) = answered(from_arrow(synthetic.arrow(rows)))
    assert [effect.axis for effect in answer.effects] == ["block", "timestep"]
    block, timestep = answer.effects
    assert (block.low_level, block.high_level) == (1, 2)
    assert block.high - block.low == pytest.approx(0.1)
    assert block.share == pytest.approx(0.1**2 / (0.1**2 + 0.02**2), abs=0.02)
    assert block.share + timestep.share == pytest.approx(1)
    said = text(answer_features.to_html(answer, named=False))
    assert "Block matters most: the mean validation accuracy changes by 10.0 points" in said
    assert re.search(
        r"; block accounts for 9\d % of the importance\. Then timestep \(2.0 points, \d %\)", said
    )


def test_a_half_measured_grid_is_a_hint(small_features: dict) -> None:
    rows = {"features": small_features["features"][:13]}
    (answer,) = answered(from_arrow(synthetic.arrow(rows)))
    assert "treat them as a hint" in answer_features.to_html(answer, named=False)


def test_each_data_set_has_its_answer(small_features: dict) -> None:
    rows = small_features["features"]
    other = [{**row, "key": f"o{row['key']}", "data": "<i>digits</i>"} for row in rows]
    found = answered(from_arrow(synthetic.arrow({"features": rows + other})))
    assert [answer.data for answer in found] == ["<i>digits</i>", "cifar10"]
    assert "<h4>&lt;i&gt;digits&lt;/i&gt;</h4>" in answer_features.to_html(found[0], named=True)


def test_failures_are_grouped_and_counted(small_features: dict) -> None:
    rows = [dict(row) for row in small_features["features"]]
    rows[:3] = [synthetic.failed(row) for row in rows[:3]]
    rows[3] = synthetic.failed(rows[3], "ValueError: <b>other</b>")
    rows[4]["validation_accuracy"] = None
    tables = from_arrow(synthetic.arrow({"features": rows}))
    first, second = failures.failures(tables)
    assert (len(first.rows), len(second.rows)) == (3, 1)
    assert first.rows[0][first.columns.index("block")] == 3
    (gap,) = failures.missing(tables)
    assert gap == ("features", "validation_accuracy", 1, len(rows) - 4)
    html = failures.to_html(tables)
    assert "<strong>4 rows</strong> of" in html
    assert "&lt;b&gt;other&lt;/b&gt;" in html
    assert "\x1b" not in html


def test_runs_are_summed_up(tables: Tables) -> None:
    (run,) = provenance.runs(provenance.rows_of_trials(tables))
    assert run.rows == len(tables.features) + len(tables.weights)
    assert run.busy == pytest.approx(3.5 * run.rows)
    assert moment(0.0) == "1970-01-01 00:00 UTC"
    assert "0123456789abcdef0123456789abcdef01234567" in provenance.to_html(tables)
