"""The picture of the design: which folder may import which, and what starts without torch and ray."""

import ast
import re
import shutil
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import harness

PACKAGE = Path(harness.__file__).parent
MODULES = {
    ".".join(("harness", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# folder: the other folders that it may import. `harness` itself holds nothing but the version.
ALLOWED = {
    "core": set(),
    "data": {"core"},
    "models": {"core"},
    "metrics": {"core"},
    "training": {"core", "data", "models", "metrics"},
    "features": {"core", "data", "models", "metrics", "training"},
    "weights": {"core", "data", "models", "metrics", "training"},
    "sweep": {"core", "data", "models", "metrics", "training"},  # the studies come by name
    "report": {"core", "metrics"},
    "cli": {"core", "sweep", "report"},
    "__main__": {"cli"},
}
ENTRY = {"harness.sweep.__main__": {"core", "sweep", "cli"}}  # `python -m harness.sweep` is a command


@cache
def imports(module):
    """Returns everything that a module imports, in functions too, as dotted names."""
    found = set()
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) == "__import__"
        ):
            raise AssertionError(f"{module} hides an import")
    return frozenset(found)


def folder(name):
    """Returns the folder of a dotted name of this package: "core" of "harness.core.rows.Outcome"."""
    parts = name.split(".")
    return parts[1] if parts[0] == "harness" and len(parts) > 1 and parts[1] in ALLOWED else None


def holders(*libraries):
    """Returns the modules that import one of the libraries, or a part of it."""
    return {
        module
        for module in MODULES
        if any(
            name == library or name.startswith(f"{library}.")
            for name in imports(module)
            for library in libraries
        )
    }


def test_every_folder_is_in_the_picture():
    assert {folder(module) for module in MODULES} - {None} == set(ALLOWED)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_in_the_direction_of_the_arrows(module):
    here = folder(module)
    used = {folder(name) for name in imports(module)} - {None, here}
    allowed = ENTRY.get(module, ALLOWED.get(here, set()))
    assert used <= allowed, f"{module} imports {sorted(used - allowed)}"


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        module: {name for name in imports(module) if name in MODULES and name != module} for module in MODULES
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_the_studies_are_named_in_one_place_outside_themselves():
    naming = {
        module
        for module, path in MODULES.items()
        if folder(module) not in ("features", "weights")
        and re.search(r"harness\.(features|weights)\b", path.read_text(encoding="utf-8"))
    }
    assert naming == {"harness.sweep.experiment"}


@pytest.mark.parametrize(
    ("libraries", "allowed"),
    [
        (("ray.tune",), r"harness\.sweep\..+"),
        (("optuna",), r"harness\.(sweep\..+|report\.importance)"),
        (("statsmodels",), r"harness\.metrics\..+"),
        (("ray.train",), r"harness\.training\.launch"),
        (("ray",), r"harness\.(sweep\..+|training\.launch)"),
        (("plotly", "jinja2"), r"harness\.report\..+"),
        (
            ("torch", "diffusers", "transformers"),
            r"harness\.(data|models|training|features|weights|sweep)\..+",
        ),
        (("sklearn",), r"harness\.(data|features|metrics)\..+"),
    ],
)
def test_a_library_is_imported_where_it_belongs(libraries, allowed):
    found = holders(*libraries)
    strangers = {module for module in found if not re.fullmatch(allowed, module)}
    assert not strangers


def test_the_libraries_of_the_rules_are_really_used():
    """Otherwise the rules above would hold of nothing."""
    for library in ("ray.tune", "optuna", "ray.train", "plotly", "torch", "diffusers"):
        assert holders(library), library


def test_pickle_is_nowhere():
    assert holders("pickle", "cloudpickle", "dill", "joblib") == set()
    used = {m: re.findall(r"torch\.(?:save|load)\(.*", path.read_text()) for m, path in MODULES.items()}
    # formats that others chose: tensors alone are read from them
    others = [
        line
        for module in ("harness.models.backbones.adm_weights", "harness.weights.checkpoint_files")
        for line in used.pop(module)
    ]
    assert all("torch.load(" in line and "weights_only=True" in line for line in others)
    assert not [line for lines in used.values() for line in lines]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module):
    text = ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    assert text
    assert text.splitlines()[0].rstrip().endswith((".", "?", ":")), "the first line is a sentence"


def python(program, *, path=None, cwd=None):
    """Runs a program in a process of its own and returns what it prints."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home())} | (
        {"PYTHONPATH": str(path)} if path else {}
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LIBRARIES = {"torch", "ray", "pandas", "diffusers", "optuna", "plotly", "sklearn", "scipy"}
HEAVY = f"sorted({LIBRARIES} & set(__import__('sys').modules))"


def test_the_command_line_starts_without_heavy_libraries():
    assert python(f"import harness.cli; harness.cli.parser(); print({HEAVY})") == "[]"


def test_an_experiment_is_read_and_planned_without_torch_and_ray(tmp_path):
    program = (
        "from harness.core.storage import Storage\n"
        "from harness.sweep.experiment import load_experiment\n"
        "from harness.sweep.run import plan_experiment\n"
        f"plan = plan_experiment(load_experiment('quickstart', []), Storage({str(tmp_path / 'none')!r}))\n"
        "assert plan.to_run > 100\n"
        f"print([name for name in {HEAVY} if name in ('torch', 'ray', 'diffusers', 'optuna')])"
    )
    assert python(program) == "[]"
    assert not (tmp_path / "none").exists()


def test_the_report_reads_rows_without_torch_and_ray():
    loaded = python(f"import harness.report.page; print({HEAVY})")
    assert "torch" not in loaded
    assert "ray" not in loaded


LEFT = {"features": "features: {pools: [1]}", "weights": "weights: {k: [2]}"}


@pytest.mark.parametrize(("gone", "left"), [("weights", "features"), ("features", "weights")])
def test_deleting_one_study_leaves_the_other_working(tmp_path, gone, left):
    copy = tmp_path / "harness"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(copy / gone)
    registry = copy / "sweep" / "experiment.py"
    lines = registry.read_text().splitlines(keepends=True)
    kept = [line for line in lines if f'"{gone}": "harness.{gone}.study:STUDY"' not in line]
    assert len(kept) == len(lines) - 1
    registry.write_text("".join(kept))
    (tmp_path / "mine.yaml").write_text(f"{LEFT[left]}\n")
    program = (
        "import harness\n"
        "from harness.core.storage import Storage\n"
        "from harness.sweep.experiment import load_experiment\n"
        "from harness.sweep.run import plan_experiment\n"
        "from harness.sweep.catalogue import catalogue\n"
        "catalogue()\n"
        "plan = plan_experiment(load_experiment('mine.yaml', []), Storage('results'))\n"
        "print(harness.__file__, {trial.study for trial in plan.trials}, plan.to_run > 0)"
    )
    assert python(program, path=tmp_path, cwd=tmp_path) == f"{copy / '__init__.py'} {{{left!r}}} True"


@pytest.mark.parametrize("gone", ["weights", "features"])
def test_a_section_of_a_study_that_is_not_there_is_an_unknown_key(tmp_path, gone):
    copy = tmp_path / "harness"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(copy / gone)
    registry = copy / "sweep" / "experiment.py"
    registry.write_text(registry.read_text().replace(f'"{gone}": "harness.{gone}.study:STUDY",', ""))
    (tmp_path / "mine.yaml").write_text(f"{LEFT[gone]}\n")
    program = (
        "from harness.core.errors import UserError\n"
        "from harness.sweep.experiment import load_experiment\n"
        "try:\n    load_experiment('mine.yaml', [])\n"
        "except UserError as error:\n    print(error)"
    )
    assert f"unknown key '{gone}'" in python(program, path=tmp_path, cwd=tmp_path)
