"""A multilayer perceptron on frozen features."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from harness.features.heads.head import Fitted, Head, Labelled
from harness.training.config import TrainConfig


class MLP(Head):
    """Linear-ReLU chain, trained by the common loop."""

    name: Literal["mlp"] = "mlp"
    hidden: list[Annotated[int, Field(ge=1, le=65_536)]] = Field([256], min_length=1, max_length=64)
    train: TrainConfig = TrainConfig(
        steps=200, batch=128, learning_rate=1e-3, weight_decay=1e-2, schedule="cosine", workers=0
    )

    def fit(self, train: Labelled, validation: Labelled, classes: int, seed: int, device: str) -> Fitted:
        """Trains for a fixed number of steps; `validation` is not looked at."""
        import torch

        from harness.models.mlp import build_mlp
        from harness.training.loop import Crew, fit
        from harness.training.tasks import Classification

        widths = [train.x_ND.shape[1], *self.hidden, classes]
        x_ND, labels_N = torch.from_numpy(train.x_ND), torch.from_numpy(train.labels_N)
        task = Classification(lambda: build_mlp(widths), x_ND, labels_N)
        model = fit(task, self.train, seed, Crew(torch.device(device))).model.eval()

        def predict(x_ND: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return model(torch.from_numpy(x_ND).to(device)).argmax(1).cpu().numpy()

        return Fitted(predict, None)
