"""Two-dimensional maps of many networks: t-SNE of their latents or weights."""

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

FEWEST = 10  # points: fewer have no meaningful neighbourhoods
MOST = 800  # points: about a second on one core
COMPONENTS = 50  # principal components given to t-SNE for longer vectors
PERPLEXITY = 30.0
ITERATIONS = 500  # twice as many reduce the divergence by at most 2 %


def thinned(counts: Sequence[int], most: int = MOST) -> np.ndarray:
    """Returns which points to draw, as booleans, for groups of `counts` points, in the order of the groups.

    All if they are at most `most`; otherwise the same fraction of each group, evenly spaced, and at least one.
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
    """Returns coordinates [N, 2] of points on a t-SNE map (van der Maaten and Hinton 2008), deterministic per seed.

    NaN for points that are not finite, and for all points if fewer than ten remain, if they have one dimension, or if
    all are equal.
    """
    places_N2 = np.full((len(points_NV), 2), np.nan)
    finite_N = np.isfinite(points_NV).all(1)
    points_NV = points_NV[finite_N].astype(np.float64)
    n = len(points_NV)
    if n < FEWEST or points_NV.shape[1] < 2 or np.ptp(points_NV, 0).max() == 0:
        return places_N2
    with threadpool_limits(1):  # threads change the order of sums, which t-SNE amplifies
        if min(points_NV.shape) > COMPONENTS:
            points_NV = PCA(COMPONENTS, svd_solver="randomized", random_state=seed).fit_transform(points_NV)
        perplexity = min(PERPLEXITY, (n - 1) / 3)
        model = TSNE(init="pca", perplexity=perplexity, max_iter=ITERATIONS, random_state=seed)
        places_N2[finite_N] = model.fit_transform(points_NV)
    return places_N2
