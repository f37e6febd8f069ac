"""Whatever is written in an experiment: it can be planned, or is refused in one line."""

import copy
from functools import lru_cache

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.config import read_yaml
from harness.core.errors import UserError
from harness.data import dataset
from harness.sweep import plan
from harness.sweep.experiment import find_experiment, load_experiment

QUICKSTART = read_yaml(find_experiment("quickstart"))
RICH = {
    "name": "rich",
    "seed": 3,
    "data": {"name": "digits", "size": 8, "channels": 3, "validation": 0.2, "test": 0.3, "max_train": 500},
    "search": {"name": "tpe", "trials": 5},
    "features": {
        "backbone": {
            "name": "unet",
            "block_out_channels": [8, 16],
            "attention": [False, True],
            "layers_per_block": 1,
        },
        "train": {"steps": 5, "batch": 4, "learning_rate": 0.1, "ema": 0.9, "clip": 1.0, "workers": [1, 2]},
        "blocks": "all",
        "timesteps": [1, 7],
        "pools": [1, 2],
        "heads": ["linear", {"name": "mlp", "hidden": [4], "train": {"steps": 2, "batch": 4}}],
        "draws": 2,
        "controls": ["pixels"],
    },
    "weights": {
        "network": {"name": "convnet", "channels": [8, 8], "groups": 4},
        "train": {"steps": 5, "batch": 4},
        "parameters": ["norm2", "fc"],
        "checkpoints": {"every": 2, "learning_rate": 0.1, "held_out": 2, "size": 6, "workers": 0},
        "k": [2, 3],
        "subsets": ["first", "random"],
        "autoencoder": {"channels": [4, 4], "kernel": 3, "latent": 4, "train": {"steps": 2, "workers": 0}},
        "diffusion": {"channels": [4, 8], "kernel": 3, "timesteps": 50, "train": {"steps": 2, "workers": 0}},
        "generate": 3,
        "sampling_steps": 10,
        "controls": ["gaussian", {"name": "noise", "scales": [0.1, 0.2]}, {"name": "average", "of": 2}],
    },
}
MOST_TRIALS = 20_000  # what a mutation may make a grid: lists stay short

PROFILE = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**70), 10**90, 999, 1000, 1.0, 0.5, -0.5, 1e-300, 1e300])
    | st.sampled_from([float("nan"), float("inf"), -float("inf"), 0.0, -0.0])
    | st.sampled_from(
        [
            "",
            " ",
            "all",
            "linear",
            "unet",
            "pretrained",
            "digits",
            "folder",
            "rows",
            "..",
            "a/b",
            "é\u2028",
            "\x07",
        ]
    )
    | st.text(max_size=6)
)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Yields the path of every value below `value`."""
    for step, below in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, step)
        if isinstance(below, dict | list):
            yield from places(below, (*path, step))


@st.composite
def mutated(draw):
    values = copy.deepcopy(draw(st.sampled_from([QUICKSTART, RICH])))
    for _ in range(draw(st.integers(1, 3))):
        here = list(places(values))
        if not here:
            break
        *above, last = draw(st.sampled_from(here))
        holder = values
        for step in above:
            holder = holder[step]
        _change(draw, values, holder, last)
    return values


def _change(draw, values, holder, last):
    kind = draw(
        st.sampled_from(["replace", "replace", "scalar", "delete", "double", "rename", "wrap", "move"])
    )
    old = holder[last]
    if kind == "replace":
        holder[last] = draw(junk)
    elif kind == "scalar":
        holder[last] = draw(scalars)
    elif kind == "delete":
        del holder[last]
    elif kind == "wrap":
        holder[last] = draw(st.sampled_from([[old], {"name": old}, [old, old], str(old)]))
    elif kind == "double" and isinstance(holder, list):
        holder.append(old)
    elif kind == "rename" and isinstance(holder, dict):
        del holder[last]
        holder[draw(st.sampled_from([str(last)[:-1], str(last).upper(), "", "name", "0", "null"]))] = old
    elif kind == "move":
        values[str(last)] = copy.deepcopy(old)


@pytest.fixture(scope="module", autouse=True)
def cheap_data():
    """Reads the digits once for all experiments that only differ elsewhere."""
    read = lru_cache(maxsize=64)(dataset.load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "load", read)
        yield


def outcome(path, given=()):
    """Plans an experiment; returns its trials, or None if it was refused in one line."""
    try:
        experiment = load_experiment(str(path), list(given))
        trials = plan.all_trials(experiment, dataset.Images.read(experiment.data, experiment.seed))
        keys = [trial.key for trial in trials]  # values without a fingerprint would fail here
    except UserError as error:
        message = str(error)
        assert message
        assert len(message.splitlines()) == 1, message
        assert len(message) < 1500, message
        for word in ("function-", "literal[", "errors.pydantic.dev", "Traceback"):
            assert word not in message, message
        return None
    assert trials
    assert len(trials) <= MOST_TRIALS
    assert len(set(keys)) == len(keys)
    return trials


@pytest.mark.slow
@settings(PROFILE, max_examples=150)
@given(values=mutated())
def test_a_mutated_experiment_is_planned_or_refused_in_one_line(tmp_path, values):
    path = tmp_path / "mutated.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    outcome(path)


@settings(PROFILE, max_examples=75)
@given(
    text=st.text(max_size=60)
    | st.text(alphabet="ab:-[]{}&*!?|>'\"#%@`,.0123456789 \n\t", max_size=60)
    | st.lists(
        st.sampled_from(
            [
                "features",
                "weights",
                "data",
                ": ",
                "\n",
                "  ",
                "{",
                "}",
                "[",
                "]",
                "&a ",
                "*a",
                "<<",
                "- ",
                "1",
            ]
        )
    ).map("".join)
)
def test_any_text_is_planned_or_refused_in_one_line(tmp_path, text):
    path = tmp_path / "text.yaml"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    outcome(path)


@settings(PROFILE, max_examples=50)
@given(content=st.binary(max_size=40))
def test_any_bytes_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "bytes.yaml"
    path.write_bytes(content)
    outcome(path)


@settings(PROFILE, max_examples=75)
@given(
    step=st.sampled_from(sorted(".".join(map(str, place)) for place in places(RICH))),
    value=junk.map(lambda value: yaml.safe_dump(value, default_flow_style=True, width=10**6))
    | st.text(max_size=10),
)
def test_any_setting_is_planned_or_refused_in_one_line(tmp_path, step, value):
    path = tmp_path / "rich.yaml"
    path.write_text(yaml.safe_dump(RICH))
    outcome(path, [f"{step}={value}"])


def test_the_experiments_that_mutations_start_from_are_planned(tmp_path):
    for number, values in enumerate((QUICKSTART, RICH)):
        path = tmp_path / f"start{number}.yaml"
        path.write_text(yaml.safe_dump(values))
        assert outcome(path)
