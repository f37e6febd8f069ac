"""Parts are found by name, imported on first use, and other packages add theirs."""

import sys

import pytest

from harness.core.errors import UserError, did_you_mean
from harness.core.registry import Registry, load_attribute

PARTS = {"linear": "json:loads", "mlp": "json:dumps", "never": "a_module_that_is_not_there:part"}


def test_a_name_leads_to_its_attribute():
    import json

    assert Registry("head", PARTS).load("linear") is json.loads
    assert load_attribute("json:dumps") is json.dumps


def test_names_come_in_the_order_of_registration_and_import_nothing():
    assert Registry("head", PARTS).names() == ["linear", "mlp", "never"]
    assert Registry("head", PARTS).where("never") == "a_module_that_is_not_there:part"
    assert "a_module_that_is_not_there" not in sys.modules


def test_an_unknown_name_answers_with_the_nearest():
    with pytest.raises(
        UserError, match=r"^unknown head 'lineer'; did you mean 'linear'\? known: linear, mlp, never$"
    ):
        Registry("head", PARTS).load("lineer")


def test_a_name_near_to_nothing_gets_the_list_alone():
    assert did_you_mean("zzzzzz", ["linear", "mlp"]) == "known: linear, mlp"
    assert did_you_mean("x", []) == "known: none"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Installs a package whose entry points add a head and a backbone, and try to replace a head."""
    info = tmp_path / "harness_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: harness-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[harness.plugins]\n"
        "head.mine = my_heads:Mine\nhead.linear = my_heads:Other\nbackbone.net = my_heads:Net\n"
    )
    (tmp_path / "my_heads.py").write_text("class Mine: ...\nclass Net: ...\nclass Other: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_heads", None)


@pytest.mark.usefixtures("plugin")
def test_another_package_adds_a_part_of_one_kind_by_an_entry_point():
    heads = Registry("head", PARTS)
    assert set(heads.names()) == {*PARTS, "mine"}
    assert heads.load("mine").__name__ == "Mine"
    assert Registry("backbone", {}).names() == ["net"]


@pytest.mark.usefixtures("plugin")
def test_a_plugin_cannot_replace_a_part_that_is_built_in():
    assert Registry("head", PARTS).where("linear") == "json:loads"
