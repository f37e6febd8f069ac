"""A function on every node: what it returns, what fails, what is silent, and nodes that die."""

import os
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def twice(number):
    return 2 * number


def fails():
    raise ValueError("not\nhere")


def dies():
    os._exit(3)


def sleeps():
    time.sleep(60)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes in this process's cluster, the head without CPUs; the second can be removed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # nodes import the functions of this file
        import ray
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "dashboard_port": 0}  # 8265 may be another's
        made = Cluster(initialize_head=True, head_node_args=head)
        second = made.add_node(num_cpus=1)
        ray.init(address=made.address, log_to_driver=False)
        yield made, second
        ray.shutdown()
        made.shutdown()


def test_every_node_runs_the_function_and_errors_are_entries(cluster):
    from harness.sweep.nodes import NodeError, alive, on_every_node

    here = alive()
    assert [node.head for node in here] == [True, False]
    assert len({node.name for node in here}) == 2
    assert here[0].resources.get("CPU", 0) == 0
    assert on_every_node(twice, 21) == [(node, 42) for node in here]
    assert on_every_node(twice, 21, nodes=here[1:]) == [(here[1], 42)]
    assert on_every_node(twice, 21, nodes=[]) == []
    for function, text in (
        (fails, "ValueError: not here"),
        (dies, "died"),
        (sleeps, "no response within 1 s"),
    ):
        answers = on_every_node(function, seconds=60 if function is not sleeps else 1)
        assert all(isinstance(answer, NodeError) and text in str(answer) for _, answer in answers), answers
    assert [answer for _, answer in on_every_node(twice, 1)] == [2, 2]


def test_a_node_without_the_functions_module_is_an_error_entry(cluster, tmp_path, monkeypatch):
    from harness.sweep.nodes import on_every_node

    (tmp_path / "only_here.py").write_text("def one():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here

    messages = {str(answer) for _, answer in on_every_node(only_here.one)}
    assert messages == {"RaySystemError: System error: No module named 'only_here'"}


def test_a_node_that_is_gone_is_an_error_entry_beside_the_others(cluster):
    from harness.sweep.nodes import NodeError, alive, on_every_node

    made, second = cluster
    before = alive()
    made.remove_node(second)
    (_, ours), (_, gone) = on_every_node(twice, 3, nodes=before)
    assert ours == 6
    assert isinstance(gone, NodeError)
    assert "\n" not in str(gone)
    assert len(alive()) == 1
