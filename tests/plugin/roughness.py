"""A study of another package: how rough are images after blurring? Small, but with every duty of a study."""

from itertools import product

import numpy as np
import pyarrow as pa
from pydantic import Field

from harness.core.checks import refuse_duplicates
from harness.core.config import Config
from harness.core.stages import Code, Stage, Trial
from harness.core.study import Study
from harness.core.tables import Column, Role, Table, estimate
from harness.data.dataset import open_dataset
from harness.metrics.accuracy import accuracy

BLURRED = Code("blurred", 1, "roughness:make_blurred")
ROUGHNESS = Code("roughness", 1, "roughness:run")

TABLE = Table(
    "roughness",
    "images of a split at one blur",
    (
        Column("blur", pa.int64(), Role.AXIS, "side of the box that is averaged over", "pixels"),
        Column("split", pa.string(), Role.AXIS, "which images"),
        Column("edge", pa.string(), Role.SETUP, "how the border is filled"),
        Column(
            "gradient",
            pa.float64(),
            Role.METRIC,
            "mean absolute difference of neighbours",
            "grey levels",
            True,
        ),
        *estimate("rough_share", "of images rougher than the threshold"),
    ),
    title="Roughness of images",
)


class RoughnessConfig(Config):
    """The `roughness:` section of an experiment."""

    blurs: list[int] = Field([1, 2, 4], min_length=1)
    splits: list[str] = Field(["train", "test"], min_length=1)
    edge: str = "reflect"
    threshold: float = 20.0


class Roughness(Study):
    """How rough are the images, and how much of that does blurring leave?"""

    name = "roughness"
    Config = RoughnessConfig
    tables = (TABLE,)

    def trials(self, config, images, seed):
        """Returns a trial for each blur and split."""
        refuse_duplicates(config.blurs, "roughness.blurs")
        blurred = {blur: self._blurred(blur, config, images) for blur in config.blurs}
        return [
            Trial(
                study=self.name,
                table=TABLE.name,
                objective="gradient",
                code=ROUGHNESS,
                axes={"blur": blur, "split": split, "edge": config.edge},
                config={"threshold": config.threshold},
                seed=seed,
                data=images.config.display_name,
                data_fingerprint=images.dataset.fingerprint,
                needs={"dataset": images.stage, "blurred": blurred[blur]},
            )
            for blur, split in product(config.blurs, config.splits)
        ]

    def _blurred(self, blur, config, images):
        values = {"blur": blur, "edge": config.edge}
        return Stage("blurred", BLURRED, values, needs={"dataset": images.stage})

    def describe(self, config, size, channels):
        """Returns a line."""
        return [f"roughness at blurs {', '.join(map(str, config.blurs))} of {size} pixels"]


STUDY = Roughness()


def make_blurred(stage, folder, context):
    """Writes blurred images, float32 [N, C, H, W]."""
    images = open_dataset(stage.needs["dataset"], context).images[:].astype(np.float32)
    blur = stage.config["blur"]
    padded = np.pad(images, ((0, 0), (0, 0), (0, blur - 1), (0, blur - 1)), mode=stage.config["edge"])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (blur, blur), axis=(2, 3))
    np.save(folder / "images.npy", windows.mean((-2, -1)))


def run(trial, context):
    """Returns one row of `roughness`."""
    dataset = open_dataset(trial.needs["dataset"], context)
    images = np.load(context.file(trial.needs["blurred"], "images.npy"))
    chosen = images[dataset.splits[trial.axes["split"]]]
    gradients = np.abs(np.diff(chosen, axis=3)).mean((1, 2, 3))
    rough = accuracy(gradients > trial.config["threshold"])  # a share with its interval
    return {"roughness": [{"gradient": float(gradients.mean()), **rough.columns("rough_share")}]}
