"""Every scheduler of diffusers is read as diffusers noises and scales, or refused by name in one line."""

import inspect
import math

import diffusers
import numpy as np
import pytest
import torch

from harness.core.errors import UserError
from harness.models.noise_processes.edm import EDM, Consistency, ContinuousEuler
from harness.models.noise_processes.flow_matching import FLOWS, SOLVERS, FlowMatching
from harness.models.noise_processes.process import UNREAD, process_of
from harness.models.noise_processes.variance_preserving import SCHEDULERS, VariancePreserving
from harness.models.sampling import sample

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
CONTINUOUS = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
ZERO_SNR = {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True}
NOT_INSTALLED = {"DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"}  # want torchsde
READ = [
    *(
        pytest.param(name, {}, VariancePreserving, marks=pytest.mark.slow if "KDPM2" in name else ())
        for name in sorted(SCHEDULERS.keys() - NOT_INSTALLED)
    ),
    *((name, {"prediction_type": "v_prediction"}, VariancePreserving) for name in ("DDIMScheduler",)),
    *(
        (name, ZERO_SNR, VariancePreserving)
        for name in ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "TCDScheduler")
    ),
    ("DDPMScheduler", {"prediction_type": "sample", "thresholding": True}, VariancePreserving),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, VariancePreserving),
    *((name, {}, FlowMatching) for name in FLOWS),
    *((name, {"num_train_timesteps": 50, "shift": 3.0}, FlowMatching) for name in FLOWS),
    *((name, FLOW, FlowMatching) for name in SOLVERS),
    ("DPMSolverMultistepScheduler", {**FLOW, "flow_shift": 3.0}, FlowMatching),
    *((name, {}, EDM) for name in ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")),
    ("EDMEulerScheduler", {"sigma_schedule": "exponential", "num_train_timesteps": 99}, EDM),
    ("EDMDPMSolverMultistepScheduler", {"sigma_max": 20.0, "sigma_data": 1.0, "rho": 5.0}, EDM),
    ("EulerDiscreteScheduler", CONTINUOUS, ContinuousEuler),
    (
        "EulerDiscreteScheduler",
        {**CONTINUOUS, **ZERO_SNR, "use_exponential_sigmas": True, "sigma_min": 0.01},
        ContinuousEuler,
    ),
    (
        "EulerDiscreteScheduler",
        {**CONTINUOUS, "use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0},
        ContinuousEuler,
    ),
    ("CMStochasticIterativeScheduler", {}, Consistency),
    ("CMStochasticIterativeScheduler", {"num_train_timesteps": 201, "sigma_max": 40.0}, Consistency),
]

OTHERS = {*FLOWS, "SCMScheduler", "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"} | {
    "CMStochasticIterativeScheduler"
}


def made(name, settings):
    """Returns a scheduler, and its configuration as `save_pretrained` writes it."""
    scheduler = getattr(diffusers, name)(**settings)
    return scheduler, {"_class_name": name, **scheduler.config}


def test_every_scheduler_is_read_or_refused_by_name_in_one_line():
    found = inspect.getmembers(diffusers.schedulers, inspect.isclass)
    names = {name for name, one in found if issubclass(one, diffusers.SchedulerMixin)} - {"SchedulerMixin"}
    assert len(names) > 40
    for name in (names | UNREAD.keys()) - SCHEDULERS.keys() - OTHERS:
        with pytest.raises(UserError, match=f"^here: .*{name}") as caught:
            process_of({"_class_name": name, "beta_schedule": "linear", "num_train_timesteps": 1000}, "here")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "settings", "kind"), READ, ids=str)
def test_the_network_gets_what_diffusers_would_give_it(name, settings, kind):
    scheduler, config = made(name, settings)
    ours = process_of(config)
    assert type(ours) is kind
    assert ours.timesteps == scheduler.config.num_train_timesteps
    x, epsilon = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for fraction in (0.01, 0.1, 0.4, 0.7, 0.95):
        step = torch.tensor([round(fraction * (ours.timesteps - 1))])
        given = ours.scaled(ours.noised(x, epsilon, step), step)
        theirs, time = network_input(name, settings, x, epsilon, float(ours.time(step)))
        assert float((given - theirs).norm() / theirs.norm()) < 1e-5
        assert float(ours.time(step)) == pytest.approx(time, rel=1e-5, abs=1e-5)


def network_input(name, settings, x, epsilon, time):
    """Returns diffusers' input of the network at its time nearest to `time`, and that time."""
    plain = {"shift": 1.0} if "shift" in settings else {}  # shifts and such are only the sampler's spacing
    if "timestep_type" not in settings and "use_karras_sigmas" in settings:
        plain["use_karras_sigmas"] = False
    scheduler, config = made(name, {**settings, **plain})
    add_noise = getattr(scheduler, "scale_noise", getattr(scheduler, "add_noise", None))
    if add_noise is None or name == "RePaintScheduler":  # DDIM's inverse, and one that must not be called
        left = scheduler.alphas_cumprod[round(time)]
        return left.sqrt() * x + (1 - left).sqrt() * epsilon, round(time)
    code = inspect.getsource(add_noise)
    if not ("index_for_timestep" in code or "init_step_index" in code or config.get("use_flow_sigmas")):
        return add_noise(x, epsilon, torch.tensor([round(time)])), round(time)
    scheduler.set_timesteps(scheduler.config.num_train_timesteps)
    if config.get("use_flow_sigmas"):
        # Such solvers tell the network whole numbers, and their grid ends at 1 - 1 / T: noise at our σ beside theirs.
        sigma = scheduler.sigmas[(scheduler.sigmas[:-1].double() - time / 1000).abs().argmin()]
        assert float(sigma) == pytest.approx(time / 1000, abs=6e-4 * scheduler.config.flow_shift)
        alpha, sigma = scheduler._sigma_to_alpha_sigma_t(sigma)
        assert float(alpha + sigma) == 1
        found = alpha * x + sigma * epsilon
        return found + (time / 1000 - sigma) * (epsilon - x), time
    t = scheduler.timesteps[(scheduler.timesteps.double() - time).abs().argmin()]
    if hasattr(scheduler, "scale_noise"):
        return add_noise(x, t if "Heun" in name else t[None], epsilon), float(t)
    return scheduler.scale_model_input(add_noise(x, epsilon, t[None]), t), float(t)


def rectified(**settings):
    """Returns a process, and a scheduler of flow matching."""
    scheduler, config = made("FlowMatchEulerDiscreteScheduler", settings)
    return process_of(config), scheduler


@pytest.mark.parametrize("steps", [1, 7, 28])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shift": 3.0},
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"shift": 2.0, "shift_terminal": 0.1},
    ],
    ids=str,
)
def test_a_flow_is_sampled_at_the_noise_levels_of_diffusers(settings, steps):
    ours, theirs = rectified(**settings)
    assert np.array_equal(ours.noise_T, np.arange(1, 1001) / 1000), "what is learnt has no shift"
    if steps > 1 or "shift_terminal" not in settings:  # which diffusers cannot stretch to a single step
        theirs.set_timesteps(steps)
        found = ours.noise_T[ours.spaced(steps)]
        near = np.abs(theirs.sigmas[:-1].numpy()[:, None] - found)
        assert near.min(1).max() < 5.1e-4
        assert near.min(0).max() < 5.1e-4
    assert steps - 2 <= len(ours.spaced(steps)) <= steps, "neighbours may round to the same step"


@pytest.mark.parametrize(("tokens", "mu"), [(256, 0.5), (4096, 1.15), (1024, 0.63)])
def test_dynamic_shifting_is_linear_in_the_image_tokens_and_equals_a_static_shift(tokens, mu):
    for kind, shift in (("exponential", math.exp(mu)), ("linear", mu)):
        ours, _ = rectified(use_dynamic_shifting=True, time_shift_type=kind)
        with pytest.raises(ValueError, match="spaced_for"):
            ours.spaced(10)
        ours = ours.spaced_for(tokens, even=True)
        assert ours.mu(8) == pytest.approx(mu)
        even = np.linspace(1, 0.1, 10)
        wanted = shift * even / (1 + (shift - 1) * even)
        np.testing.assert_allclose(ours.noise_T[ours.spaced(10)], wanted, atol=5.1e-4)
        again = process_of(dict(ours.config))
        assert again.spaced(10) == ours.spaced(10)


def velocity(x, time):
    """A network."""
    return torch.sin(3 * x + time / 500)


def test_sampling_a_flow_takes_the_steps_of_diffusers():
    ours, theirs = rectified(shift=3.0)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    found = sample(ours, lambda x, steps, _: velocity(x, ours.time(steps)[0]), x, steps=8)
    theirs.sigmas = torch.tensor([*ours.noise_T[ours.spaced(8)], 0.0]).float()  # shifted already
    theirs.timesteps = theirs.sigmas[:-1] * 1000
    for t in theirs.timesteps:
        x = theirs.step(velocity(x, t), t, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-6, atol=2e-6)


def network(x, time):
    """A network in σ."""
    return torch.sin(2 * x + time)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("EDMEulerScheduler", {}),
        ("EDMEulerScheduler", {"prediction_type": "v_prediction", "sigma_schedule": "exponential"}),
        ("EulerDiscreteScheduler", {**CONTINUOUS, "use_karras_sigmas": True, "sigma_max": 80.0}),
        ("EulerDiscreteScheduler", {**CONTINUOUS, "timestep_spacing": "leading"}),
    ],
    ids=str,
)
def test_sampling_in_sigma_takes_the_steps_of_diffusers(name, settings):
    scheduler, config = made(name, {**settings, "num_train_timesteps": 21})
    ours = process_of(config)
    epsilon = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    found = sample(
        ours, lambda x, k, _: network(ours.scaled(x, k), ours.time(k)[0]), epsilon, steps=ours.timesteps
    )
    scheduler.set_timesteps(21)
    x = scheduler.init_noise_sigma * epsilon
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)


def test_consistency_models_give_what_diffusers_takes_from_them():
    scheduler, config = made("CMStochasticIterativeScheduler", {"clip_denoised": False})
    ours = process_of(config)
    epsilon = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    for steps in (1, 4):
        scheduler.set_timesteps(steps)
        assert ours.time(torch.tensor(ours.spaced(steps))).tolist() == pytest.approx(
            scheduler.timesteps.tolist(), rel=1e-5
        )
    scheduler.set_timesteps(1)
    (t,) = scheduler.timesteps
    x = scheduler.init_noise_sigma * epsilon
    wanted = scheduler.step(network(scheduler.scale_model_input(x, t), t), t, x).prev_sample
    found = sample(ours, lambda x, k, _: network(ours.scaled(x, k), ours.time(k)[0]), epsilon, steps=1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    step = torch.zeros(2).long()
    noised = ours.noised(epsilon, epsilon, step)
    assert torch.equal(ours.estimates(7 + epsilon, noised, step).clean, noised), "the boundary condition"
    assert torch.isfinite(ours.target(epsilon, epsilon, step)).all()


def test_trigflow_reads_and_predicts_what_a_flow_does():
    """As Sana-Sprint's pipeline turns one into the other, for data of unit scale."""
    scheduler, config = made("SCMScheduler", {"sigma_data": 1.0})
    ours = process_of(config)
    assert isinstance(ours, FlowMatching)
    x, epsilon = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for step in (10, 300, 700, 950):
        place = torch.tensor([step])
        share = (ours.time(place) / 1000).view(-1, 1, 1, 1)
        t = torch.atan2(share, 1 - share)
        noised = t.cos() * x + t.sin() * epsilon
        scale = (share**2 + (1 - share) ** 2).sqrt()
        torch.testing.assert_close(ours.noised(x, epsilon, place), noised * scale, rtol=1e-5, atol=1e-5)
        predicted = velocity(noised * scale, 1)
        turned = ((1 - 2 * share) * noised * scale + (1 - 2 * share + 2 * share**2) * predicted) / scale
        scheduler.set_timesteps(1, timesteps=[float(t), 0.0], max_timesteps=None, intermediate_timesteps=None)
        wanted = scheduler.step(turned, float(scheduler.timesteps[0]), noised).pred_original_sample
        found = ours.estimates(predicted, ours.noised(x, epsilon, place), place).clean
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
            "prediction_type = 'epsilon': diffusers tells such a network whole steps instead",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", **CONTINUOUS, "use_beta_sigmas": True},
            "use_beta_sigmas = true with timestep_type = 'continuous' is not supported",
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"},
            "prediction_type = 'flow_prediction' needs use_flow_sigmas = true in a DPMSolverMultistepScheduler",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
            "prediction_type = 'epsilon' with use_flow_sigmas = true is not supported",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", **FLOW, "use_karras_sigmas": True},
            "use_karras_sigmas = true contradicts use_flow_sigmas = true",
        ),
        (
            {"_class_name": "DPMSolverMultistepInverseScheduler", **FLOW},
            "a DPMSolverMultistepInverseScheduler with these settings is not supported",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
            "invert_sigmas = true is not supported",
        ),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0}, "shift = 0: expected a positive"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 1.5},
            "shift_terminal = 1.5: expected a number below 1",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "time_shift_type": "cubic"},
            "time_shift_type = 'cubic': expected 'exponential' or 'linear'",
        ),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 0},
            "num_train_timesteps = 0: expected a positive integer",
        ),
        ({"_class_name": "SCMScheduler", "prediction_type": "epsilon"}, "predicts 'trigflow'"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": -1}, "sigma_data = -1: expected a positive"),
        (
            {"_class_name": "EDMEulerScheduler", "sigma_min": 90.0},
            "sigma_min = 90.0 is not below sigma_max = 80.0",
        ),
        (
            {"_class_name": "EDMDPMSolverMultistepScheduler", "prediction_type": "sample"},
            "prediction_type = 'sample': expected 'epsilon' or 'v_prediction'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_contradict_each_other_are_refused_with_the_reason(config, words):
    with pytest.raises(UserError) as caught:
        process_of(config, "here")
    assert str(caught.value).startswith("here: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_a_schedule_without_signal_at_its_end_is_sampled_from_there_as_diffusers_does(prediction):
    scheduler, config = made(
        "DDIMScheduler",
        {
            **ZERO_SNR,
            "num_train_timesteps": 20,
            "prediction_type": prediction,
            "clip_sample": False,
            "steps_offset": 0,
        },
    )
    ours = process_of(config)
    epsilon = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    found = sample(ours, lambda x, k, _: network(x, k[0] / 10), epsilon, steps=20)
    scheduler.set_timesteps(20)
    assert scheduler.alphas_cumprod[scheduler.timesteps[0]] == 0
    x = epsilon
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t / 10), t, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)
