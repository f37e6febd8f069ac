"""k nearest neighbours on frozen features."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from harness.features.heads.head import Fitted, Head, Labelled

if TYPE_CHECKING:
    from torch import nn


class KNN(Head):
    """The k training images with the largest cosine similarity vote, with weights exp(similarity / temperature).

    k is chosen on validation and recorded as the regularisation. Wu et al. 2018 (arXiv 1805.01978), section 3.4.
    """

    name: Literal["knn"] = "knn"
    neighbours: list[Annotated[int, Field(ge=1, le=65_536)]] = Field([1, 5, 10, 20, 50], min_length=1)
    temperature: float = Field(0.07, gt=0)

    @property
    def seconds(self) -> float:
        """An estimate for a thousand features of a few hundred images."""
        return 0.02

    def module(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns an empty bank of training features, which resizes to the bank loaded into it."""
        from harness.features.heads.neighbours import Neighbours

        return Neighbours(math.prod(shape), classes, self.temperature)

    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Chooses k by accuracy on `validation`; ties are broken by the true class's share of the votes.

        A k above the number of training images means all of them.
        """
        import torch

        from harness.features.heads.least_squares import refuse_infinite
        from harness.features.heads.neighbours import Neighbours

        x_ND = train.x_ND
        refuse_infinite(x_ND)
        module = Neighbours(train.dimensions, classes, self.temperature)
        module.remember(torch.from_numpy(x_ND), torch.from_numpy(train.labels_N))
        module = module.to(device)
        ks = sorted({min(k, len(train.labels_N)) for k in self.neighbours})
        k = module.choose(torch.from_numpy(validation.x_ND), torch.from_numpy(validation.labels_N), ks)
        return Fitted(module, float(k))
