"""`backbone.schedule`: schedules given by hand are those of diffusers, and contradictions are refused."""

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler

from harness.core.config import parse
from harness.core.errors import UserError
from harness.models.noise_processes.edm import EDM
from harness.models.noise_processes.flow_matching import FlowMatching
from harness.models.noise_processes.process import process_of
from harness.models.noise_processes.schedule import FIELDS, OTHER_NAMES, Schedule


def read(values):
    """Returns the process of a section of an experiment."""
    section = {"name": values} if isinstance(values, str) else values
    return process_of(parse(Schedule, section, "backbone.schedule").scheduler(), "backbone.schedule")


@pytest.mark.parametrize("name", [*sorted(FIELDS.keys() - {"betas"}), *OTHER_NAMES])
def test_every_name_alone_is_a_schedule_of_a_thousand_steps(name):
    assert read(name).timesteps == 1000


@pytest.mark.parametrize(
    ("given", "theirs"),
    [
        ({"name": "linear"}, {}),
        ({"name": "linear", "timesteps": 50, "beta_end": 0.3}, {"num_train_timesteps": 50, "beta_end": 0.3}),
        (
            {"name": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "zero_snr": True},
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
            | {"rescale_betas_zero_snr": True},
        ),
        ({"name": "cosine"}, {"beta_schedule": "squaredcos_cap_v2"}),
        ({"name": "squaredcos_cap_v2", "timesteps": 20}, {"beta_schedule": "squaredcos_cap_v2"}),
        ({"name": "betas", "betas": [0.1, 0.2, 0.5]}, {"trained_betas": [0.1, 0.2, 0.5]}),
        ({"name": "sigmoid", "prediction_type": "sample"}, {"beta_schedule": "sigmoid"}),
    ],
    ids=str,
)
def test_betas_by_hand_are_those_of_diffusers(given, theirs):
    ours = read(given)
    theirs = {"num_train_timesteps": ours.timesteps, **theirs}
    scheduler = DDPMScheduler(**theirs, prediction_type=given.get("prediction_type", "epsilon"))
    x, epsilon = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([0, ours.timesteps // 2, ours.timesteps - 1])
    assert torch.equal(ours.noised(x, epsilon, steps), scheduler.add_noise(x, epsilon, steps))
    assert torch.equal(ours.target(x, epsilon, steps), x if "prediction_type" in given else epsilon)


def test_flow_and_edm_by_hand():
    flow = read({"name": "flow", "timesteps": 40, "shift": 3.0})
    assert isinstance(flow, FlowMatching)
    assert (flow.timesteps, flow.config["shift"]) == (40, 3.0)
    edm = read({"name": "edm", "sigma_max": 20.0, "sigma_data": 1.0, "prediction_type": "v_prediction"})
    assert isinstance(edm, EDM)
    theirs = EDMEulerScheduler(sigma_max=20.0, sigma_data=1.0, prediction_type="v_prediction")
    theirs.set_timesteps(1000)
    torch.testing.assert_close(torch.from_numpy(edm.noise_T).float(), theirs.sigmas[:-1].flip(0))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "cosin"}, "name"),
        ({"timesteps": 5}, "'name' is missing"),
        (
            {"name": "linear", "sigma_max": 80.0},
            "sigma_max is not for schedule linear, which takes beta_start",
        ),
        ({"name": "flow", "prediction_type": "epsilon"}, "prediction_type is not for schedule flow"),
        ({"name": "betas"}, "schedule betas needs betas"),
        ({"name": "betas", "betas": [0.1, 0.2], "timesteps": 3}, "timesteps = 3, but there are 2 betas"),
        ({"name": "edm", "prediction_type": "sample"}, "prediction_type = 'sample': expected 'epsilon'"),
        ({"name": "edm", "sigma_min": 90.0}, "sigma_min = 90.0 is not below sigma_max = 80.0"),
        ({"name": "linear", "timesteps": 0}, "timesteps"),
    ],
    ids=str,
)
def test_a_schedule_that_contradicts_itself_is_refused(given, words):
    with pytest.raises(UserError) as caught:
        read(given)
    assert words in str(caught.value)
    assert "backbone.schedule" in str(caught.value)
    assert "\n" not in str(caught.value)
