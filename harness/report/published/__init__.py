"""The published numbers of study 1 (arXiv 2307.08702), drawn beside the measured ones and never mixed with them.

`diffusion_features.csv` holds them with their source and precision: the figure, the data set, the backbone, the head,
block, timestep and pool (empty where the paper does not say), and a top-1 accuracy in percent or an FID. The paper's
code chooses settings on the test split; this project chooses on validation.
"""

from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd

ADM = "adm-256-uncond"
NAME = "published: ADM, ImageNet"
# Blocks of `UNet2DModel` with ADM's six levels of two layers; the numbers are the paper's.
ADM_BLOCKS = {
    6: "down_blocks.1.resnets.1",
    9: "down_blocks.2.resnets.1",
    15: "down_blocks.4.attentions.1",
    19: "mid_block",
    24: "up_blocks.1.attentions.1",
    30: "up_blocks.3.resnets.1",
    33: "up_blocks.4.resnets.1",
}
# With 1000 classes, section 4 of the paper; the accuracies beside them are with 50.
ATTENTION_PARAMETERS = {
    "attention-1-blocks": 13_600_000,
    "attention-2-blocks": 26_200_000,
    "attention-3-blocks": 38_800_000,
    "attention-4-blocks": 51_400_000,
    "attention-5-blocks": 64_000_000,
}
LINEAR_CLASSES, LINEAR_CHANNELS = 50, 1024  # of the linear heads beside them, at block 24


@cache
def published() -> pd.DataFrame:
    """Returns all rows of the CSV: `value` is in percent for the metric top1."""
    with files("harness.report").joinpath("published/diffusion_features.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def of_figure(figure: str, **values: object) -> pd.DataFrame:
    """Returns the top-1 rows of one published figure that have these values."""
    frame = published()
    frame = frame[(frame["figure"] == figure) & (frame["metric"] == "top1")]
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def log_snr(timestep: float) -> float:
    """Returns ln(a / (1 - a)) of ADM's 1000 steps, beta linear from 1e-4 to 0.02 (Ho et al. 2020, section 4)."""
    a = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[int(timestep)]
    return float(np.log(a / (1 - a)))


def sigma(timestep: float) -> float:
    """Returns ADM's noise over signal at a timestep."""
    return float(np.exp(-log_snr(timestep) / 2))


def same_blocks(blocks: pd.DataFrame) -> bool:
    """Returns whether rows with `backbone`, `block` and `block_name` are of a network numbered as ADM is."""
    known = blocks.dropna(subset=["block", "block_name"])[["block", "block_name"]].drop_duplicates()
    same = [
        ADM_BLOCKS[int(block)].replace("attentions", "resnets") == str(name).replace("attentions", "resnets")
        for block, name in known.itertuples(index=False)
        if int(block) in ADM_BLOCKS
    ]
    return all(same) if same else bool((blocks["backbone"] == "adm").any())
