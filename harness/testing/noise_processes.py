"""The contract of a noise process: `harness.models.noise_processes.process.NoiseProcess`.

Subclass `NoiseProcessContract` and define the fixture `one`: a registered process of at least 10 steps.
"""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.core.errors import UserError
from harness.models.noise_processes.levels import NoiseLevel
from harness.models.noise_processes.process import NoiseProcess, load_process, process_of
from harness.models.sampling import sample


class NoiseProcessContract:
    """What planning, training, extraction and sampling rely on."""

    tolerance = 1e-3  # of float32 numbers divided by small coefficients

    @pytest.fixture
    def one(self) -> NoiseProcess:
        """The process to test. To be defined by a subclass."""
        raise NotImplementedError

    @pytest.fixture
    def clean(self) -> torch.Tensor:
        """Clean samples."""
        return torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1

    @pytest.fixture
    def epsilon(self) -> torch.Tensor:
        """Noise."""
        return torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1))

    def places(self, one: NoiseProcess) -> list[int]:
        """Returns steps near both ends and in between."""
        last = one.noisiest
        return [0, 1, last // 3, last // 2, last - 1, last]

    # Without torch.

    def test_it_imports_without_torch(self, one: NoiseProcess) -> None:
        program = f"import sys, {type(one).__module__}; print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False", "import torch within methods"

    def test_its_configuration_makes_it_again(self, one: NoiseProcess, tmp_path: Path) -> None:
        config = dict(one.config)
        assert json.loads(json.dumps(config)) == config
        one.save(tmp_path)
        for again in (process_of(config), load_process(tmp_path)):
            assert type(again) is type(one)
            np.testing.assert_array_equal(again.log_snr_T, one.log_snr_T)

    def test_steps_go_from_little_noise_to_much(self, one: NoiseProcess) -> None:
        levels_T = one.log_snr_T
        assert levels_T.shape == (one.timesteps,)
        assert levels_T.dtype == np.float64
        assert not np.isnan(levels_T).any()
        assert all(before > after for before, after in pairwise(levels_T))
        assert one.timesteps - 2 <= one.noisiest < one.timesteps
        for step in (0, one.timesteps // 2, one.timesteps - 1):
            sigma, level = one.sigma(step), one.log_snr(step)
            assert (sigma is None) == bool(np.isneginf(levels_T[step]))
            if sigma is not None and level is not None:
                assert sigma == pytest.approx(np.exp(-level / 2), rel=1e-4)

    def test_a_noise_level_leads_to_its_step(self, one: NoiseProcess) -> None:
        for step in self.places(one):
            level, sigma = one.log_snr(step), one.sigma(step)
            if level is not None:
                assert one.step(NoiseLevel(log_snr=level), "here") == step
            if sigma:
                assert one.step(NoiseLevel(sigma=sigma), "here") == step
        assert one.step(NoiseLevel(fraction=1.0), "here") == one.timesteps - 1
        for bad in (-1, one.timesteps, NoiseLevel(log_snr=1e9), NoiseLevel(sigma=1e-30)):
            with pytest.raises(UserError, match=r"^here: "):
                one.step(bad, "here")

    # Tensors.

    def test_noised_samples_have_the_level_that_tables_show(
        self, one: NoiseProcess, clean: torch.Tensor
    ) -> None:
        ones, zeros = torch.ones_like(clean), torch.zeros_like(clean)
        for step in self.places(one):
            steps = torch.full((4,), step)
            signal, noise = one.noised(ones, zeros, steps), one.noised(zeros, ones, steps)
            assert signal.dtype == torch.float32
            found = float(2 * (signal / noise).log().mean())
            if np.isfinite(one.log_snr_T[step]):
                assert found == pytest.approx(one.log_snr_T[step], abs=0.02)

    def test_each_sample_is_noised_to_a_step_of_its_own(
        self, one: NoiseProcess, clean: torch.Tensor, epsilon: torch.Tensor
    ) -> None:
        steps = torch.tensor(self.places(one)[:4])
        together = one.noised(clean, epsilon, steps)
        for row in range(4):
            alone = one.noised(clean[row : row + 1], epsilon[row : row + 1], steps[row : row + 1])
            assert torch.equal(alone, together[row : row + 1])
        assert one.time(steps).shape == steps.shape

    def test_scaling_for_the_network_is_one_factor_per_step(
        self, one: NoiseProcess, clean: torch.Tensor, epsilon: torch.Tensor
    ) -> None:
        steps = torch.tensor(self.places(one)[:4])
        noised = one.noised(clean, epsilon, steps)
        found = one.scaled(noised, steps)
        assert (found.shape, found.dtype) == (noised.shape, noised.dtype)
        factors = one.scaled(torch.ones_like(noised), steps)
        torch.testing.assert_close(found, factors * noised)
        assert torch.equal(factors, factors[:, :1, :1].expand_as(factors))
        assert torch.equal(one.scaled(noised[2:3], steps[2:3]), found[2:3])

    def test_a_right_prediction_stands_for_what_was_noised(
        self, one: NoiseProcess, clean: torch.Tensor, epsilon: torch.Tensor
    ) -> None:
        for step in self.places(one)[1:-1]:
            steps = torch.full((4,), step)
            noised = one.noised(clean, epsilon, steps)
            found = one.estimates(one.target(clean, epsilon, steps), noised, steps)
            scale = max(1.0, one.sigma(step) or 1.0, 1 / (one.sigma(step) or 1.0))
            torch.testing.assert_close(found.clean, clean, rtol=0, atol=self.tolerance * scale)
            torch.testing.assert_close(found.noise, epsilon, rtol=0, atol=self.tolerance * scale)

    def test_a_deterministic_step_keeps_sample_and_noise(
        self, one: NoiseProcess, clean: torch.Tensor, epsilon: torch.Tensor
    ) -> None:
        for following, step in pairwise(self.places(one)):
            if following < step:
                before, after = (one.noised(clean, epsilon, torch.full((4,), at)) for at in (step, following))
                found = one.advance(before, clean, step, following, None)
                torch.testing.assert_close(found, after, rtol=0, atol=self.tolerance)
        first = one.noised(clean, epsilon, torch.full((4,), 0))
        torch.testing.assert_close(
            one.advance(first, clean, 0, None, None), clean, rtol=0, atol=self.tolerance
        )

    def test_an_ancestral_step_keeps_the_noise_level(self, one: NoiseProcess) -> None:
        draw = torch.Generator().manual_seed(2)
        clean = torch.zeros(20_000, 1)
        step, following = one.noisiest // 2, one.noisiest // 3
        before = one.noised(clean, torch.randn(clean.shape, generator=draw), torch.full((20_000,), step))
        found = one.advance(before, clean, step, following, torch.randn(clean.shape, generator=draw))
        wanted = float(one.noised(clean, torch.ones_like(clean), torch.full((20_000,), following))[0, 0])
        assert float(found.std()) == pytest.approx(wanted, rel=0.03)

    @pytest.mark.parametrize("steps", [1, 4, 1_000_000])
    def test_sampling_steps_go_from_the_most_noise_to_less(self, one: NoiseProcess, steps: int) -> None:
        places = one.spaced(steps)
        assert places[0] == one.noisiest
        assert all(before > after >= 0 for before, after in pairwise(places))
        assert len(places) == min(steps, one.noisiest + 1)

    def test_sampling_starts_with_the_noise_of_its_first_step(self, one: NoiseProcess) -> None:
        ones = torch.ones(2, 3)
        found = one.start(ones)
        wanted = one.noised(torch.zeros_like(ones), ones, torch.full((2,), one.noisiest))
        assert (found >= wanted - 1e-6).all()
        torch.testing.assert_close(one.start(3 * ones), 3 * found)

    @pytest.mark.parametrize("ancestral", [False, True])
    def test_perfect_predictions_sample_the_data(
        self, one: NoiseProcess, clean: torch.Tensor, ancestral: bool
    ) -> None:
        draw = torch.Generator().manual_seed(5)

        def predict(x: torch.Tensor, steps: torch.Tensor, estimate: torch.Tensor | None) -> torch.Tensor:
            signal = one.noised(clean, torch.zeros_like(clean), steps)
            noise = one.noised(torch.zeros_like(clean), torch.ones_like(clean), steps)
            return one.target(clean, (x - signal) / noise, steps)

        start = torch.randn(clean.shape, generator=draw)
        fresh = (lambda step: torch.randn(clean.shape, generator=draw)) if ancestral else None
        found = sample(one, predict, start, steps=8, fresh=fresh, clip=1.0)
        torch.testing.assert_close(found, clean, rtol=0, atol=10 * self.tolerance)
