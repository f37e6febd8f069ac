"""Flat maps of many networks: t-SNE of their latents or of their weights."""

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

FEWEST = 10  # points: fewer have no neighbourhoods
MOST = 800  # points: about a second on one core
COMPONENTS = 50  # principal ones that t-SNE sees of longer vectors
PERPLEXITY = 30.0
ITERATIONS = 500  # twice as many lower the divergence by at most 2 %


def thinned(counts: Sequence[int], most: int = MOST) -> np.ndarray:
    """Returns which of the points of groups of so many are drawn, as booleans, in the groups' order.

    All where they are at most `most`; else as large a share of each group, evenly spread, and at least one.
    """
    share = min(1.0, most / max(1, sum(counts)))
    kept = []
    for count in counts:
        drawn_N = np.zeros(count, bool)
        drawn_N[
            np.linspace(0, count - 1, max(1, int(count * share))).round().astype(int) if count else []
        ] = True
        kept.append(drawn_N)
    return np.concatenate(kept) if kept else np.zeros(0, bool)


def flat_map(points_NV: np.ndarray, seed: int) -> np.ndarray:
    """Returns places [N, 2] of points on a t-SNE map (van der Maaten and Hinton 2008), the same for the same seed.

    NaN for points that are not finite, and for all where fewer than ten are left, where a point is one number, or
    where all are the same.
    """
    places_N2 = np.full((len(points_NV), 2), np.nan)
    finite_N = np.isfinite(points_NV).all(1)
    points_NV = points_NV[finite_N].astype(np.float64)
    n = len(points_NV)
    if n < FEWEST or points_NV.shape[1] < 2 or np.ptp(points_NV, 0).max() == 0:
        return places_N2
    with threadpool_limits(1):  # threads would add up in another order, and t-SNE makes much of it
        if min(points_NV.shape) > COMPONENTS:
            points_NV = PCA(COMPONENTS, svd_solver="randomized", random_state=seed).fit_transform(points_NV)
        perplexity = min(PERPLEXITY, (n - 1) / 3)
        model = TSNE(init="pca", perplexity=perplexity, max_iter=ITERATIONS, random_state=seed)
        places_N2[finite_N] = model.fit_transform(points_NV)
    return places_N2
