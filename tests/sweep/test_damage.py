"""Artifacts that are damaged on the disk are found by their checksums, made again, and never read."""

import pickle
import shutil
from pathlib import Path

import pytest
from disturbed import expected, sweeping, undisturbed, write_small
from tables import assert_equal, rows

from harness.cli import main
from harness.core.artifacts import ArtifactStore
from harness.core.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def flip(path):
    """Changes a bit in the middle, where the size tells nothing."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def files(results):
    """Returns kind, key and name of every file of every artifact."""
    store = ArtifactStore(Storage(str(results)))
    kinds = [name for name in store.storage.names("artifacts") if not name.startswith(".")]
    found = [(kind, key) for kind in kinds for key in store.storage.names(f"artifacts/{kind}")]
    return [(kind, key, name) for kind, key in found for name in store.manifest(kind, key)["files"]]


@pytest.fixture
def copied(tmp_path, tmp_path_factory):
    """The artifacts of an undisturbed sweep, without the rows."""
    results = tmp_path / "results"
    shutil.copytree(undisturbed(tmp_path_factory) / "artifacts", results / "artifacts")
    return results


def sweep_again(folder, factory):
    with sweeping(folder, write_small(folder), "--debug") as sweep:
        assert sweep.end() == 0, sweep.log
    assert_equal(rows(sweep.results), expected(factory))
    store = ArtifactStore(Storage(str(sweep.results)))
    for kind, key, name in files(sweep.results):
        store.file(kind, key, name)  # raises if it is not what its manifest says


def test_damaged_files_of_every_kind_are_made_again(copied, tmp_path, tmp_path_factory):
    for number, (kind, key, name) in enumerate(files(copied)):
        (cut if number % 2 else flip)(copied / "artifacts" / kind / key / name)
    sweep_again(tmp_path, tmp_path_factory)


def test_artifacts_whose_manifests_were_cut_off_are_made_again(copied, tmp_path, tmp_path_factory):
    for kind, key in {(kind, key) for kind, key, _ in files(copied)}:
        cut(copied / "artifacts" / kind / key / "manifest.json")
    sweep_again(tmp_path, tmp_path_factory)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return Path.touch, (Path(self.mark),)


def test_nothing_in_a_stranger_s_results_is_run(tmp_path, tmp_path_factory):
    """Every stored file holds a pickle that would leave a mark."""
    results, mark = tmp_path / "results", tmp_path / "mark"
    trap = pickle.dumps(Trap(mark))
    pickle.loads(trap)
    assert mark.exists()
    mark.unlink()
    shutil.copytree(undisturbed(tmp_path_factory), results)
    for path in results.rglob("*"):
        if path.is_file():
            path.write_bytes(trap)
    experiment = write_small(tmp_path)
    for command in ("plan", "report", "sweep", "export"):
        more = {"sweep": ["--debug"], "export": ["--to", str(tmp_path / "out")]}.get(command, [])
        assert main([command, str(experiment), "--results", str(results), *more]) == 2
    (results / "rows" / "SCHEMA.json").unlink()
    shutil.rmtree(results / "rows" / "runs")
    sweep_again(tmp_path, tmp_path_factory)
    assert not mark.exists()
