"""Centred kernel alignment (CKA): the similarity of two representations of the same images, linear and unbiased.

CKA(K, L) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) (Kornblith et al. 2019, equation 2) of the kernels K = X X' and
L = Y Y', with the unbiased estimator of HSIC (Song et al. 2012, equation 5): 1 for representations that are equal up
to rotation, shift and scale, 0 on average for independent ones, whatever the number of images. Nguyen et al. 2021
average it over minibatches; here minibatches add up to exactly the value of all images at once.

Two ways to compute the same number, for all pairs of representations at once: from sums over features (`Moments`),
which need each minibatch once and store no images, and from the images' Gram matrices, a few rows at a time, which is
cheaper if there are more features than images.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

LEAST_IMAGES = 4  # for which unbiased HSIC is defined
TILE_NUMBERS = 2**24  # of the Gram matrices in memory at a time
NEGLIGIBLE = 1e-12  # relative to a representation's size: smaller variation is rounding


def cka(representations: Sequence[Floats], batch: int = 256) -> npt.NDArray[np.float64]:
    """Returns the unbiased linear CKA of all pairs of K representations [N, D_k] of the same images: [K, K].

    NaN where one is constant, since CKA is undefined then. The cheaper of the two ways is used. Raises
    `ValueError` below four images.
    """
    images = len(representations[0])
    if sum(x_ND.shape[1] for x_ND in representations) > images:
        return _from_grams(representations)
    moments = Moments()
    for begin in range(0, images, batch):
        moments.add([x_ND[begin : begin + batch] for x_ND in representations])
    return moments.cka()


class Moments:
    """Sums over images from which HSIC follows, however the images are cut into minibatches.

    With s = sum of x, every term of the estimator is one of these, for x_i and y_i of the two representations:
    sum x_i y_i', sum |x_i|^2, sum |x_i|^2 |y_i|^2 and sum x_i |y_i|^2. Representations are shifted by the mean of
    the first minibatch, which does not change HSIC and keeps the sums small.
    """

    def __init__(self) -> None:
        self.images = 0
        self._edges: list[int] = []  # where representations begin and end among all features
        self._origin_D: npt.NDArray[np.float64]

    def add(self, batch: Sequence[Floats]) -> None:
        """Adds the representations [B, D_k] of a minibatch of images, always in the same order."""
        z_BD = np.concatenate([np.asarray(x_BD, np.float64) for x_BD in batch], 1)
        if not self._edges:
            self._begin(z_BD, [x_BD.shape[1] for x_BD in batch])
        self._raw_K += self._by_representation(z_BD**2).sum(0)
        z_BD = z_BD - self._origin_D
        norm_BK = self._by_representation(z_BD**2)
        self.images += len(z_BD)
        self._sum_D += z_BD.sum(0)
        self._gram_DD += z_BD.T @ z_BD
        self._norm_K += norm_BK.sum(0)
        self._norms_KK += norm_BK.T @ norm_BK
        self._weighted_DK += z_BD.T @ norm_BK

    def cka(self) -> npt.NDArray[np.float64]:
        """Returns CKA [K, K]; raises `ValueError` below four images."""
        hsic_KK = self.hsic()
        return _normalised(hsic_KK, self._raw_K / self.images)

    def hsic(self) -> npt.NDArray[np.float64]:
        """Returns unbiased HSIC [K, K]; raises `ValueError` below four images."""
        n = _enough(self.images)
        parts = [slice(a, b) for a, b in zip(self._edges, self._edges[1:], strict=False)]
        # X'Y s_y for each pair, [D, K], and with it s_x' X'Y s_y and s_x' sum x |y|^2, [K, K]
        product_DK = np.stack([self._gram_DD[:, part] @ self._sum_D[part] for part in parts], 1)
        cross_KK = self._by_representation((self._sum_D[:, None] * product_DK).T).T
        weighted_KK = self._by_representation((self._sum_D[:, None] * self._weighted_DK).T).T
        square_KK = np.array([[(self._gram_DD[a, b] ** 2).sum() for b in parts] for a in parts])
        total_K = self._by_representation(self._sum_D[None] ** 2)[0] - self._norm_K  # 1'K~1
        rows_KK = cross_KK - weighted_KK - weighted_KK.T + self._norms_KK  # 1'K~L~1
        return (
            square_KK
            - self._norms_KK
            + np.outer(total_K, total_K) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * rows_KK
        ) / (n * (n - 3))

    def _begin(self, z_BD: npt.NDArray[np.float64], widths: Sequence[int]) -> None:
        self._edges = [0, *np.cumsum(widths).tolist()]
        dimensions, count = z_BD.shape[1], len(widths)
        self._origin_D = z_BD.mean(0)
        self._sum_D = np.zeros(dimensions)
        self._gram_DD = np.zeros((dimensions, dimensions))
        self._weighted_DK = np.zeros((dimensions, count))
        self._norm_K, self._raw_K = np.zeros(count), np.zeros(count)
        self._norms_KK = np.zeros((count, count))

    def _by_representation(self, values_ND: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Adds up the features of each representation: [N, K]."""
        return np.add.reduceat(values_ND, self._edges[:-1], axis=1)


def _from_grams(representations: Sequence[Floats]) -> npt.NDArray[np.float64]:
    """Returns CKA [K, K] from U-centred Gram matrices (Szekely & Rizzo 2014), whose products are HSIC."""
    images, count = _enough(len(representations[0])), len(representations)
    hsic_KK = np.zeros((count, count))
    rows = max(1, TILE_NUMBERS // (images * count))
    for begin in range(0, images, rows):
        tile_KM = np.stack([_u_centred(x_ND, begin, begin + rows).ravel() for x_ND in representations])
        hsic_KK += tile_KM @ tile_KM.T
    raw_K = np.array([np.square(x_ND, dtype=np.float64).sum() / images for x_ND in representations])
    return _normalised(hsic_KK / (images * (images - 3)), raw_K)


def _u_centred(x_ND: Floats, begin: int, end: int) -> npt.NDArray[np.float64]:
    """Returns rows `begin` to `end` of the Gram matrix, without its diagonal and centred so that HSIC is unbiased."""
    n = len(x_ND)
    z_ND = np.asarray(x_ND, np.float64)
    z_ND = z_ND - z_ND.mean(0)
    rows_N = z_ND @ z_ND.sum(0) - (z_ND**2).sum(1)
    tile_MN = z_ND[begin:end] @ z_ND.T
    tile_MN -= (rows_N[begin:end, None] + rows_N) / (n - 2) - rows_N.sum() / ((n - 1) * (n - 2))
    places = np.arange(len(tile_MN))
    tile_MN[places, begin + places] = 0
    return tile_MN


def _normalised(hsic_KK: npt.NDArray[np.float64], size_K: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Divides HSIC by that of each with itself; `size_K` is the mean of |x|^2."""
    own_K = np.diag(hsic_KK)
    constant_K = own_K <= (NEGLIGIBLE * size_K) ** 2
    root_K = np.sqrt(np.where(constant_K, np.nan, own_K))
    return hsic_KK / root_K[:, None] / root_K


def _enough(images: int) -> int:
    if images < LEAST_IMAGES:
        raise ValueError(f"unbiased CKA needs {LEAST_IMAGES} images, got {images}")
    return images
