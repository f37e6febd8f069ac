"""The contract of a control of study 2: `harness.weights.controls.Control`, whose `make` gets a `Material`.

Subclass `ControlContract` and define the fixture `control`: a registered control. The suite gives it twelve originals
of thirty parameters, a linear autoencoder with four-number latents, and the optional trajectories.
"""

from dataclasses import replace

import numpy as np
import pytest

from harness.testing.checks import (
    assert_can_be_sent_to_a_worker,
    assert_registered,
    assert_unchanged,
    random_state_left_alone,
    seed_everything,
)
from harness.weights.controls import CONTROLS, TRAJECTORIES, Control, Material
from harness.weights.layout import Layout
from harness.weights.vectors import normaliser

_DRAW = np.random.default_rng(0)
LAYOUT = Layout(("a", "b"), ((5, 4), (10,)))
RAW = _DRAW.normal(2, 3, (12, 30)).astype(np.float32)  # the originals as they are
FURTHER = {"other_seed": _DRAW.normal(size=(9, 30)), "fine_tuned": _DRAW.normal(size=(7, 30))}
MIXING = _DRAW.normal(size=(30, 4)).astype(np.float32)  # from a vector to its latent


def material_of(raw_KP: np.ndarray = RAW, layout: Layout = LAYOUT) -> Material:
    """Returns originals with a linear autoencoder with four-number latents, and the optional trajectories."""
    scale = normaliser(raw_KP, layout)
    return Material(
        originals_KP=scale.normalise(raw_KP),
        layout=layout,
        scale=scale,
        encode=lambda vectors: vectors @ MIXING,
        decode=lambda latents: latents @ MIXING.T,
        other_seed_OP=FURTHER["other_seed"].astype(np.float32),
        fine_tuned_FP=FURTHER["fine_tuned"].astype(np.float32),
    )


def made(control: Control, seed: int = 0, raw_KP: np.ndarray = RAW) -> dict[float | None, np.ndarray]:
    """Returns what a control makes from fresh material with the random numbers of `seed`."""
    return control.make(material_of(raw_KP), np.random.default_rng(seed))


def _arrays(material: Material) -> dict[str, np.ndarray]:
    names = ("originals_KP", "other_seed_OP", "fine_tuned_FP")
    return {name: getattr(material, name) for name in names}


class ControlContract:
    """What every control must do. A subclass defines the fixture `control`."""

    @pytest.fixture
    def control(self) -> Control:
        """The control to test."""
        raise NotImplementedError("define the fixture `control`, which returns the control to test")

    def test_it_is_registered_and_has_a_version(self, control: Control) -> None:
        assert_registered(CONTROLS, control)
        assert isinstance(control.version, int), "`version` must be an integer: it is part of result keys"

    def test_its_values_can_be_sent_to_a_worker(self, control: Control) -> None:
        assert_can_be_sent_to_a_worker(CONTROLS, control)

    def test_it_makes_as_many_networks_as_asked_for_of_each_setting(self, control: Control) -> None:
        groups = made(control)
        assert groups, "a control must make at least one group of networks"
        for setting, vectors_NP in groups.items():
            assert setting is None or isinstance(setting, float), (
                f"a setting must be a float, or None for a control without one, not {setting!r}"
            )
            assert vectors_NP.shape == (control.networks, 30), (
                f"setting {setting}: expected {control.networks} networks of 30 parameters, got {vectors_NP.shape}"
            )
            assert np.isfinite(vectors_NP).all(), f"setting {setting}: parameters must be finite"
        assert control.count() == sum(map(len, groups.values())), (
            "count() must return the number of networks that make() returns, over all settings"
        )

    def test_it_says_which_trajectories_it_needs(self, control: Control) -> None:
        assert set(control.needs) <= set(TRAJECTORIES), f"`needs` may name {', '.join(TRAJECTORIES)}"
        bare = replace(material_of(), other_seed_OP=None, fine_tuned_FP=None)
        if control.needs:
            with pytest.raises(ValueError, match="has not provided the trajectory"):
                control.make(bare, np.random.default_rng(0))
        else:
            assert control.make(bare, np.random.default_rng(0))

    def test_it_is_the_same_for_the_same_draw(self, control: Control) -> None:
        """Whatever the global random state: all random numbers come from `draw`."""
        found = []
        for state in (0, 1):
            seed_everything(state)
            found.append(made(control))
        one, same = found
        assert list(one) == list(same)
        for setting in one:
            np.testing.assert_array_equal(
                one[setting], same[setting], "the same draw must make the same networks"
            )

    def test_it_leaves_the_global_random_state_alone(self, control: Control) -> None:
        with random_state_left_alone("Control.make"):
            made(control)

    def test_it_leaves_its_material_alone(self, control: Control) -> None:
        material = material_of()
        for array in _arrays(material).values():
            array.flags.writeable = False  # writing raises
        before = {name: array.copy() for name, array in _arrays(material).items()}
        assert control.make(material, np.random.default_rng(0))
        assert_unchanged(before, _arrays(material), "Control.make")

    def test_what_it_returns_may_be_changed(self, control: Control) -> None:
        """The originals and trajectories must not change."""
        material = material_of()
        before = {name: array.copy() for name, array in _arrays(material).items()}
        for vectors_NP in control.make(material, np.random.default_rng(0)).values():
            vectors_NP += 1
        assert_unchanged(before, _arrays(material), "changing what Control.make returned")

    @pytest.mark.parametrize("count", [1, 2])
    def test_it_handles_few_originals(self, control: Control, count: int) -> None:
        for vectors_NP in made(control, raw_KP=RAW[:count]).values():
            assert vectors_NP.shape == (control.networks, 30)
            assert np.isfinite(vectors_NP).all(), f"parameters must be finite for {count} originals too"
