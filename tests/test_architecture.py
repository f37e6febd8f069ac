"""The picture of the design: which folder may import which, and what starts without torch and ray."""

import ast
import json
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
    # contract suites, for the tests of parts: may see everything, and no other folder may import it
    "testing": {"core", "data", "models", "metrics", "training", "features", "weights", "sweep", "report"},
}
ENTRY = {"harness.sweep.__main__": {"core", "sweep", "cli"}}  # `python -m harness.sweep` is a command


@cache
def imports(module):
    """Returns everything that a module imports, in functions too, as dotted names."""
    found = set()
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree(module)):
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
        if folder(module) not in ("features", "weights", "testing")
        and re.search(r"harness\.(features|weights)\b", path.read_text(encoding="utf-8"))
    }
    assert naming == {"harness.sweep.studies"}


@pytest.mark.parametrize(
    ("libraries", "allowed"),
    [
        (("ray.tune",), r"harness\.sweep\..+"),
        (("optuna",), r"harness\.(sweep\..+|report\.importance)"),
        (("statsmodels",), r"harness\.metrics\..+"),
        (("ray.train",), r"harness\.training\.launch"),
        (("ray",), r"harness\.(sweep\..+|training\.launch)"),
        (("plotly",), r"harness\.(report|testing)\..+"),
        (("jinja2",), r"harness\.report\..+"),
        (("pytest",), r"harness\.testing(\..+)?"),
        (
            ("torch", "diffusers", "transformers"),
            r"harness\.(data|models|training|features|weights|sweep|testing)\..+",
        ),
        (("sklearn",), r"harness\.(data|features|metrics|testing)\..+"),
    ],
)
def test_a_library_is_imported_where_it_belongs(libraries, allowed):
    found = holders(*libraries)
    strangers = {module for module in found if not re.fullmatch(allowed, module)}
    assert not strangers


def test_the_libraries_of_the_rules_are_really_used():
    """Otherwise the rules above would hold of nothing."""
    for library in ("ray.tune", "optuna", "ray.train", "plotly", "statsmodels", "torch", "diffusers"):
        assert holders(library), library


def test_pickle_is_nowhere():
    # CIFAR's files, by an unpickler that makes arrays alone; and joblib, between this process and its own
    assert holders("pickle", "cloudpickle", "dill") == {"harness.data.arrays"}
    assert holders("joblib") == {"harness.data.parallel"}
    used = {m: re.findall(r"torch\.(?:save|load)\(.*", path.read_text()) for m, path in MODULES.items()}
    # formats that others chose: tensors alone are read from them
    others = [
        line
        for module in (
            "harness.models.backbones.adm_weights",
            "harness.models.backbones.pickles",
            "harness.weights.checkpoint_files",
        )
        for line in used.pop(module)
    ]
    assert all("torch.load(" in line and "weights_only=True" in line for line in others)
    assert not [line for lines in used.values() for line in lines]


# Strings "module:attribute" lead to code too. Those in registries, and those that `load_attribute` is given as they
# stand, are followed while a sweep is planned; all others name what workers run, or what `apart` runs elsewhere.
WHERE = re.compile(r"harness(\.\w+)+:\w+")
HEAVY_TO_PLAN = ("torch", "diffusers", "transformers", "safetensors.torch", "ray")
RUN_LATER = {  # whose strings are followed by workers, by exports or in another process
    "calls": {"Code", "train", "_train", "apart"},
    "names": {"builder", "loaders", "maker", "network", "opener", "original", "FACTORY"},
    "functions": {"exporter"},
}
LOADING = {  # who follows a string that it was given
    "harness.core.apart": {"_call"},
    "harness.core.registry": {"load"},
    "harness.features.backbone": {"copy_backbone"},
    "harness.core.stages": {"ensure", "run"},
    "harness.models.backbones.family": {"build", "open_weights"},
    "harness.models.backbones.shapes": {"shapes_of"},
    "harness.models.backbones.single_file": {"_converted"},
    "harness.models.backbones.text_encoders": {"check", "open_pipeline"},
    "harness.models.classifiers.build": {"build"},
    "harness.models.encoders.encoder": {"open_encoder"},
    "harness.sweep.export": {"export", "load"},
    "harness.training.launch": {"_work", "train"},
}


@cache
def tree(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def called(node):
    """Returns the last name of what a call calls."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def strings(node):
    """Returns all "module:attribute" strings below a node."""
    constants = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant))
    return {value for value in constants if isinstance(value, str) and WHERE.fullmatch(value)}


@cache
def followed_while_planning(module):
    """Returns the strings of a module that a plan may import."""
    calls = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
    found = set()
    for node in calls:
        if called(node) == "Registry":
            found |= strings(node)
        elif called(node) == "load_attribute" and node.args:
            found |= strings(node.args[0])
    return found


def followed_later(module):
    """Returns the strings of a module that no plan imports."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and called(node) in RUN_LATER["calls"]:
            found |= strings(node)
        elif isinstance(node, ast.FunctionDef) and node.name in RUN_LATER["functions"]:
            found |= strings(node)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in RUN_LATER["names"]:
                    found |= strings(value)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if {getattr(target, "id", None) for target in targets} & RUN_LATER["names"]:
                found |= strings(node.value)
    return found


@cache
def imports_at_once(module):
    """Returns what importing a module imports, without what its functions do when they are called."""
    found, waiting = set(), list(tree(module).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ):
            waiting += ast.iter_child_nodes(node)
    return frozenset(found)


def heavy(module):
    """Returns the heavy libraries that importing a module brings with it, and the modules that import them."""
    found, seen, waiting = {}, set(), [module]
    while waiting:
        one = waiting.pop()
        parents = [one.rsplit(".", up)[0] for up in range(one.count(".") + 1)]
        for name in {name for parent in parents for name in imports_at_once(parent)} | set(parents):
            if name in MODULES and name not in seen:
                seen.add(name)
                waiting.append(name)
            found |= {
                library: one for library in HEAVY_TO_PLAN if name == library or name.startswith(f"{library}.")
            }
    return found


PLANNED = sorted({where for module in MODULES for where in followed_while_planning(module)})


@pytest.mark.parametrize("where", PLANNED)
def test_a_plan_follows_no_string_to_torch(where):
    module = where.partition(":")[0]
    assert module in MODULES
    assert heavy(module) == {}, where


def test_planning_itself_brings_nothing_heavy():
    for module in ("harness.sweep.run", "harness.sweep.plan", "harness.sweep.catalogue"):
        assert heavy(module) == {}
    assert "torch" in heavy("harness.training.launch")  # otherwise nothing would be found anywhere


def test_every_string_that_leads_to_code_is_followed_by_somebody_known():
    for module in MODULES:
        unknown = strings(tree(module)) - followed_while_planning(module) - followed_later(module)
        assert not unknown, f"{module}: who imports {sorted(unknown)}, and when?"


def test_strings_are_followed_in_known_places():
    found = {}
    for module in MODULES:
        if folder(module) == "testing":  # contract suites follow what they test
            continue
        functions = [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef)]
        for function in functions:
            for node in ast.walk(function):
                loads = isinstance(node, ast.Call) and called(node) == "load_attribute"
                if loads and not strings(node.args[0]):
                    found.setdefault(module, set()).add(function.name)
    assert found == LOADING


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_for(module):
    text = ast.get_docstring(tree(module))
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


LIBRARIES = {"torch", "ray", "pandas", "diffusers", "optuna", "plotly", "sklearn", "scipy", "statsmodels"}
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


@pytest.mark.slow
def test_users_networks_are_planned_and_described_without_torch(tmp_path):
    import torch
    from safetensors.torch import save_file
    from tiny_encoders import saved

    from harness.models.classifiers.build import build

    network = build({"name": "convnet", "widths": [8], "groups": 2, "channels": 1, "size": 8, "classes": 10})
    for ending, save in ((".safetensors", save_file), (".pt", torch.save)):
        folder = tmp_path / ending.removeprefix(".")
        folder.mkdir()
        for number in range(6):
            torch.nn.init.normal_(network.norm1.weight)
            save(network.state_dict(), folder / f"{number}{ending}")
    small = {"name": "convnet", "channels": [8], "groups": 2}
    common = {"k": [3], "generate": 2, "autoencoder": {"channels": [4], "latent": 2}, "controls": []}
    saved(tmp_path / "resnet", "resnet")
    pretrained = {"name": "pretrained", "path": str(tmp_path / "resnet")}
    sections = {
        "tensors": {"network": small, "parameters": ["norm1"]},
        "pickles": {"network": small, "parameters": ["norm1"]},
        "pretrained": {"network": pretrained, "parameters": ["classifier*"]},
    }
    for name, folder in (("tensors", "safetensors"), ("pickles", "pt")):
        sections[name]["checkpoints"] = {"path": str(tmp_path / folder), "held_out": 2}
    for name, section in sections.items():
        experiment = {"data": {"name": "digits"}, "weights": {**common, **section}}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(experiment))
    program = (
        "from harness.core.storage import Storage\n"
        "from harness.sweep.catalogue import describe\n"
        "from harness.sweep.experiment import load_experiment\n"
        "from harness.sweep.run import plan_experiment\n"
        f"for name in {sorted(sections)!r}:\n"
        f"    file = {str(tmp_path)!r} + '/' + name + '.yaml'\n"
        f"    plan = plan_experiment(load_experiment(file, []), Storage({str(tmp_path / 'none')!r}))\n"
        "    assert plan.to_run == 1\n"
        "assert 'multiply-accumulates an image' in describe(file)\n"
        f"print([name for name in {HEAVY} if name in ('torch', 'ray', 'diffusers', 'optuna')])"
    )
    assert python(program) == "[]"


@pytest.mark.slow
def test_the_report_reads_rows_without_torch_and_ray():
    loaded = python(f"import harness.report.page; print({HEAVY})")
    assert "torch" not in loaded
    assert "ray" not in loaded


LEFT = {"features": "features: {pools: [1]}", "weights": "weights: {k: [2]}"}


# Without it, what is missing in a copy would be found in an editable install.
ALONE = (
    "import sys; sys.meta_path[:] = [one for one in sys.meta_path if 'editable' not in repr(one).lower()]\n"
)


def without(gone, folder):
    """Copies the package into a folder without a study's folder and the studies in it; returns the copy."""
    copy = folder / "harness"
    shutil.copytree(PACKAGE, copy)  # with compiled files, which hold for the copy
    shutil.rmtree(copy / gone)
    registry = copy / "sweep" / "studies.py"
    lines = registry.read_text().splitlines(keepends=True)
    kept = [line for line in lines if f'": "harness.{gone}.' not in line]
    assert len(kept) < len(lines)
    registry.write_text("".join(kept))
    return copy


@pytest.mark.slow
@pytest.mark.parametrize(("gone", "left"), [("weights", "features"), ("features", "weights")])
def test_deleting_one_study_leaves_the_other_working(tmp_path, gone, left):
    copy = without(gone, tmp_path)
    (tmp_path / "mine.yaml").write_text(f"{LEFT[left]}\n")
    (tmp_path / "gone.yaml").write_text(f"{LEFT[gone]}\n")
    program = ALONE + (
        "import harness\n"
        "from harness.core.errors import UserError\n"
        "from harness.core.storage import Storage\n"
        "from harness.sweep.experiment import load_experiment\n"
        "from harness.sweep.run import plan_experiment\n"
        "from harness.sweep.catalogue import catalogue\n"
        "catalogue()\n"
        "plan = plan_experiment(load_experiment('mine.yaml', []), Storage('results'))\n"
        "print(harness.__file__, {trial.study for trial in plan.trials}, plan.to_run > 0)\n"
        "try:\n    load_experiment('gone.yaml', [])\n"
        "except UserError as error:\n    print(error)"
    )
    planned, refused = python(program, path=tmp_path, cwd=tmp_path).splitlines()
    assert planned == f"{copy / '__init__.py'} {{{left!r}}} True"
    assert f"unknown key '{gone}'" in refused
