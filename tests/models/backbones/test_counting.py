"""Networks are counted without data, once for each configuration and size."""

import pytest
from tiny_models import PIXELS, save_stable_diffusion

from harness.models.backbones import family
from harness.models.backbones.condition import Condition
from harness.models.backbones.pretrained import PretrainedBackbone


@pytest.mark.slow
def test_plans_under_other_conditions_count_a_network_once(tmp_path, monkeypatch):
    counted = []

    def noted(where, *arguments):
        counted.append(where)
        return apart(where, *arguments)

    apart = family.apart
    monkeypatch.setattr(family, "apart", noted)
    family._counted.cache_clear()
    plan = PretrainedBackbone(path=str(save_stable_diffusion(tmp_path))).plan(PIXELS, 3)
    plans = [plan, plan.under(Condition(prompt="a")), plan.untrained()]
    assert all(one.blocks == plan.blocks for one in plans)
    assert counted == ["harness.models.backbones.counting:count"]
