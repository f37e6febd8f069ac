"""cluster.yaml is what Ray's launcher accepts, and keeps its doors shut."""

from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow
FILE = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture(scope="module")
def config():
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load(FILE.read_text()))
    validate_config(prepared)
    return prepared


def test_the_head_runs_no_trials_and_workers_start_from_none(config):
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    workers = {name: kind for name, kind in types.items() if name != config["head_node_type"]}
    assert all(kind["min_workers"] == 0 for kind in workers.values())
    assert any(kind["node_config"].get("InstanceMarketOptions") for kind in workers.values())
    assert config["idle_timeout_minutes"] > 0


def test_the_dashboard_listens_on_localhost_and_ray_is_the_pinned_one(config):
    start = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in FILE.read_text()
    import ray

    assert f"ray[default,train,tune]=={ray.__version__}" in " ".join(config["setup_commands"])
