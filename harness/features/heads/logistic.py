"""Solves multinomial logistic regression, for several strengths of regularisation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from harness.features.heads.head import Fitted, Labelled
from harness.features.heads.least_squares import refuse_infinite

GRADIENT_TOLERANCE = 3e-5  # in preconditioned coordinates, where its square approximates the remaining loss
MAX_ITERATIONS = 2000
SMALLEST = 1e-9  # singular values below this share of the largest are rounding errors


class Basis(NamedTuple):
    """The principal axes of training features.

    The penalty is invariant under rotations, so the solution lies in the span of the features: a problem with more
    features than samples reduces to one with as many features as samples. Along the axes, the loss's curvature is
    known well enough for L-BFGS to converge in tens of steps instead of thousands.
    """

    mean_D: np.ndarray
    axes_DR: np.ndarray  # orthonormal
    z_NR: np.ndarray  # the training features along the axes


def principal_axes(x_ND: np.ndarray) -> Basis:
    """Returns the principal axes of `x_ND`. Raises `FloatingPointError` if features are not finite."""
    refuse_infinite(x_ND)
    mean_D = x_ND.mean(0, dtype=np.float64)
    centred_ND = x_ND.astype(np.float64) - mean_D
    if x_ND.shape[0] > x_ND.shape[1]:
        squares_R, axes_DR = np.linalg.eigh(centred_ND.T @ centred_ND)
        singular_R = np.sqrt(np.maximum(squares_R, 0.0))
    else:
        _, singular_R, axes_RD = np.linalg.svd(centred_ND, full_matrices=False)
        axes_DR = axes_RD.T
    axes_DR = axes_DR[:, singular_R > SMALLEST * singular_R.max(initial=1e-30)]
    return Basis(mean_D, axes_DR, centred_ND @ axes_DR)


def choose_strength(
    train: Labelled, validation: Labelled, classes: int, strengths: Sequence[float], device: str
) -> Fitted:
    """Fits every strength and returns the head that does best on `validation`."""
    basis = principal_axes(train.x_ND)
    found = []
    start = None
    for strength in sorted(strengths, reverse=True):  # strongest first: each solution initialises the next
        start = solve(basis.z_NR, train.labels_N, classes, strength, device, start)
        weights_DC = basis.axes_DR @ start[:-1]
        intercept_C = start[-1] - basis.mean_D @ weights_DC
        logits_NC = validation.x_ND @ weights_DC + intercept_C
        right = float(np.mean(logits_NC.argmax(1) == validation.labels_N))
        found.append(
            (right, -_cross_entropy(logits_NC, validation.labels_N), strength, weights_DC, intercept_C)
        )
    _, _, strength, weights_DC, intercept_C = max(found, key=lambda one: one[:2])
    return Fitted(as_module(weights_DC, intercept_C), strength)


def as_module(weights_DC: np.ndarray, intercept_C: np.ndarray) -> torch.nn.Module:
    """Returns a linear layer on flattened features, float64, with these weights."""
    layer = torch.nn.utils.skip_init(torch.nn.Linear, *weights_DC.shape, dtype=torch.float64)
    layer.weight.data = torch.from_numpy(np.ascontiguousarray(weights_DC.T))
    layer.bias.data = torch.from_numpy(np.ascontiguousarray(intercept_C))
    return torch.nn.Sequential(torch.nn.Flatten(), layer).requires_grad_(False)


def solve(
    z_NR: np.ndarray,
    labels_N: np.ndarray,
    classes: int,
    strength: float,
    device: str,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Returns weights and intercept [R + 1, classes] at the minimum, by preconditioned L-BFGS.

    Computes in float64, on MPS in float32. `z_NR` are centred features along their principal axes.
    """
    kind = torch.float32 if device == "mps" else torch.float64
    z = torch.as_tensor(z_NR, dtype=kind, device=device)
    truth = torch.nn.functional.one_hot(torch.as_tensor(labels_N, device=device), classes).to(kind)
    curvature = 1 / classes if start is None else _curvature(z_NR, start)
    scale = np.append(curvature * np.square(z_NR).mean(0) + strength, curvature)[:, None] ** -0.5
    scale_t = torch.as_tensor(scale, dtype=kind, device=device)
    shape = (len(scale), classes)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.as_tensor(flat.reshape(shape), dtype=kind, device=device) * scale_t
        log_p = torch.log_softmax(torch.addmm(w[-1], z, w[:-1]), 1)
        residual = (log_p.exp() - truth) / len(z)
        gradient = torch.cat([z.T @ residual + strength * w[:-1], residual.sum(0, keepdim=True)]) * scale_t
        value = -(truth * log_p).sum() / len(z) + 0.5 * strength * w[:-1].square().sum()
        return float(value), gradient.double().cpu().numpy().ravel()

    first = np.zeros(shape) if start is None else start / scale
    options = {
        "maxiter": MAX_ITERATIONS,
        "maxfun": 2 * MAX_ITERATIONS,
        "gtol": GRADIENT_TOLERANCE,
        "ftol": 0.0,
    }
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(shape) * scale


def _curvature(z_NR: np.ndarray, weights: np.ndarray) -> float:
    """Returns the mean of p (1 - p) over samples and classes: the second derivative of the loss in a logit."""
    p_NC = softmax(z_NR @ weights[:-1] + weights[-1], axis=1)
    return max(float(np.mean(p_NC * (1 - p_NC))), 1e-6)


def _cross_entropy(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    return float(-log_softmax(logits_NC, axis=1)[np.arange(len(labels_N)), labels_N].mean())
