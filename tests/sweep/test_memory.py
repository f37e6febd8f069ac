"""Work for which a machine has no memory: a row that says so, while the rest goes on."""

import pandas as pd
import pytest
from disturbed import sweeping, undisturbed, write_small
from tables import rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CRASHES = 3  # as in harness.sweep.cluster, which imports Ray
SPARE = 5 * 2**30  # bytes that the machine may take beside what it has taken, by others than the test too


def monitored():
    """Returns the variables with which Ray kills tasks when the machine has taken `SPARE` more."""
    from ray._private.utils import get_system_memory, get_used_memory

    if get_system_memory() - get_used_memory() < 2 * SPARE:
        pytest.skip("too little memory is free")
    fraction = (get_used_memory() + SPARE) / get_system_memory()
    return {"RAY_memory_usage_threshold": f"{fraction:.4f}", "RAY_memory_monitor_refresh_ms": "100"}


@pytest.mark.parametrize(
    ("how", "mode", "said", "times"),
    [
        ("raise", ("--debug",), "MemoryError: cannot have that much", 1),
        ("kill", ("--address", "local"), "died", 1 + CRASHES),
        ("allocate", ("--address", "local"), "memory", 1 + CRASHES),
    ],
    ids=["raise", "kill", "allocate"],
)
def test_a_trial_without_memory_is_a_failed_row_beside_the_others(
    tmp_path, tmp_path_factory, how, mode, said, times
):
    experiment = write_small(tmp_path)
    calm = undisturbed(tmp_path_factory)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "artifacts").symlink_to(calm / "artifacts")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "pixels").write_text(how)
    variables = monitored() if how == "allocate" else {}
    with sweeping(tmp_path, experiment, *mode, "--set", "weights=null", **variables) as sweep:
        assert sweep.end() == 1, sweep.log
    table = rows(sweep.results)["features"].set_index("features")
    assert table.loc["pixels"].status == "failed"
    assert said in table.loc["pixels"].error
    expected = rows(calm)["features"].set_index("features")
    pd.testing.assert_frame_equal(
        table.drop("pixels"), expected.drop("pixels"), check_exact=True, check_dtype=False
    )
    assert (
        sweep.log.count("features pixels, head patient: its machine was lost or its process died")
        == times - 1
    )
