"""Every backbone family keeps the contract; one line a family."""

import json

import pytest
from tiny_models import save_adm, save_ddpm, save_dit, save_stable_diffusion

from harness.models.backbones.family import FAMILIES, UNNAMED, family_named
from harness.testing.backbones import BackboneFamilyContract


class TestUNet(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_ddpm(folder, seed=seed))


class TestADM(BackboneFamilyContract):
    save = staticmethod(lambda folder, seed: save_adm(folder, seed=seed))

    def test_contradictory_heads_and_widths_are_refused(self, published):
        path = published / "unet" / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "num_attention_heads": 3}))
        assert self.refused(published).endswith("num_attention_heads = 3 does not divide the channels")
        path.write_text(json.dumps({**config, "model_channels": None}))
        assert "model_channels = None: expected a positive integer" in self.refused(published)


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
