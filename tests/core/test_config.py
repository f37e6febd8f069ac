"""Configuration: whole or refused, with an error that says where, what and what instead."""

from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from harness.core.config import Config, parse, part, read_yaml, unkeyed, with_settings, with_values
from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.core.registry import Registry


class Inner(Config):
    steps: int = Field(10, ge=0)
    learning_rate: float = Field(1e-3, gt=0)
    workers: int = unkeyed(1, ge=0)


class Small(Config):
    name: Literal["small"] = "small"
    width: int = Field(4, ge=1)


class Wide(Config):
    name: Literal["wide"] = "wide"
    inner: Inner = Inner()


PARTS = Registry("part", {"small": f"{__name__}:Small", "wide": f"{__name__}:Wide"})
PartField = Annotated[Config, part(PARTS)]


class Outer(Config):
    seed: int = 0
    inner: Inner = Inner()
    stages: list[Inner] = []
    chosen: PartField = Small()
    many: list[PartField] = []
    batch: int = unkeyed(8)


def refused(values, *words):
    with pytest.raises(UserError) as caught:
        parse(Outer, values, "file.yaml")
    message = str(caught.value)
    assert message.startswith("file.yaml: ")
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_values_arrive_as_they_are():
    outer = parse(Outer, {"seed": 3, "inner": {"steps": 5}, "stages": [{}, {"steps": 1}]}, "file")
    assert (outer.seed, outer.inner.steps, [stage.steps for stage in outer.stages]) == (3, 5, [10, 1])


def test_an_unknown_key_is_named_with_the_nearest_at_the_top():
    refused({"sed": 1}, "unknown key 'sed'", "did you mean 'seed'?")


def test_an_unknown_key_below_a_key_is_named_with_the_nearest_there():
    refused(
        {"inner": {"step": 1}},
        "'inner.step'",
        "did you mean 'steps'?",
        "known: learning_rate, steps, workers",
    )


def test_an_unknown_key_in_a_list_is_named_with_its_place():
    refused({"stages": [{}, {"stepz": 1}]}, "'stages.1.stepz'", "did you mean 'steps'?")


def test_an_unknown_key_of_a_registered_part_is_named_with_the_nearest_there():
    refused(
        {"chosen": {"name": "small", "widht": 3}}, "chosen", "unknown key 'widht'", "did you mean 'width'?"
    )
    refused({"many": ["small", {"name": "wide", "inner": {"stps": 1}}]}, "many.1", "'inner.stps'", "'steps'?")


def test_an_unknown_part_is_named_with_the_nearest():
    refused({"chosen": "smal"}, "unknown part 'smal'", "did you mean 'small'?")


@pytest.mark.parametrize("value", [3, None, {"width": 3}, {"name": 3}, ["small"]])
def test_a_part_that_is_no_name_is_refused_with_the_known_ones(value):
    refused({"chosen": value}, "expected a part by name", "small, wide")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": "1"}, ["seed", '"1"', "integer"]),
        ({"seed": 1.5}, ["seed", "1.5"]),
        ({"seed": True}, ["seed", "integer"]),
        ({"seed": None}, ["seed", "null"]),
        ({"inner": 3}, ["inner", "3"]),
        ({"inner": {"steps": -1}}, ["inner.steps", "-1", "greater than or equal to 0"]),
        ({"inner": {"learning_rate": 0}}, ["inner.learning_rate", "greater than 0"]),
        ({"inner": {"learning_rate": float("nan")}}, ["inner.learning_rate"]),
        ({"inner": {"learning_rate": float("inf")}}, ["inner.learning_rate", "finite"]),
        ({"stages": [{"steps": "x"}]}, ["stages.0.steps"]),
        ({"chosen": {"name": "small", "width": 0}}, ["chosen", "width", "greater than or equal to 1"]),
        ([1, 2], ["file.yaml"]),
        ({(1, 2): 3}, ["file.yaml"]),
    ],
)
def test_wrong_values_are_refused_in_one_line_with_place_and_limit(values, words):
    refused(values, *words)


def test_further_errors_are_counted():
    refused({"seed": "a", "inner": {"steps": "b"}}, "(and 1 more)")


def test_a_part_may_be_written_short_or_long():
    assert parse(Outer, {"chosen": "wide"}, "f").chosen == Wide()
    assert parse(Outer, {"chosen": {"name": "wide", "inner": {"steps": 3}}}, "f").chosen.inner.steps == 3


def test_configurations_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Outer().seed = 3


def test_unkeyed_fields_are_left_out_of_what_results_depend_on():
    slow = parse(
        Outer, {"batch": 1, "inner": {"workers": 7}, "chosen": {"name": "wide", "inner": {"workers": 3}}}, "f"
    )
    fast = parse(Outer, {"batch": 99, "inner": {"workers": 0}, "chosen": "wide"}, "f")
    assert slow.keyed() == fast.keyed()
    assert "batch" not in slow.keyed()
    assert slow.keyed()["inner"] == {"steps": 10, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 1},
        {"inner": {"steps": 11}},
        {"stages": [{}]},
        {"chosen": {"name": "small", "width": 5}},
        {"chosen": "wide"},
        {"many": ["small"]},
    ],
)
def test_every_keyed_field_changes_what_results_depend_on(values):
    assert fingerprint(parse(Outer, values, "f").keyed()) != fingerprint(Outer().keyed())


def test_a_value_given_as_its_default_is_the_default():
    given = {"seed": 0, "inner": {"steps": 10}, "chosen": {"name": "small", "width": 4}}
    assert parse(Outer, given, "f").keyed() == Outer().keyed()


def test_settings_reach_into_mappings_and_lists_and_leave_the_original_alone():
    values = {"a": {"b": 1}, "list": [{"c": 1}, 5]}
    changed = with_settings(
        values, ["a.b=2", "a.new.deep=[1, x]", "list.0.c=null", "list.1=text", "top=1e-3"]
    )
    assert changed == {
        "a": {"b": 2, "new": {"deep": [1, "x"]}},
        "list": [{"c": None}, "text"],
        "top": 0.001,
    }
    assert values == {"a": {"b": 1}, "list": [{"c": 1}, 5]}


@given(
    st.recursive(st.integers() | st.text("ab c:é", max_size=5) | st.none(), lambda x: st.lists(x, max_size=3))
)
def test_any_json_value_can_be_set(value):
    import json

    assert with_settings({}, [f"a.b={json.dumps(value)}"]) == {"a": {"b": value}}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("seed", "expected path=value"),
        ("=1", "expected path=value"),
        ("seed=[1", "not valid YAML"),
        ("seed=2024-13-45", "not valid YAML"),
        ("seed.deep=1", "'seed' holds 0, not a mapping"),
        ("list.5=1", "'5' is not an index in a list of 2"),
        ("list.²=1", "not an index in a list"),
        ("list.x=1", "not an index in a list"),
    ],
)
def test_a_setting_that_fits_nowhere_is_refused(setting, words):
    with pytest.raises(UserError, match="--set") as caught:
        with_settings({"seed": 0, "list": [1, 2]}, [setting])
    assert words in str(caught.value)


def test_yaml_is_read(tmp_path):
    (tmp_path / "file.yaml").write_text("a: 1\nb: [x, 2.5]\n")
    assert read_yaml(tmp_path / "file.yaml") == {"a": 1, "b": ["x", 2.5]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\nb: 2\n", "line 2"),
        ("- 1\n", "expected a mapping of keys to values, got list"),
        ("", "expected a mapping of keys to values, got NoneType"),
        ("a: 2024-13-45", "not valid YAML"),
        ("a: !!python/object:os.system {}", "not valid YAML"),
        ("a: &a [*a]", "not valid"),
        ("2020-01-01: 3", "key"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_with_its_name(tmp_path, text, words):
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"file\.yaml") as caught:
        with_settings(read_yaml(path), [])
    assert words in str(caught.value)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "expands to more than"),
        ("a: " + "[" * 500 + "]" * 500, "too deep"),
        ("a: 1\nb: 2\na: 3\n", "key 'a' is given twice"),
        ("a: 2024-01-05", "as a date; put it in quotes"),
        ("a: !!binary aGk=", "not allowed"),
        ("? [1, 2]\n: 3", "a key must be a plain string"),
    ],
)
def test_what_yaml_has_beyond_values_is_refused(tmp_path, text, words):
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(UserError, match=r"file\.yaml") as caught:
        read_yaml(tmp_path / "file.yaml")
    assert words in str(caught.value)


def test_keys_stay_the_words_that_were_written(tmp_path):
    (tmp_path / "file.yaml").write_text("off: 1\n3: 2\nbase: &base {x: 1}\nnext: {<<: *base, y: 2}\n")
    assert read_yaml(tmp_path / "file.yaml") == {
        "off": 1,
        "3": 2,
        "base": {"x": 1},
        "next": {"x": 1, "y": 2},
    }


def test_integers_beyond_64_bits_are_refused():
    refused({"seed": 2**63}, "seed", "does not fit in 64 bits")


def test_a_file_that_cannot_be_read_is_refused_with_its_name(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\xfe")
    for name in ("missing.yaml", "latin.yaml", "."):
        with pytest.raises(UserError, match="cannot be read"):
            read_yaml(tmp_path / name)


class _Inner(Config):
    steps: int = 1
    batch: int = 2


class _Middle(Config):
    train: _Inner = _Inner(steps=10, batch=20)


class _Outer(Config):
    middle: _Middle = _Middle(train=_Inner(steps=100, batch=200))


def test_a_section_given_in_part_keeps_the_rest_of_its_own_default():
    assert parse(_Outer, {}, "x").middle.train == _Inner(steps=100, batch=200)
    assert parse(_Outer, {"middle": {"train": {"steps": 5}}}, "x").middle.train == _Inner(steps=5, batch=20)
    assert parse(_Middle, {"train": {"batch": 5}}, "x").train == _Inner(steps=10, batch=5)


def test_values_are_put_at_their_paths():
    values = {"train": {"steps": 5}, "heads": ["linear"]}
    found = with_values(values, {"train.batch": 2, "heads": [], "data.size": None}, "weights.vary")
    assert found == {"train": {"steps": 5, "batch": 2}, "heads": [], "data": {"size": None}}
    assert values == {"train": {"steps": 5}, "heads": ["linear"]}
    with pytest.raises(UserError, match=r"weights\.vary: train\.steps\.x: 'train\.steps' holds 5"):
        with_values(values, {"train.steps.x": 1}, "weights.vary")


@pytest.mark.parametrize("text", ["1e20", "1E20", "1.0e20", "1.e20", "1.0e+20", "+1e20", "1e+20"])
def test_numbers_are_read_however_people_write_them(text, tmp_path):
    assert with_settings({}, [f"rate={text}"]) == {"rate": 1e20}
    (tmp_path / "file.yaml").write_text(f"rate: {text}\nnames: [1e2x, e20, 2024-12, v1e2]\n")
    assert read_yaml(tmp_path / "file.yaml") == {"rate": 1e20, "names": ["1e2x", "e20", "2024-12", "v1e2"]}
