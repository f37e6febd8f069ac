"""Converts images from any common form to what a network reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from harness.core.errors import UserError
from harness.data.decoding import prepared


def as_pixels(images: Any, size: int, channels: int) -> np.ndarray:
    """Returns images of any accepted type as uint8 [N, channels, size, size]; raises `UserError`."""
    if isinstance(images, list | tuple) and images and all(isinstance(one, Image.Image) for one in images):
        return _stacked(images, size, channels)
    if isinstance(images, torch.Tensor):
        images = (images.float() if images.is_floating_point() else images).detach().cpu().numpy()
    if not isinstance(images, np.ndarray):
        raise UserError(
            f"images: {type(images).__name__}: expected a list of PIL images, or an array or tensor "
            f"[N, {channels}, H, W] or [N, H, W, {channels}]"
        )
    levels_NCHW = _grey_levels(_channels_first(images, channels))
    if levels_NCHW.shape[2:] == (size, size):
        return levels_NCHW
    pictures = [Image.fromarray(one[0] if channels == 1 else one.transpose(1, 2, 0)) for one in levels_NCHW]
    return _stacked(pictures, size, channels)


def _stacked(pictures: Sequence[Image.Image], size: int, channels: int) -> np.ndarray:
    # The same memory layout for all, since the rounding of convolutions may depend on it.
    return np.ascontiguousarray(np.stack([prepared(one, channels, size) for one in pictures]))


def _channels_first(images: np.ndarray, channels: int) -> np.ndarray:
    if images.ndim == 4 and len(images) and min(images.shape) > 0:
        if images.shape[1] == channels:
            return images
        if images.shape[3] == channels:
            return images.transpose(0, 3, 1, 2)
    raise UserError(
        f"images of shape {list(images.shape)}: expected [N, {channels}, H, W] or [N, H, W, {channels}]: "
        f"the network reads {'grey' if channels == 1 else 'colour'} images"
    )


def _grey_levels(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if not np.issubdtype(images.dtype, np.floating):
        raise UserError(f"images of {images.dtype}: expected uint8 values, or floats from 0 to 1")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"images with values from {low:.4g} to {high:.4g}: floats must be from 0 to 1; otherwise give uint8"
        )
    return np.round(images.astype(np.float64) * 255).astype(np.uint8)
