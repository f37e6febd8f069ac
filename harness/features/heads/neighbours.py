"""k nearest neighbours as a torch module: its weights are the training features.

Legend: N bank size, M and B queries, K neighbours, D dimensions, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize, one_hot

QUERIES = 256  # compared with the bank at a time


class Neighbours(nn.Module):
    """Votes of the `k` nearest of a bank by cosine similarity, weighted by exp((similarity - 1) / temperature)."""

    bank_ND: torch.Tensor
    labels_N: torch.Tensor
    k: torch.Tensor

    def __init__(self, dimensions: int, classes: int, temperature: float) -> None:
        super().__init__()
        self.classes, self.temperature = classes, temperature
        self.register_buffer("bank_ND", torch.empty(0, dimensions))  # unit vectors
        self.register_buffer("labels_N", torch.empty(0, dtype=torch.int64))
        self.register_buffer("k", torch.tensor(1))

    def remember(self, x: torch.Tensor, labels_N: torch.Tensor) -> None:
        """Fills the bank with features [N, ...]."""
        self.bank_ND, self.labels_N = normalize(x.flatten(1)), labels_N.clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns scores [B, classes] of features [B, ...]."""
        k = int(self.k)
        return torch.cat([self._scores(*self._nearest(part, k)) for part in x.split(QUERIES)])

    @torch.no_grad()
    def choose(self, x: torch.Tensor, labels_M: torch.Tensor, ks: Sequence[int]) -> int:
        """Sets and returns the most accurate of `ks` on x [M, ...]; ties go to the largest share of correct votes."""
        marks_K2 = torch.zeros(len(ks), 2, dtype=torch.float64)
        for part, truth_B in zip(x.split(QUERIES), labels_M.split(QUERIES), strict=True):
            labels_BK, weights_BK = self._nearest(part.to(self.bank_ND.device), max(ks))
            for place, k in enumerate(ks):
                scores_BC = self._scores(labels_BK[:, :k], weights_BK[:, :k]).cpu()
                share_B = scores_BC.gather(1, truth_B[:, None])[:, 0] / scores_BC.sum(1)
                marks_K2[place, 0] += (scores_BC.argmax(1) == truth_B).sum()
                marks_K2[place, 1] += share_B.double().sum()
        k = max(zip(marks_K2.tolist(), ks, strict=True), key=lambda one: one[0])[1]
        self.k = torch.tensor(k, device=self.k.device)
        return k

    def _nearest(self, x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns labels and weights [B, K] of the k nearest, nearest first."""
        similarity_BN = normalize(x.flatten(1).to(self.bank_ND.dtype)) @ self.bank_ND.T
        nearest = similarity_BN.topk(k, dim=1)
        return self.labels_N[nearest.indices], ((nearest.values - 1) / self.temperature).exp()

    def _scores(self, labels_BK: torch.Tensor, weights_BK: torch.Tensor) -> torch.Tensor:
        votes_BKC = one_hot(labels_BK, self.classes).to(weights_BK.dtype)
        return (weights_BK[:, None] @ votes_BKC)[:, 0]

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Resizes the bank to the one that is loaded."""
        for name in ("bank_ND", "labels_N"):
            given = state_dict.get(prefix + name)
            if given is not None and given.shape[1:] == getattr(self, name).shape[1:]:
                setattr(self, name, getattr(self, name).new_empty(given.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
