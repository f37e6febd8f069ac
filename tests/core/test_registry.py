"""Parts are found by name, imported on first use, and other packages add theirs."""

import importlib
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
def install(tmp_path, monkeypatch):
    """Installs a package with a module `my_heads` and the given entry points."""

    def installed(
        *lines, name="harness_plugin", module="class Mine: ...\nclass Net: ...\nclass Other: ...\n"
    ):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join(["[harness.plugins]", *lines, ""]))
        (tmp_path / "my_heads.py").write_text(module)
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(tmp_path)
    yield installed
    sys.modules.pop("my_heads", None)


def refusal(function, *arguments):
    with pytest.raises(UserError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_package_adds_a_part_of_one_kind_by_an_entry_point(install):
    install("head.mine = my_heads:Mine", "backbone.net = my_heads:Net", "data_set.cells = my_heads:Other")
    heads = Registry("head", PARTS)
    assert set(heads.names()) == {*PARTS, "mine"}
    assert heads.load("mine").__name__ == "Mine"
    assert Registry("backbone", {}).names() == ["net"]
    assert Registry("data set", {}).load("cells").__name__ == "Other"


def test_a_plugin_cannot_replace_a_part_that_is_built_in(install):
    install("head.linear = my_heads:Other")
    assert Registry("backbone", {"linear": "json:loads"}).where("linear") == "json:loads"
    for function in (Registry("head", PARTS).names, lambda: Registry("head", PARTS).load("mlp")):
        assert refusal(function) == (
            "entry point head.linear = my_heads:Other of package harness_plugin: head 'linear' is already "
            "registered as json:loads; rename the entry point or uninstall the package"
        )


def test_two_plugins_cannot_share_a_name_but_for_the_same_part(install):
    install("head.mine = my_heads:Mine")
    install("head.mine = my_heads:Mine", name="again")
    assert Registry("head", {}).names() == ["mine"]
    install("head.mine = my_heads:Other", name="third")
    assert "head 'mine' is already registered as my_heads:" in refusal(Registry("head", {}).names)


@pytest.mark.parametrize(
    ("value", "module", "words"),
    [
        (
            "my_heads:Mine",
            "import a_library_that_is_missing",
            "ModuleNotFoundError: No module named 'a_library",
        ),
        ("my_heads:Mine", "1 / 0", "ZeroDivisionError: division by zero"),
        ("my_heads:Mine", "class Mine(:", "SyntaxError: "),
        ("my_heads:Mine", "", "AttributeError: module 'my_heads' has no attribute 'Mine'"),
        ("my_haeds:Mine", "", "ModuleNotFoundError: No module named 'my_haeds'"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_in_one_line(install, value, module, words):
    install(f"head.mine = {value}", module=module)
    heads = Registry("head", PARTS)
    assert "mine" in heads.names()
    told = refusal(heads.load, "mine")
    assert told.startswith(f"entry point head.mine = {value} of package harness_plugin: cannot be imported: ")
    assert words in told
    assert heads.load("linear")


def test_a_part_of_our_own_that_cannot_be_imported_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError):
        Registry("head", PARTS).load("never")
