"""Ray Train and the calling process resume each other's training."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.core.artifacts import ArtifactStore
from harness.core.stages import Code, Context, Stage
from harness.core.storage import Storage
from harness.training.config import TrainConfig
from harness.training.launch import train
from harness.training.tasks import Classification

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # Ray warns of itself
]
CONFIG = {"steps": 9, "batch": 4, "checkpoint_every": 2, "ema": 0.5}


class Noting(Classification):
    """Notes each step in a file; fails at the step that the file `dies` says, once."""

    def __init__(self, notes):
        torch.manual_seed(0)
        super().__init__(lambda: nn.Linear(2, 2), torch.randn(20, 2), torch.arange(20) % 2)
        self._notes = Path(notes)

    def loss(self, *arguments):
        dies = self._notes / "dies"
        with (self._notes / "steps").open("a") as file:
            file.write("step\n")
        if dies.exists() and len((self._notes / "steps").read_text().split()) == int(dies.read_text()):
            dies.unlink()
            raise OSError("the machine is gone")
        return super().loss(*arguments)


def noting(stage, context):
    return Noting(stage.config["notes"])


@pytest.fixture(scope="module")
def cluster():
    import ray

    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [path])])
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    os.environ.pop("PYTHONPATH") if path is None else os.environ.update(PYTHONPATH=path)


@pytest.mark.parametrize("first", ["ray", "debug"])
def test_either_resumes_what_the_other_began(first, cluster, tmp_path):
    def weights(folder, *modes):
        for name in ("notes", "out"):
            (folder / name).mkdir(parents=True)
        stage = Stage("network", Code("network", 1, "maker"), {"notes": str(folder / "notes")})
        store = ArtifactStore(Storage(str(folder / "results")))
        for number, mode in enumerate(modes):
            last = number == len(modes) - 1
            context = Context(store, {"run": "test-run"}, ray=mode == "ray", accelerators=False)
            given = ("test_launch:noting", stage, TrainConfig(**CONFIG), 0, folder / "out", context)
            if last:
                train(*given)
                continue
            (folder / "notes" / "dies").write_text("6")
            with pytest.raises((OSError, RuntimeError), match="the machine is gone"):
                train(*given)
        assert store.storage.names("artifacts/checkpoint") == []
        return (folder / "out" / "ema.safetensors").read_bytes(), (folder / "notes" / "steps").read_text()

    whole, steps = weights(tmp_path / "whole", "debug")
    assert steps.count("step") == 9
    second = "debug" if first == "ray" else "ray"
    resumed, steps = weights(tmp_path / "resumed", first, second)
    assert steps.count("step") == 6 + 9 - 4  # the checkpoint of step 4 was the last
    assert resumed == whole
