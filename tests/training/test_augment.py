"""Augmented views: addressed, batch-independent, and equal to what Pillow and a loop give."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.training import noise
from harness.training.augment import augmented
from harness.training.config import Augment


def addresses(places):
    return torch.tensor([[place, 7, 0] for place in places])


def images(n=6, size=8):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n, 3, size, size)).astype(np.float32))


def test_no_crop_and_no_flip_leave_an_image_as_it_is():
    x = images()
    torch.testing.assert_close(augmented(x, 1, addresses(range(6)), Augment(crop=1.0, flip=False)), x)


def test_a_flip_alone_is_a_mirror_image_of_about_half():
    x = images(200)
    found = augmented(x, 1, addresses(range(200)), Augment(crop=1.0, flip=True))
    mirrored = (found - x.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    plain = (found - x).abs().amax((1, 2, 3)) < 1e-5
    assert (mirrored ^ plain).all()
    assert 0.35 < mirrored.float().mean() < 0.65


@settings(max_examples=30, deadline=None)
@given(places=st.lists(st.integers(0, 1000), min_size=1, max_size=6), begin=st.integers(0, 5))
def test_a_view_depends_on_its_address_alone(places, begin):
    x = images(len(places))
    begin = min(begin, len(places) - 1)
    whole = augmented(x, 3, addresses(places), Augment())
    part = augmented(x[begin:], 3, addresses(places[begin:]), Augment())
    torch.testing.assert_close(part, whole[begin:], rtol=0, atol=1e-6)


def test_a_crop_is_the_region_that_pillow_resizes():
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 255, (20, 1, 32, 32)).astype(np.float32))
    u = noise.uniform(5, addresses(range(20)), 4).numpy()
    found = augmented(x, 5, addresses(range(20)), Augment(crop=0.5, flip=False)).numpy()
    for number in range(20):
        side = 32 * np.sqrt(0.5 + 0.5 * u[number, 0])
        left, top = (16 + 16 * (1 - side / 32) * (2 * u[number, 1 + axis] - 1) - side / 2 for axis in (0, 1))
        box = (left, top, left + side, top + side)
        affine = (side / 32, 0, left, 0, side / 32, top)
        by_hand = Image.fromarray(x[number, 0].numpy()).transform(
            (32, 32), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
        )
        assert 0 <= box[0] < box[2] <= 32.001
        inside = (slice(2, -2), slice(2, -2))
        np.testing.assert_allclose(found[number, 0][inside], np.asarray(by_hand)[inside], atol=0.05)


def test_crops_keep_the_share_of_the_area_that_was_asked_for():
    sides = np.sqrt(0.8 + 0.2 * noise.uniform(5, addresses(range(500)), 4)[:, 0].numpy())
    assert (sides**2 >= 0.8).all()
    assert np.mean(sides**2) == pytest.approx(0.9, abs=0.01)
