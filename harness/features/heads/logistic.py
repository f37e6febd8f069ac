"""Solves logistic regression, multinomial or of each class, for several strengths of regularisation."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from harness.data.label_arrays import is_multilabel
from harness.features.heads.choosing import log_likelihood, ranked
from harness.features.heads.head import Fitted, Labelled
from harness.features.heads.principal_axes import PrincipalAxes

GRADIENT_TOLERANCE = 3e-5  # in preconditioned coordinates, where its square approximates the remaining loss
MAX_ITERATIONS = 2000


def choose_strength(
    train: Labelled, validation: Labelled, classes: int, strengths: Sequence[float], device: str
) -> Fitted:
    """Fits every strength and returns the head that does best on `validation`."""
    axes = PrincipalAxes(train.x, device)
    best: tuple[tuple[float, float], Fitted] | None = None
    start = None
    for strength in sorted(strengths, reverse=True):  # strongest first: each solution initialises the next
        start = solve(axes, train.labels_N, classes, strength, device, start)
        weights = axes.weights(torch.as_tensor(start[:-1], device=axes.mean_D.device))
        intercept_C = start[-1] - (axes.mean_D @ weights).cpu().numpy()
        weights_DC = weights.cpu().numpy()
        mark = _mark(validation, weights_DC, intercept_C)
        if best is None or mark > best[0]:
            best = mark, Fitted(as_module(weights_DC, intercept_C), strength)
    assert best is not None
    return best[1]


def as_module(weights_DC: np.ndarray, intercept_C: np.ndarray) -> torch.nn.Module:
    """Returns a linear layer on flattened features, float64, with these weights."""
    layer = torch.nn.utils.skip_init(torch.nn.Linear, *weights_DC.shape, dtype=torch.float64)
    layer.weight.data = torch.from_numpy(np.ascontiguousarray(weights_DC.T))
    layer.bias.data = torch.from_numpy(np.ascontiguousarray(intercept_C))
    return torch.nn.Sequential(torch.nn.Flatten(), layer).requires_grad_(False)


def solve(
    axes: PrincipalAxes,
    labels_N: np.ndarray,
    classes: int,
    strength: float,
    device: str,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Returns weights along the axes and intercept [R + 1, classes] at the minimum, by preconditioned L-BFGS.

    The penalty is invariant under rotations, so the solution lies in the span of the features: a problem with more
    features than samples reduces to one with as many features as samples. Along the axes, the loss's curvature is
    known well enough for L-BFGS to converge in tens of steps instead of thousands. Each step goes over all samples in
    batches, which are read again if the features along the axes are not held. Computes in float64, on MPS in float32.
    """
    kind = torch.float32 if device == "mps" else torch.float64
    labels, several = torch.as_tensor(labels_N, device=device), is_multilabel(labels_N)
    first_curvature = 1 / 4 if several else 1 / classes
    curvature = first_curvature if start is None else _curvature(axes, start, several)
    spread_R = axes.squares_R.cpu().numpy() / axes.n
    scale = np.append(curvature * spread_R + strength, curvature)[:, None] ** -0.5
    scale_t = torch.as_tensor(scale, dtype=kind, device=device)
    shape = (len(scale), classes)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.as_tensor(flat.reshape(shape), dtype=kind, device=device) * scale_t
        weights_MC = axes.into(w[:-1])
        value, products_MC, sums_C = 0.0, torch.zeros_like(weights_MC), torch.zeros_like(w[-1])
        for place, x in axes.batches():
            x_BM = x.to(device, kind)
            loss, residual = _cross_entropy(torch.addmm(w[-1], x_BM, weights_MC), labels[place])
            value += loss
            products_MC.addmm_(x_BM.T, residual)
            sums_C += residual.sum(0)
        along_RC = axes.back(products_MC) / axes.n + strength * w[:-1]
        gradient = torch.cat([along_RC, sums_C[None] / axes.n]) * scale_t
        value = value / axes.n + float(0.5 * strength * w[:-1].square().sum())
        return value, gradient.double().cpu().numpy().ravel()

    first = np.zeros(shape) if start is None else start / scale
    options = {
        "maxiter": MAX_ITERATIONS,
        "maxfun": 2 * MAX_ITERATIONS,
        "gtol": GRADIENT_TOLERANCE,
        "ftol": 0.0,
    }
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(shape) * scale


def _cross_entropy(logits_BC: torch.Tensor, labels: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Returns the cross-entropy summed over samples, and its gradient in the logits [B, C].

    Labels are class numbers [B], or 0 and 1 [B, C]: then it is summed over the classes, each against its absence.
    """
    if labels.ndim == 2:
        y_BC = labels.to(logits_BC.dtype)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_BC, y_BC, reduction="sum")
        return float(loss), torch.sigmoid(logits_BC) - y_BC
    log_p, labels_B1 = torch.log_softmax(logits_BC, 1), labels[:, None]
    loss = -log_p.gather(1, labels_B1).sum()
    return float(loss), log_p.exp_().scatter_add_(1, labels_B1, -torch.ones_like(log_p[:, :1]))


def _curvature(axes: PrincipalAxes, start: np.ndarray, several: bool) -> float:
    """Returns the mean of p (1 - p) over samples and classes: the second derivative of the loss in a logit."""
    w = torch.as_tensor(start, device=axes.mean_D.device)
    weights_MC, total = axes.into(w[:-1]), 0.0
    for _, x_BM in axes.batches():
        logits_BC = torch.addmm(w[-1], x_BM, weights_MC)
        p_BC = torch.sigmoid(logits_BC) if several else torch.softmax(logits_BC, 1)
        total += float((p_BC * (1 - p_BC)).sum())
    return max(total / (axes.n * start.shape[1]), 1e-6)


def _mark(validation: Labelled, weights_DC: np.ndarray, intercept_C: np.ndarray) -> tuple[float, float]:
    """Returns accuracy and negative cross-entropy, as sums over samples; mAP in place of accuracy if multi-label."""
    if is_multilabel(validation.labels_N):
        scores_NC = np.concatenate([x_BD @ weights_DC + intercept_C for x_BD, _ in validation.batches()])
        return ranked(scores_NC, validation.labels_N), log_likelihood(scores_NC, validation.labels_N)
    right, truth = 0.0, 0.0
    for x_BD, labels_B in validation.batches():
        logits_BC = x_BD @ weights_DC + intercept_C
        right += float(np.sum(logits_BC.argmax(1) == labels_B))
        truth += float(log_softmax(logits_BC, axis=1)[np.arange(len(labels_B)), labels_B].sum())
    return right, truth
