"""Every noise process keeps the contract, and one that is quite unlike DDPM's could."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from harness.models.noise_processes import process
from harness.models.noise_processes.process import Estimates, NoiseProcess, process_of
from harness.models.noise_processes.variance_preserving import VariancePreserving
from harness.testing.noise_processes import NoiseProcessContract


class TestVariancePreserving(NoiseProcessContract):
    @pytest.fixture(
        params=[
            {},
            {"num_train_timesteps": 50, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"},
            {"num_train_timesteps": 30, "prediction_type": "v_prediction"},
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        ],
        ids=str,
    )
    def one(self, request):
        return process_of(request.param)


class TestFlowMatching(NoiseProcessContract):
    @pytest.fixture(
        params=[
            {"_class_name": "FlowMatchEulerDiscreteScheduler"},
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 40, "shift": 3.0},
            {
                "_class_name": "FlowMatchEulerDiscreteScheduler",
                "use_dynamic_shifting": True,
                "_image_seq_len": 1024,
                "_even_sigmas": True,
            },
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 2.0}
            | {"prediction_type": "flow_prediction"},
        ],
        ids=str,
    )
    def one(self, request):
        return process_of(request.param)


class TestEDM(NoiseProcessContract):
    @pytest.fixture(
        params=[
            {"_class_name": "EDMEulerScheduler"},
            {
                "_class_name": "EDMEulerScheduler",
                "num_train_timesteps": 50,
                "sigma_schedule": "exponential",
                "sigma_data": 1.0,
                "prediction_type": "v_prediction",
            },
        ],
        ids=str,
    )
    def one(self, request):
        return process_of(request.param)


class TestContinuousEuler(NoiseProcessContract):
    @pytest.fixture(
        params=[
            {},
            {
                "use_karras_sigmas": True,
                "sigma_min": 0.002,
                "sigma_max": 700.0,
                "timestep_spacing": "leading",
            },
            {"rescale_betas_zero_snr": True, "use_exponential_sigmas": True, "num_train_timesteps": 100},
        ],
        ids=str,
    )
    def one(self, request):
        continuous = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
        return process_of({"_class_name": "EulerDiscreteScheduler", **continuous, **request.param})


class TestConsistency(NoiseProcessContract):
    @pytest.fixture(params=[{}, {"num_train_timesteps": 201, "sigma_data": 1.0}], ids=str)
    def one(self, request):
        return process_of({"_class_name": "CMStochasticIterativeScheduler", **request.param})


@dataclass(frozen=True)
class StraightLine(NoiseProcess):
    """Flow matching (Lipman et al. 2023): x_t = (1 - t) x_0 + t epsilon; the network is told t, and predicts v."""

    config: dict = field(default_factory=lambda: {"_class_name": "StraightLine", "num_train_timesteps": 40})

    @classmethod
    def reads(cls, found):
        return found.get("_class_name") == "StraightLine"

    @classmethod
    def from_config(cls, found, where):
        return cls(dict(found))

    @property
    def timesteps(self):
        return self.config["num_train_timesteps"]

    @property
    def log_snr_T(self):
        times_T = np.arange(1, self.timesteps + 1) / self.timesteps
        with np.errstate(divide="ignore"):
            return 2 * (np.log1p(-times_T) - np.log(times_T))

    @property
    def noisiest(self):
        return self.timesteps - 1  # a velocity tells of the sample where there is noise alone

    def time(self, steps_B):
        return (steps_B + 1) / self.timesteps

    def _time(self, steps_B, like_B):
        return self.time(steps_B).to(like_B.dtype).reshape(-1, *[1] * (like_B.ndim - 1))

    def noised(self, x_B, epsilon_B, steps_B):
        t_B = self._time(steps_B, x_B)
        return (1 - t_B) * x_B + t_B * epsilon_B

    def target(self, x_B, epsilon_B, steps_B):
        return epsilon_B - x_B

    def estimates(self, predicted_B, noised_B, steps_B):
        t_B = self._time(steps_B, noised_B)
        return Estimates(noised_B - t_B * predicted_B, noised_B + (1 - t_B) * predicted_B)

    def advance(self, noised_B, clean_B, step, following, fresh_B):
        s = 0.0 if following is None else (following + 1) / self.timesteps
        t = (step + 1) / self.timesteps
        epsilon_B = (noised_B - (1 - t) * clean_B) / t
        if fresh_B is None or following is None:
            return (1 - s) * clean_B + s * epsilon_B
        mixed_B = (epsilon_B + fresh_B) / 2**0.5
        return (1 - s) * clean_B + s * mixed_B

    def save(self, folder):
        (folder / "scheduler").mkdir(parents=True)
        (folder / process.PLACE).write_text('{"_class_name": "StraightLine", "num_train_timesteps": 40}')


class TestStraightLine(NoiseProcessContract):
    @pytest.fixture
    def one(self, monkeypatch):
        names = {
            "line": f"{StraightLine.__module__}:StraightLine",
            **{name: process.NOISE_PROCESSES.where(name) for name in process.NOISE_PROCESSES.names()},
        }
        monkeypatch.setattr(process, "NOISE_PROCESSES", process.Registry("noise process", names))
        return StraightLine()

    def test_it_imports_without_torch(self):
        """This file does not."""


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_targets_and_noised_samples_are_those_of_diffusers(prediction):
    x, epsilon = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([0, 400, 999])
    theirs = DDPMScheduler(prediction_type=prediction)
    ours = VariancePreserving({"num_train_timesteps": 1000, "prediction_type": prediction})
    assert torch.equal(ours.noised(x, epsilon, steps), theirs.add_noise(x, epsilon, steps))
    expected = {"epsilon": epsilon, "sample": x, "v_prediction": theirs.get_velocity(x, epsilon, steps)}
    torch.testing.assert_close(ours.target(x, epsilon, steps), expected[prediction])


def test_the_same_way_in_other_steps_ends_at_the_same_noise():
    whole = VariancePreserving({"num_train_timesteps": 1000})
    for steps in (10, 250, 4000):
        assert whole.in_steps(steps).timesteps == steps
        assert whole.in_steps(steps).log_snr_T[-1] == pytest.approx(whole.log_snr_T[-1], rel=1e-6)
