"""Every backbone family keeps the contract; one line a family."""

import pytest
from tiny_models import save_ddpm, save_dit, save_stable_diffusion

from harness.models.backbones.family import FAMILIES, UNNAMED, family_named
from harness.testing.backbones import BackboneFamilyContract


class TestUNet(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_ddpm(folder, seed=seed))


@pytest.mark.slow
class TestConditionalUNet(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_stable_diffusion(folder, seed=seed))


@pytest.mark.slow
class TestDiT(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_dit(folder, seed=seed))


@pytest.mark.parametrize("name", FAMILIES.names())
def test_a_family_is_registered_under_its_networks_name(name):
    assert family_named(name).class_name == name
    assert UNNAMED in FAMILIES.names()
