"""Similarity of networks: of their wrong predictions, and of their parameters."""

import numpy as np

BYTES_AT_ONCE = 2048  # bytes of packed samples unpacked at a time
NUMBERS_AT_ONCE = 2**24  # numbers in float64 at a time
NEAR = 1e-6  # squared distance over squared lengths: below it a matrix product is too imprecise


def pack(masks_AN: np.ndarray) -> np.ndarray:
    """Returns boolean masks as bits [A, ceil(N / 8)], uint8; masks already packed are returned unchanged."""
    return masks_AN if masks_AN.dtype == np.uint8 else np.packbits(masks_AN, axis=1)


def error_iou(wrong_AN: np.ndarray, wrong_BN: np.ndarray) -> np.ndarray:
    """Returns |Wa & Wb| / |Wa | Wb| for all pairs of networks [A, B], float32 (p-diff, section 4.1).

    Arguments say which of the N samples each network gets wrong, as booleans or as the bits that `pack` returns. Two
    networks without errors count as equal: 0/0 is 1. One matrix product over the samples that some network on each
    side gets wrong; exact in float32 up to 2**24 samples.
    """
    a_AW = pack(wrong_AN)
    b_BW = a_AW if wrong_BN is wrong_AN else pack(wrong_BN)
    told_W = np.bitwise_or.reduce(a_AW, 0) & np.bitwise_or.reduce(b_BW, 0)
    both_AB = np.zeros((len(a_AW), len(b_BW)), np.float32)
    for begin in range(0, len(told_W), BYTES_AT_ONCE):
        some = slice(begin, begin + BYTES_AT_ONCE)
        columns = np.flatnonzero(np.unpackbits(told_W[some]))
        a_AN = np.unpackbits(a_AW[:, some], axis=1)[:, columns].astype(np.float32)
        # the product of a matrix with itself is half the work
        b_BN = a_AN if b_BW is a_AW else np.unpackbits(b_BW[:, some], axis=1)[:, columns].astype(np.float32)
        both_AB += a_AN @ b_BN.T
    a_A, b_B = (np.count_nonzero(np.unpackbits(bits, axis=1), axis=1) for bits in (a_AW, b_BW))
    either_AB = (a_A[:, None] + b_B[None]).astype(np.float32) - both_AB
    return np.where(either_AB == 0, np.float32(1), both_AB / np.maximum(either_AB, 1))


def root_mean_square_distance(a_AP: np.ndarray, b_BP: np.ndarray) -> np.ndarray:
    """Returns the root mean square difference of all pairs of vectors [A, B], float64.

    By matrix products centred at b's mean; pairs so close that these would cancel are subtracted directly.
    """
    mean_P = b_BP.mean(0, dtype=np.float64)
    b_centred_BP = b_BP - mean_P
    b_B = np.square(b_centred_BP).sum(1)
    step = max(1, NUMBERS_AT_ONCE // max(1, len(mean_P)))
    squares = [np.zeros((0, len(b_BP)))]
    for begin in range(0, len(a_AP), step):
        a_centred_AP = a_AP[begin : begin + step] - mean_P
        lengths_AB = np.square(a_centred_AP).sum(1)[:, None] + b_B
        square_AB = lengths_AB - 2 * (a_centred_AP @ b_centred_BP.T)
        near = np.argwhere(square_AB <= NEAR * lengths_AB)
        for few in np.split(near, range(step, len(near), step)):
            gaps_FP = a_AP[begin + few[:, 0]].astype(np.float64) - b_BP[few[:, 1]]
            square_AB[few[:, 0], few[:, 1]] = np.square(gaps_FP).sum(1)
        squares.append(square_AB)
    return np.sqrt(np.concatenate(squares) / len(mean_P))


def most_similar_other(similarity_AA: np.ndarray) -> np.ndarray:
    """Returns the largest similarity [A] of each network to another one; NaN if there is no other."""
    if len(similarity_AA) < 2:
        return np.full(len(similarity_AA), np.nan)
    masked_AA = np.array(similarity_AA, np.float64)
    np.fill_diagonal(masked_AA, -np.inf)
    return masked_AA.max(1)
