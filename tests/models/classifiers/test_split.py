"""A network cut in two says what it says whole, whichever of its parameters vary."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, vmap
from torch.utils.flop_counter import FlopCounterMode

from harness.models.classifiers.split import Split

IMAGES, SIZE = 4, 6


class Crossing(nn.Module):
    """What makes cutting hard: a shortcut around the varied layers, work in place, statistics, a shared layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.mix, self.fc = nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x):
        x = self.conv1(x).relu_()
        y = self.bn2(self.conv2(self.bn1(x).relu_()))
        y += x
        z = self.mix(y.mean((2, 3)))
        return self.fc(self.mix(z) + z)


def crossing():
    torch.manual_seed(0)
    network = Crossing().eval()
    for norm in (network.bn1, network.bn2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return network


NETWORK = crossing()
NAMES = [name for name, value in NETWORK.state_dict().items() if value.is_floating_point()]
X = torch.randn(IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def some(names, networks, seed=2):
    draw = torch.Generator().manual_seed(seed)
    state = NETWORK.state_dict()
    return {
        name: state[name] + 0.3 * torch.rand(networks, *state[name].shape, generator=draw) for name in names
    }


@pytest.mark.slow
@settings(max_examples=5)
@given(st.sets(st.sampled_from(NAMES), min_size=1))
def test_both_parts_together_are_the_network_for_any_varied_parameters(names):
    split, varied = Split(NETWORK, sorted(names), X), some(sorted(names), 3)
    other = X.flip(0) + 1
    with torch.no_grad():
        for x in (X, other):
            kept = split.prefix(x)
            for n in range(3):
                one = {name: value[n] for name, value in varied.items()}
                torch.testing.assert_close(
                    split.rest(one, kept), functional_call(NETWORK, one, (x,)), rtol=0, atol=0
                )


@pytest.mark.slow
@pytest.mark.parametrize("names", [["bn1.weight", "bn2.bias"], ["conv2.weight"], ["bn2.running_var"], NAMES])
def test_many_networks_in_one_batch_are_those_networks(names):
    split, varied = Split(NETWORK, names, X), some(names, 5)
    with torch.no_grad():
        kept = split.prefix(X)
        together = vmap(split.rest, in_dims=(0, None))(varied, kept)
        for n in range(5):
            alone = split.rest({name: value[n] for name, value in varied.items()}, kept)
            torch.testing.assert_close(together[n], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["fc.bias"], 4 * 5),
        (["mix.weight"], 2 * 4 * 4 + 4 * 5),
        (["bn2.weight"], 2 * 4 * 4 + 4 * 5),
        (["bn1.weight"], SIZE * SIZE * 9 * 4 * 4 + 2 * 4 * 4 + 4 * 5),
    ],
)
def test_only_what_follows_the_first_varied_parameter_is_computed_again(names, left):
    split = Split(NETWORK, names, X)
    kept = split.prefix(X)
    varied = {name: value[0] for name, value in some(names, 1).items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        split.rest(varied, kept)
    assert counter.get_total_flops() == 2 * IMAGES * left


def test_the_network_is_left_as_it_was():
    before = {name: value.clone() for name, value in NETWORK.state_dict().items()}
    split = Split(NETWORK, ["bn1.weight"], X)
    split.rest({"bn1.weight": torch.zeros(4)}, split.prefix(X))
    assert all(torch.equal(value, before[name]) for name, value in NETWORK.state_dict().items())


def test_memory_is_that_of_the_widest_place():
    widths = (6, 40, 10, 3)
    network = nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise(widths)]).eval()
    before, after = Split(network, ["1.weight"], torch.zeros(2, 6)).bytes_an_image()
    assert before == 4 * (40 + 40)  # computed, and kept
    assert after == 4 * (10 + 3)
