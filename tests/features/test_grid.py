"""The grid of study 1: the conditions of its backbone."""

import pytest
from tiny_conditional_unets import save_lcm
from tiny_models import PIXELS, save_ddpm
from tiny_plain_unets import save_consistency

from harness.core.config import parse
from harness.core.errors import UserError
from harness.features.config import FeaturesConfig
from harness.features.grid import conditioned


def names(path, conditions, **backbone):
    """Returns the names of the conditions under which the backbone is read."""
    values = {"backbone": {"name": "pretrained", "path": str(path), **backbone}, "conditions": conditions}
    return [
        plan.condition and plan.condition.name
        for plan in conditioned(parse(FeaturesConfig, values, "features"), PIXELS, 3)
    ]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return save_consistency(tmp_path_factory.mktemp("labelled") / "model")


@pytest.mark.slow
def test_conditions_keep_the_settings_of_the_backbone_that_they_leave_out(tmp_path):
    folder = save_lcm(tmp_path / "model")
    asked = [{"prompt": "a"}, {"guidance": 5.0}, {"prompt": "", "guidance": 0.0}]
    assert names(folder, asked, guidance=2.0, prompt="b") == [
        'prompt "a", guidance 2',
        'prompt "b", guidance 5',
        'prompt "", guidance 0',
    ]


def test_a_label_need_not_be_given_to_the_backbone_too(labelled):
    assert names(labelled, [{"label": 1}, {"label": 3}]) == ["label 1", "label 3"]
    assert names(labelled, [{"label": 1}, {}], label=2) == ["label 1", "label 2"]
    assert names(labelled, [], label=2) == ["label 2"]


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        ([{"label": 9}], r"features\.conditions\.0\.label = 9: this UNet2DModel has classes 0 to 4"),
        (
            [{"label": 1}, {"prompt": "a"}],
            r"^features\.conditions\.1\.prompt is given, but a UNet2DModel takes",
        ),
        ([{"label": 1}, {}], "backbone.label is missing"),
        ([{"label": 1}, {"label": 1}], "features.conditions: 'label 1' is given twice"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused_where_it_is_given(labelled, conditions, words):
    with pytest.raises(UserError, match=words):
        names(labelled, conditions)


def test_conditions_of_a_network_that_takes_none_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"features\.conditions: a UNet2DModel takes no condition; leave it out"
    ):
        names(save_ddpm(tmp_path / "model"), [{}, {}])
