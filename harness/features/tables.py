"""The tables of study 1, declared: probes, pairs of representations, samples."""

from typing import Any

import numpy as np
import pyarrow as pa

from harness.core.stages import Trial
from harness.core.tables import CORRECTNESS as CORRECTNESS
from harness.core.tables import Column, Role, Table, estimate

FLOAT, INTEGER, TEXT = pa.float64(), pa.int64(), pa.string()
ACCURACY, MEAN_AVERAGE_PRECISION = "accuracy", "mean_average_precision"  # as in the names of columns

CONDITION = Column(
    "condition",
    TEXT,
    Role.SETUP,
    "what the backbone is told besides image and timestep: a prompt or a label; null for nothing",
)

FEATURES = Table(
    "features",
    "a classifier: a head on the features of one setting, or a control",
    (
        Column(
            "features",
            TEXT,
            Role.IDENTITY,
            "trained (the backbone), untrained, pixels, screen (a screening probe of `search: auto`), frequency (it "
            "measures a timestep for `search: auto`), combined (several blocks and timesteps) or finetuned",
        ),
        Column("backbone", TEXT, Role.SETUP, "name of the backbone in the experiment; null for pixels"),
        Column("regulariser", TEXT, Role.SETUP, "of the backbone's training; null for none"),
        Column(
            "tuning",
            TEXT,
            Role.IDENTITY,
            "what fine-tuning changes of the encoder: all (its weights) or adapters, such as lora rank 8; null for "
            "frozen backbones",
        ),
        CONDITION,
        Column(
            "noise",
            TEXT,
            Role.SETUP,
            "fresh (images are noised to the timestep) or clean (they are not); null for pixels",
        ),
        Column(
            "after",
            TEXT,
            Role.SETUP,
            "what is read of a block: its output or one of its parts; null for pixels",
        ),
        Column(
            "block",
            INTEGER,
            Role.AXIS,
            "numbered from 1 along the network; null for pixels, frequency and combined",
        ),
        Column(
            "block_name", TEXT, Role.IDENTITY, "the block's module; for combined, the blocks and timesteps"
        ),
        Column(
            "timestep", INTEGER, Role.AXIS, "0 has the least noise; null for pixels and combined", "steps"
        ),
        Column(
            "sigma",
            FLOAT,
            Role.IDENTITY,
            "ratio of noise to signal at that timestep; null where no signal is left",
        ),
        Column(
            "log_snr",
            FLOAT,
            Role.IDENTITY,
            "ln of the signal-to-noise ratio of variances at that timestep",
            "nats",
        ),
        Column("pool", INTEGER, Role.AXIS, "feature maps are average-pooled to pool x pool; null for pixels"),
        Column("head", TEXT, Role.AXIS, "name or label of the head"),
        Column("caching", TEXT, Role.SETUP, "cached or streamed: whether features were stored"),
        Column(
            "precision",
            TEXT,
            Role.IDENTITY,
            "of the passes through the backbone: float32, bfloat16 or float16, several if mixed; null for pixels and "
            "finetuned",
        ),
        Column(
            "reading",
            TEXT,
            Role.IDENTITY,
            "in memory, or in batches: how the head read cached features, with the same results; null for streamed "
            "and finetuned",
        ),
        Column("dimensions", INTEGER, Role.METRIC, "features per image that the head reads"),
        Column(
            "parameter_count",
            INTEGER,
            Role.METRIC,
            "learnt parameters: the head's; for finetuned also the encoder's, or its adapters'",
        ),
        Column(
            "regularisation", FLOAT, Role.METRIC, "strength chosen on validation; null for heads without one"
        ),
        Column(
            "constant_share",
            FLOAT,
            Role.METRIC,
            "features that are the same for all training samples; null for streamed and finetuned",
            "share, 0 to 1",
        ),
        Column("train_n", INTEGER, Role.METRIC, "labelled samples that the head was trained on", "samples"),
        Column(
            "image_passes",
            INTEGER,
            Role.METRIC,
            "passes of images through the backbone behind this row; rows may share passes",
            "images",
        ),
        Column(
            "high_frequency_ratio",
            FLOAT,
            Role.METRIC,
            "energy of the feature maps above half the Nyquist frequency, mean over the blocks; only for frequency",
            "share, 0 to 1",
        ),
        *estimate(
            "validation_accuracy",
            "the criterion by which settings are selected; null for multi-label data",
            expected=True,
        ),
        *estimate(
            "test_accuracy",
            "null for a screening probe, which does not use the test images, and for multi-label data",
            expected=True,
        ),
        *estimate(
            "validation_mean_average_precision",
            "mAP over classes: the criterion for multi-label data; null for other data",
        ),
        *estimate(
            "test_mean_average_precision",
            "mAP of multi-label data; null for a screening probe and other data",
        ),
        Column("fit_seconds", FLOAT, Role.METRIC, "time taken to train the head", "s"),
    ),
    title="Study 1: what the features know",
)


def objective(multilabel: bool) -> str:
    """Returns the column of `features` by which settings are selected."""
    return f"validation_{MEAN_AVERAGE_PRECISION if multilabel else ACCURACY}"


def correctness(trial: Trial, right_test: np.ndarray) -> dict[str, Any]:
    """Returns a trial's row of `correctness`, from which test images it classified correctly (boolean)."""
    return {"study": trial.study, "kind": trial.axes["features"], "split": "test", "correct": right_test}


def _side(side: str) -> tuple[Column, ...]:
    return (
        Column(f"{side}_model", TEXT, Role.AXIS, '"backbone", "untrained", or a label of the experiment'),
        Column(f"{side}_condition", TEXT, Role.IDENTITY, "what the backbone is told; null for nothing"),
        Column(f"{side}_block", INTEGER, Role.AXIS, "the block, or the number of an encoder's layer"),
        Column(f"{side}_block_name", TEXT, Role.IDENTITY, "the block's module, or the encoder's layer"),
        Column(f"{side}_timestep", INTEGER, Role.AXIS, "null for an encoder, which sees no noise", "steps"),
        Column(f"{side}_pool", INTEGER, Role.AXIS, "maps are pooled to pool x pool; null for an encoder"),
    )


SIMILARITY = Table(
    "similarity",
    "a pair of representations of the same images",
    (
        *_side("a"),
        *_side("b"),
        Column("cka", FLOAT, Role.METRIC, "unbiased linear CKA", "1 is equal up to rotation", expected=True),
        Column("images", INTEGER, Role.METRIC, "number of images compared on", "images"),
    ),
    title="Study 1: which representations are similar",
)

GENERATION = Table(
    "generation",
    "a backbone's samples, evaluated with one encoder",
    (
        Column("backbone", TEXT, Role.SETUP, "name of the backbone in the experiment"),
        Column("regulariser", TEXT, Role.SETUP, "of the backbone's training; null for none"),
        CONDITION,
        Column("encoder", TEXT, Role.AXIS, "name or label of the encoder"),
        Column("sampler", TEXT, Role.SETUP, "ddpm or ddim"),
        Column("steps", INTEGER, Role.SETUP, "sampler steps: passes through the backbone per sample"),
        Column("samples", INTEGER, Role.SETUP, "number of samples drawn", "images"),
        Column("real", INTEGER, Role.SETUP, "real images that the samples are compared with", "images"),
        Column(
            "frechet",
            FLOAT,
            Role.METRIC,
            "Fréchet distance of Gaussians; FID where the encoder is Inception's",
            expected=True,
        ),
        Column(
            "frechet_real",
            FLOAT,
            Role.METRIC,
            "the same for as many held-out images: the distance due to finite samples alone",
            expected=True,
        ),
        Column(
            "kernel",
            FLOAT,
            Role.METRIC,
            "squared MMD, unbiased, polynomial kernel of degree 3",
            expected=True,
        ),
        Column("kernel_deviation", FLOAT, Role.METRIC, "its standard deviation over subsets"),
        Column("grid", TEXT, Role.METRIC, "some samples in one image", "PNG, base64"),
    ),
    title="Study 1: generation compared with recognition",
)
