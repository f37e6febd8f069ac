"""k nearest neighbours on frozen features."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from harness.features.heads.head import Fitted, Head, Labelled

if TYPE_CHECKING:
    from torch import nn


class KNN(Head):
    """The k training images of largest cosine similarity vote, with weights exp(similarity / temperature).

    k is chosen on validation, and recorded as the regularisation. Wu et al. 2018 (arXiv 1805.01978), section 3.4.
    """

    name: Literal["knn"] = "knn"
    neighbours: list[Annotated[int, Field(ge=1, le=65_536)]] = Field([1, 5, 10, 20, 50], min_length=1)
    temperature: float = Field(0.07, gt=0)

    @property
    def seconds(self) -> float:
        """A guess for a thousand features of a few hundred images."""
        return 0.02

    def network(self, shape: tuple[int, ...], classes: int) -> "nn.Module":
        """Returns an empty bank of training features, which takes the size of the bank that is loaded into it."""
        from harness.features.heads.neighbours import Neighbours

        return Neighbours(math.prod(shape), classes, self.temperature)

    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Chooses k by accuracy on `validation`, between equals by the truth's share of the votes there.

        A k beyond the training images means all of them.
        """
        import torch

        from harness.features.heads.least_squares import refuse_infinite
        from harness.features.heads.neighbours import Neighbours

        refuse_infinite(train.x)
        network = Neighbours(math.prod(train.x.shape[1:]), classes, self.temperature)
        network.remember(torch.from_numpy(train.x), torch.from_numpy(train.labels_N))
        network = network.to(device)
        ks = sorted({min(k, len(train.labels_N)) for k in self.neighbours})
        k = network.choose(torch.from_numpy(validation.x), torch.from_numpy(validation.labels_N), ks)
        return Fitted(network, float(k))
