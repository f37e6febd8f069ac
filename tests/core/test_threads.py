"""Stages and trials compute on one thread, whatever the machine and the environment say."""

import threadpoolctl
import torch

from harness.core.stages import Code, Stage, Trial, run
from harness.core.threads import one_thread

SEEN = {}


def counts():
    pools = {one["num_threads"] for one in threadpoolctl.threadpool_info()}
    return {torch.get_num_threads(), *pools}


def make(stage, folder, context):
    SEEN["stage"] = counts()
    (folder / "file").touch()


def measure(trial, context):
    context.ensure(trial.needs["stage"])
    SEEN["trial"] = counts()
    return {"features": [{}]}


def test_stages_and_trials_have_one_thread(context):
    stage = Stage("thing", Code("thing", 1, "test_threads:make"), {})
    trial = Trial(
        "features",
        "features",
        "test_accuracy",
        Code("probe", 1, "test_threads:measure"),
        axes={},
        config={},
        seed=0,
        data="digits",
        data_fingerprint="d",
        needs={"stage": stage},
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert not run(trial, context, "cpu").failed
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert {"stage": {1}, "trial": {1}} == SEEN


def test_an_error_gives_the_threads_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            raise ZeroDivisionError
    except ZeroDivisionError:
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
