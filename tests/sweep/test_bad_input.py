"""Bad input ends with status 2 and one line that says what is wrong, and leaves the results as they were."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.cli import main
from harness.core.fingerprint import digest
from harness.core.sealed import sealed
from harness.core.tables import SCHEMA_VERSION
from harness.sweep import studies

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{letter}: &{letter} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, letter in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture
def refuse(capsys, tmp_path):
    """Runs a command and checks all that holds for every bad input."""

    def run(*arguments, results=None, words=()):
        results = tmp_path / "results" if results is None else results
        before = contents(tmp_path)
        status = main([*map(str, arguments), "--results", str(results)])
        output = capsys.readouterr()
        assert status == 2, output
        assert output.out == ""
        assert output.err.count("\n") == 1, output.err
        assert output.err.startswith("harness: ")
        assert len(output.err) < 1000
        assert contents(tmp_path) == before
        for word in [words] if isinstance(words, str) else words:
            assert word in output.err, output.err

    return run


def contents(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def settings(*values):
    return [argument for value in values for argument in ("--set", value)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1,\nb: 2", ["line 2", "not valid YAML"]),
        ("a:\n\t- b", ["line 2", "not valid YAML"]),
        ("", ["expected a mapping", "the file is empty"]),
        ("# nothing but this", "the file is empty"),
        ("- 1\n- 2", ["expected a mapping", "list"]),
        ("hello", ["expected a mapping", "str"]),
        (bytes(range(256)), ["cannot be read", "UTF-8"]),
        (b"a: b\0c", "not valid YAML"),
        (BOMB, "more than 10,000 values"),
        ("a: &a [*a]", "contains itself"),
        ("features: &a {b: *a}", "contains itself"),
        ("a: " + "[" * 5000 + "]" * 5000, "too deep"),
        ("a: " + "{b: " * 200 + "1" + "}" * 200, "too deep"),
        ("1: 2", ["unknown key '1'", "known: cka, data"]),
        ("null: 1", "unknown key 'null'"),
        ("off: 1", "unknown key 'off'"),
        ("? [1, 2]\n: 3", "a key must be a plain string"),
        ("2020-01-01: 3", ["2020-01-01", "quotes"]),
        ("seed: 1\nseed: 2", ["line 2", "'seed' is given twice"]),
        ("features: {batch: 1, batch: 2}", "'batch' is given twice"),
        ("seed: 2020-01-01", ["YAML reads 2020-01-01 as a date", "quotes"]),
        ("seed: !!python/object/apply:os.getcwd []", "not allowed"),
        ("seed: !!binary aGVsbG8=", "not allowed"),
        ("seed: *x", "undefined alias"),
        ("features: {}\n---\nfeatures: {}", "another document"),
        ('name: "\\ud800"\nfeatures: {}', "not valid YAML"),
        ("seed: .nan\nfeatures: {}", ["seed = NaN", "integer"]),
        ("seed: " + "9" * 5000, "5000 digits"),
        ("seed: 99999999999999999999\nfeatures: {}", ["seed = 99999999999999999999", "64 bits"]),
        ("features: {train: {learning_rate: .inf}}", ["learning_rate = Infinity", "finite"]),
        ("features: {train: {learning_rate: 1e-3x}}", ["learning_rate", "valid number"]),
        ("seed: 1", ["no study", "features, cka, finetune, generation, weights"]),
        ("features: null", "no study"),
        ("featurs: {}", ["unknown key 'featurs'", "did you mean 'features'?"]),
        ("features: all", ['features = "all"', "expected a mapping", "timesteps"]),
        ("data: digits\nfeatures: {}", ['data = "digits"', "expected a mapping", "name"]),
        ("name: 'a\u2028b'\nfeatures: {}", ["name", "letters, digits"]),
        ('"a\\nb": 1', "unknown key 'a\\nb'"),
        ("? " + "k" * 3000 + "\n: 1", "unknown key 'kkk"),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, str | bytes) else None,
)
def test_a_file_that_is_no_experiment_is_refused(refuse, tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refuse("plan", path, words=["mine.yaml", *([words] if isinstance(words, str) else words)])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quikstart", ["unknown experiment 'quikstart'", "did you mean 'quickstart'?"]),
        ("quikstart.yaml", ["no such file", "did you mean 'quickstart'?"]),
        ("", "unknown experiment ''"),
        ("/", "unknown experiment '/'"),
        ("a\0b", "unknown experiment"),
        ("x" * 5000, "too long"),
    ],
    ids=["near", "near file", "empty", "root", "null character", "long"],
)
def test_an_experiment_that_does_not_exist_is_refused_with_the_nearest(refuse, name, words):
    refuse("plan", name, words=words)
    refuse("sweep", name, words=words)


SETTINGS = [
    # what --set itself cannot do
    ("seed", "expected path=value"),
    ("=1", "expected path=value"),
    ("seed..x=1", "expected path=value"),
    ("seed=[1", "not valid YAML"),
    ("seed=*x", "not valid YAML"),
    ("seed=&a [*a]", "contains itself"),
    ("seed.deep=1", "'seed' holds 0, not a mapping"),
    ("features.timesteps.99=1", "'99' is not an index in a list of"),
    ("features.timesteps.x=1", "'x' is not an index"),
    # keys
    ("sed=1", ["unknown key 'sed'", "'seed'"]),
    ("data.nam=digits", ["'data.nam'", "'name'"]),
    ("features.train.step=1", ["'features.train.step'", "'steps'"]),
    ("features.backbone.layers_per_blok=1", ["features.backbone", "'layers_per_blok'", "'layers_per_block'"]),
    ("features.heads=[{name: linear, strength: [1.0]}]", ["features.heads.0", "'strength'", "'strengths'"]),
    ("features.heads=[{name: mlp, train: {stepz: 1}}]", ["features.heads.0", "'train.stepz'", "'steps'"]),
    ("weights.controls=[{name: noise, scale: [1.0]}]", ["weights.controls.0", "'scale'", "'scales'"]),
    # names of parts
    ("data.name=digit", ["unknown data set 'digit'", "'digits'"]),
    ("features.backbone=unt", ["unknown backbone 'unt'", "'unet'"]),
    ("features.heads=[linaer]", ["unknown head 'linaer'", "'linear'"]),
    ("weights.controls=[nois]", ["unknown control 'nois'", "'noise'"]),
    ("features.controls=[pixel]", ["features.controls.0", "did you mean 'pixels'?"]),
    ("features.train.optimizer=adam", ["did you mean 'adamw'?", "'sgd'"]),
    ("search.name=gird", ["search.name", "did you mean 'grid'?"]),
    ("search=atuo", ["search", "did you mean 'auto'?"]),
    ("features.heads.0=3", ["features.heads.0", "expected a head by name", "linear, ridge, mlp"]),
    ("features.backbone={}", ["expected a backbone by name", "unet"]),
    # types; a union's options have names that are nobody's business
    ("features.blocks=al", ["unknown block 'al'", "did you mean 'all'?"]),
    ("features.blocks=[x]", ["unknown block 'x'", "a number from 1 to"]),
    ("features.blocks=[up_block.0.resnets.0]", "did you mean 'up_blocks."),
    ("features.blocks=[mid, up, 9]", "features.blocks: 9 is given twice"),
    ("features.timesteps=[{sigma: 1000}]", "sigma 1000 is not between 0.01 and 157"),
    ("features.timesteps=[{sigma: 1, fraction: 0.5}]", "one of {fraction: 0.09}"),
    ("features.timesteps=[{sgma: 1}]", ["features.timesteps.0: ", "'sgma'", "did you mean 'sigma'?"]),
    ("features.timesteps=[{sigma: x}]", "features.timesteps.0.sigma = 'x': "),
    ("features.blocks=5", "such as [5]"),
    ("features.train.workers=many", 'features.train.workers = "many"'),
    ("features.train.workers=1.5", "features.train.workers = 1.5"),
    ("features.timesteps=5", "such as [5]"),
    ("features.timesteps=[true]", "features.timesteps.0 = true"),
    ("features.heads=linear", "such as [linear]"),
    ("seed=x", 'seed = "x"'),
    ("seed=null", "seed = null"),
    # ranges
    ("seed=-1", "seed = -1"),
    ("seed=9223372036854775808", "64 bits"),
    ("features.timesteps=[1000]", "1000 is not between 0 and 999"),
    ("features.timesteps=[-1]", "-1 is not between 0 and 999"),
    ("features.timesteps=[]", "at least 1"),
    ("features.timesteps=[5, 5]", "5 is given twice"),
    ("features.blocks=[99]", "block 99: this backbone has blocks 1 to"),
    ("features.blocks=[0]", "block 0"),
    ("features.blocks=[]", ["features.blocks", "at least 1"]),
    ("features.blocks=[2, 2]", "2 is given twice"),
    ("features.pools=[9]", ["features.pools", "9 is not between 1 and"]),
    ("features.pools=[0]", "0 is not between"),
    ("features.heads=[linear, linear]", "'linear' is given twice; give each a label"),
    ("features.heads=[{name: linear, strengths: []}]", ["features.heads.0", "strengths"]),
    ("features.heads=[{name: linear, strengths: [-1.0]}]", "strengths.0 = -1.0"),
    (
        "features.heads=[{name: mlp, hidden: [0]}]",
        ["features.heads.0.hidden.0 = 0", "greater than or equal to 1"],
    ),
    ("features.controls=[pixels, pixels]", "'pixels' is given twice"),
    ("features.draws=0", "features.draws = 0"),
    ("features.train.steps=-1", "features.train.steps = -1"),
    ("features.train.workers=-1", ["features.train.workers = -1", "[min, max]"]),
    ("features.train.workers=[]", "[min, max]"),
    ("features.train.workers=[3, 1]", "min <= max"),
    ("features.train.workers=[0, 1]", "1 <= min"),
    ("features.train={batch: 2, workers: 3}", ["more workers than the 2 samples", "larger batch"]),
    ("weights.diffusion.train.workers=[2, 1]", "weights.diffusion.train.workers = [2, 1]"),
    ("weights.checkpoints.workers=-1", "weights.checkpoints.workers = -1"),
    ("features.heads=[{name: mlp, train: {workers: -1}}]", "features.heads.0.train.workers = -1"),
    ("features.backbone.block_out_channels=[]", "features.backbone.block_out_channels = []"),
    ("features.backbone.block_out_channels=[12]", "12: not divisible by norm_num_groups 8"),
    ("features.backbone.block_out_channels=[-8]", "-8"),
    ("features.backbone.attention_head_dim=64", "attention_head_dim 64"),
    ("features.backbone.layers_per_block=1000000", "layers_per_block = 1000000"),
    ("features.backbone={name: unet, block_out_channels: [8, 8, 8, 8]}", "nothing to normalise"),
    ("data.labels_per_class=0", "data.labels_per_class = 0"),
    ("data.labels_per_class=5000", ["class '0' has", "training images"]),
    ("data.channels=2", ["data.channels = 2", "1 or 3"]),
    ("data.size=9", "cannot be halved"),
    ("data.validation=0.9", ["no images left for train", "data.validation = 0.9"]),
    ("data.path=/my/images", ["reads no files", "folder"]),
    ("weights.k=[0]", "0 is less than 1"),
    ("weights.k=[-3]", "-3 is less than 1"),
    ("weights.k=[10, 10]", "10 is given twice"),
    ("weights.checkpoints.size=5", "not between 1 and 5"),
    ("weights.subsets=[first, first]", "'first' is given twice"),
    ("weights.parameters=[nom]", ["'nom' names no parameter", "did you mean 'norm'"]),
    ("weights.parameters=[norm2, norm2]", "'norm2' is given twice"),
    ("weights.parameters=['']", "weights.parameters.0"),
    ("weights.network.channels=[6]", ["weights.network.channels = 6", "not divisible by groups = 4"]),
    ("weights.network={name: convnet, channels: [4, 4, 4, 4], groups: 4}", ["conv4", "nothing to normalise"]),
    ("weights.autoencoder.channels=[0]", "weights.autoencoder.channels.0 = 0"),
    (
        "weights.autoencoder.channels=[1, 1, 1, 1, 1, 1, 1, 1, 1]",
        ["9 strided layers", "at least 257", "128 vary"],
    ),
    ("weights.autoencoder.kernel=4", "must be odd"),
    ("weights.autoencoder.latent=0", "weights.autoencoder.latent = 0"),
    ("weights.diffusion.kernel=4", "must be odd"),
    ("weights.diffusion.channels=[]", "weights.diffusion.channels"),
    ("weights.sampling_steps=2000", ["weights.sampling_steps = 2000", "diffusion.timesteps = 1000"]),
    ("weights.controls=[noise, noise]", "'noise' is given twice"),
    ("weights.controls=[{name: noise, scales: [-1.0]}]", "scales.0 = -1.0"),
    # names
    ("name=a/b", ['name = "a/b"', "letters, digits"]),
    ("name=..", "letters, digits"),
    ("name=rows", ["reserved for a folder of the results", "another"]),
    ("name=Artifacts", "reserved for a folder"),
    ("name=" + "x" * 200, "at most 100"),
    # backbones
    ("features.backbone=pretrained", "'path' is missing"),
    (
        "features.backbone={name: pretrained, path: /no/such}",
        ["/no/such", "no such folder", "save_pretrained"],
    ),
    ("features.backbone={name: pretrained, path: ''}", "no such folder"),
]


@pytest.mark.parametrize(("setting", "words"), SETTINGS, ids=[setting[:60] for setting, _ in SETTINGS])
def test_a_setting_that_cannot_be_is_refused(refuse, setting, words, capsys):
    refuse("plan", "quickstart", *settings(setting), words=words)


@pytest.mark.parametrize("setting", [setting for setting, _ in SETTINGS][::12])
def test_a_sweep_refuses_before_it_starts(refuse, setting):
    refuse("sweep", "quickstart", "--debug", *settings(setting))


def test_pydantics_names_of_a_unions_options_are_not_shown(capsys):
    for setting in ("features.blocks=al", "features.train.workers=many", "features.heads=[3]"):
        main(["plan", "quickstart", *settings(setting)])
    shown = capsys.readouterr().err
    for word in ("literal[", "list[int]", "function-", "workers.int", "(and 1 more)", "https://"):
        assert word not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["swep"], ["'swep'", "'sweep'", "--help"]),
        (["plan", "--sett", "a=1"], "--sett"),
        (["plan", "quickstart", "more"], "more"),
        (["plan", "--set"], "--set"),
        (["describe", "linaer"], "did you mean 'linear'?"),
        (["report", "no-such"], "no tables of experiment 'no-such'"),
    ],
)
def test_an_unknown_command_or_flag_is_one_line(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in [words] if isinstance(words, str) else words:
        assert word in error
    assert not list(tmp_path.iterdir())


# Results folders


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("foo://x", ["foo://x", "known: file"]),
        ("htps://x/y", "known: file"),
        ("https://example.org/x", "known: file"),
        ("", "expected a folder or a URL"),
        ("/", "the root of the file system"),
        ("x" * 5000, "too long"),
        ("a\0b", "expected a folder"),
        ("~no-such-user/x", "home"),
        (f"{__file__}", "is not a folder"),
        (f"{__file__}/below", "is not a folder"),
    ],
    ids=[
        "protocol",
        "misspelt",
        "read only",
        "empty",
        "root",
        "long",
        "null",
        "user",
        "file",
        "below a file",
    ],
)
@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_a_results_folder_that_cannot_be_is_refused(refuse, command, url, words):
    refuse(command, "quickstart", results=url, words=words)


def test_a_results_folder_that_cannot_be_written_is_refused(refuse, tmp_path):
    refuse("sweep", "quickstart", "--debug", results="/proc/results", words="/proc/results cannot be written")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "artifacts").write_text("")
    refuse(
        "sweep",
        "quickstart",
        "--debug",
        results=tmp_path / "odd",
        words="artifacts inside it is not a folder",
    )


NEWER = SCHEMA_VERSION + 1


def part(table, metadata):
    sink = io.BytesIO()
    pq.write_table(table.empty_table().replace_schema_metadata(metadata), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "SCHEMA.json",
            f'{{"schema_version": {NEWER}}}',
            [f"version {NEWER}", "install a newer version of harness"],
        ),
        ("SCHEMA.json", "{", ["SCHEMA.json", "restore or remove"]),
        ("SCHEMA.json", "", "restore or remove"),
        ("SCHEMA.json", "[]", "restore or remove"),
        ("SCHEMA.json", "{}", "restore or remove"),
        ("SCHEMA.json", '{"schema_version": null}', "restore or remove"),
        ("SCHEMA.json", '{"schema_version": 1e999}', "restore or remove"),
        ("SCHEMA.json", b"\xff\xfe", "restore or remove"),
        ("SCHEMA.json/x", "", "restore or remove"),
        ("run/000001.jsonl", f'{{"v": {NEWER}}}\n', ["000001.jsonl", f"version {NEWER}"]),
        ("runs/000001.json", "{", ["000001.json", "restore or remove"]),
        (
            "run/features.parquet",
            part(studies.tables()["features"].schema, {"harness_schema_version": str(NEWER)}),
            ["features.parquet", f"version {NEWER}"],
        ),
        (
            "run/features.parquet",
            part(studies.tables()["features"].schema, {"harness_schema_version": "x"}),
            "features.parquet",
        ),
        ("run/features.parquet", part(pa.schema({"block": pa.string()}), {}), ["features.parquet", "block"]),
        ("run/features.parquet", b"junk", ["features.parquet", "not a readable Parquet file"]),
    ],
)
def test_results_of_a_newer_or_broken_schema_are_left_alone(refuse, tmp_path, name, content, words):
    path = tmp_path / "results" / "rows" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    ended = sealed({"tables": {"features": {"rows": 1, **digest(path.read_bytes())}}})
    for beside, text in (("runs/000001.json", sealed({"run": "run"})), ("run/tables.json", ended)):
        other = tmp_path / "results" / "rows" / beside
        if (
            name.startswith("run/")
            and not other.exists()
            and not (name.endswith("jsonl") and "tables" in beside)
        ):
            other.parent.mkdir(exist_ok=True)
            other.write_text(text)
    refuse("plan", "quickstart", words=words)
    refuse("sweep", "quickstart", "--debug", words=words)


@pytest.mark.parametrize(
    ("name", "content"),
    [("run/tables.json", "[]"), ("run/features.parquet", "junk"), ("run/000001.jsonl", "junk\n")],
)
def test_damaged_rows_are_named_in_the_plan_and_their_trials_are_missing(tmp_path, capsys, name, content):
    rows = tmp_path / "rows"
    ended = sealed({"tables": {"features": {"rows": 1, **digest(b"other")}}})
    files = {"runs/000001.json": sealed({"run": "run"}), name: content}
    if not name.endswith("jsonl"):
        files = {"run/tables.json": ended, **files}
    for path, text in files.items():
        (rows / path).parent.mkdir(parents=True, exist_ok=True)
        (rows / path).write_text(text)
    assert main(["plan", "quickstart", "--results", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    (line,) = facts["damage"]
    assert f"{rows / name} is damaged" in line
    assert facts["missing"] == facts["trials"]
    assert main(["plan", "quickstart", "--results", str(tmp_path)]) == 0
    assert line in capsys.readouterr().out


# Data sets

SMALL = settings(
    "weights=null",
    "features={backbone: {name: unet, block_out_channels: [8]}, timesteps: [1], pools: [1]}",
    "data.labels_per_class=null",
)


def png(width=8, height=8):
    sink = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def images(count=20, labels=None, first=None):
    content = [first, *[png()] * (count - 1)] if first is not None else [png()] * count
    numbers = [place % 2 for place in range(count)] if labels is None else labels
    return pa.table({"image": pa.array(content, pa.binary()), "label": numbers})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pa.table({"a": [1], "b": ["x"]}), ["no image column", "data.image_column", "known: a, b"]),
        (images().drop_columns("label"), ["no label column", "data.label_column"]),
        (images().rename_columns(["image", "lable"]), ["no label column", "lable"]),
        (images(labels=["x"] * 20), ["one class", "needs two"]),
        (images(labels=[-2] * 20), ["row 0", "label -2", "a class number"]),
        (images(labels=[-1] * 20), "no image has a label"),
        (images(labels=pa.array([None] * 20, pa.int64())), "no image has a label"),
        (images(labels=[10**12] * 20), "class number 1000000000000"),
        (images(labels=[0] * 20), ["one class", "needs two"]),
        (images(first=b"junk"), ["row 0", "the image cannot be read"]),
        (images(first=png(64, 64)[:60]), ["row 0", "the image cannot be read"]),
        (images(first=png(9, 8)), ["row ", "pixels where the first image has", "data.size"]),
        (images(first=png(9, 8)).slice(0, 1), "no images left"),
        (b"junk", ["train.parquet", "cannot be read"]),
        (b"", ["train.parquet", "cannot be read"]),
    ],
)
def test_a_parquet_file_that_is_no_data_set_is_refused(refuse, tmp_path, table, words):
    path = tmp_path / "data" / "train.parquet"
    path.parent.mkdir()
    path.write_bytes(table) if isinstance(table, bytes) else pq.write_table(table, path)
    chosen = settings("data.name=parquet", f"data.path={path.parent}")
    refuse("plan", "quickstart", *SMALL, *chosen, words=words)


@pytest.mark.parametrize("name", ["parquet", "folder"])
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("null", "data.path is missing"),
        ("''", "data.path is missing"),
        ("/no/such/place", ["/no/such/place", "does not exist"]),
        ("~no-such-user/x", "not a valid path"),
        ("x" * 5000, "not a valid path"),
        ("empty", ["empty", "in"]),
    ],
    ids=["null", "empty text", "missing", "user", "long", "empty folder"],
)
def test_a_data_set_that_is_not_there_is_refused(refuse, tmp_path, monkeypatch, name, path, words):
    (tmp_path / "empty").mkdir()
    path = tmp_path / path if path == "empty" else path
    refuse("plan", "quickstart", *SMALL, *settings(f"data.name={name}", f"data.path={path}"), words=words)


def test_an_image_of_a_folder_that_cannot_be_read_is_named(refuse, tmp_path):
    for number in range(20):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    chosen = [*SMALL, *settings("data.name=folder", f"data.path={tmp_path / 'data'}")]
    path.write_bytes(b"")
    refuse("plan", "quickstart", *chosen, words=["b/19.png", "the image cannot be read"])
    path.write_bytes(png(10, 12))
    refuse("plan", "quickstart", *chosen, words=["pixels where the first image has", "data.size"])
    path.write_bytes(png())
    shutil.rmtree(tmp_path / "data" / "a")
    refuse("plan", "quickstart", *chosen, words="one class")


# Backbones


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    from harness.models.backbones.denoiser import save_pipeline
    from harness.models.backbones.family import build_network
    from harness.models.backbones.unet import UNet

    plan = UNet(block_out_channels=[8]).plan(8, 1)
    folder = tmp_path_factory.mktemp("backbone") / "pipeline"
    save_pipeline(build_network(plan.config), plan.process, folder)
    return folder


def edit(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
CONFIG = "unet/config.json"
DAMAGES = {
    "no weights": (
        lambda at: (at / WEIGHTS).unlink(),
        ["diffusion_pytorch_model.safetensors", "save_pretrained"],
    ),
    "junk weights": (lambda at: (at / WEIGHTS).write_bytes(b"junk"), "not the weights: no safetensors file"),
    "cut weights": (
        lambda at: (at / WEIGHTS).write_bytes((at / WEIGHTS).read_bytes()[:-9]),
        ["is cut off", "copy or download it again"],
    ),
    "other widths": (lambda at: edit(at / CONFIG, block_out_channels=[32]), "config.json says [32, 1, 3, 3]"),
    "no config": (lambda at: (at / CONFIG).unlink(), ["config.json", "cannot be read"]),
    "junk config": (lambda at: (at / CONFIG).write_text("{"), "cannot be read"),
    "list": (lambda at: (at / CONFIG).write_text("[]"), "expected a JSON object"),
    "class": (
        lambda at: edit(at / CONFIG, _class_name="UNet1DModel"),
        ["UNet1DModel", "a network of sequences with one dimension"],
    ),
    "size": (lambda at: edit(at / CONFIG, sample_size=32), ["32 pixels", "data.size=32"]),
    "rectangle": (lambda at: edit(at / CONFIG, sample_size=[8, 8]), ["sample_size", "positive integer"]),
    "levels": (lambda at: edit(at / CONFIG, block_out_channels=[8, 8]), "expected 2 of DownBlock2D"),
    "kinds": (lambda at: edit(at / CONFIG, up_block_types=["SkipUpBlock2D"]), "expected 1 of UpBlock2D"),
    "layers": (lambda at: edit(at / CONFIG, layers_per_block="x"), "layers_per_block = 'x'"),
    "groups": (lambda at: edit(at / CONFIG, norm_num_groups=3), "norm_num_groups = 3"),
    "classes": (lambda at: edit(at / CONFIG, num_class_embeds=10), "'class_embedding.weight' is missing"),
    "schedule": (
        lambda at: edit(at / "scheduler/scheduler_config.json", num_train_timesteps=0),
        "num_train_timesteps = 0",
    ),
    "betas": (
        lambda at: edit(at / "scheduler/scheduler_config.json", beta_schedule="x"),
        "beta_schedule = 'x'",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_pretrained_backbone_that_cannot_be_used_is_refused(refuse, saved, tmp_path, damage):
    folder = tmp_path / "backbone"
    shutil.copytree(saved, folder)
    spoil, words = DAMAGES[damage]
    spoil(folder)
    features = f"features={{timesteps: [1], pools: [1], backbone: {{name: pretrained, path: {folder}}}}}"
    refuse("plan", "quickstart", *settings("weights=null", features), words=words)


# As it is started


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_named_at_once(tmp_path, address):
    command = [sys.executable, "-m", "harness.sweep", *SMALL, "--address", address]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"harness: no Ray cluster responds at {address}: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["harness.sweep", "quikstart"],
        ["harness.sweep", "--set", "features.timesteps=[5000]"],
        ["harness.sweep", "--results", "foo://x"],
        ["harness.sweep", "--nonsense"],
        ["harness", "swep"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_the_program_itself_ends_with_one_line_and_status_2(tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
