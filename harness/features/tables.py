"""The tables of study 1, declared: probes, pairs of representations, samples."""

import pyarrow as pa

from harness.core.tables import CORRECTNESS as CORRECTNESS
from harness.core.tables import Column, Role, Table, estimate

FLOAT, INTEGER, TEXT = pa.float64(), pa.int64(), pa.string()

FEATURES = Table(
    "features",
    "a classifier: a head on the features of one setting, or a control",
    (
        Column(
            "features",
            TEXT,
            Role.IDENTITY,
            "trained (the backbone), untrained, pixels, screen (a quick look by `search: auto`), combined (several "
            "blocks and timesteps) or finetuned",
        ),
        Column("backbone", TEXT, Role.SETUP, "name of the backbone in the experiment; null for pixels"),
        Column("regulariser", TEXT, Role.SETUP, "of the backbone's training; null for none"),
        Column(
            "block", INTEGER, Role.AXIS, "numbered from 1 along the network; null for pixels and combined"
        ),
        Column(
            "block_name", TEXT, Role.IDENTITY, "the block's module; of combined, the blocks and timesteps"
        ),
        Column("timestep", INTEGER, Role.AXIS, "0 is least noise; null for pixels and combined", "steps"),
        Column(
            "sigma", FLOAT, Role.IDENTITY, "that timestep's noise over signal; null where no signal is left"
        ),
        Column(
            "log_snr",
            FLOAT,
            Role.IDENTITY,
            "ln of that timestep's signal-to-noise ratio of variances",
            "nats",
        ),
        Column("pool", INTEGER, Role.AXIS, "feature maps are average-pooled to pool x pool; null for pixels"),
        Column("head", TEXT, Role.AXIS, "name or label of the head"),
        Column("caching", TEXT, Role.SETUP, "cached or streamed: whether features were stored"),
        Column("dimensions", INTEGER, Role.METRIC, "numbers that the head sees of an image"),
        Column(
            "parameter_count",
            INTEGER,
            Role.METRIC,
            "that are learnt: the head's; with finetuned the encoder's too",
        ),
        Column("regularisation", FLOAT, Role.METRIC, "strength chosen on validation; null for heads without"),
        Column("train_n", INTEGER, Role.METRIC, "labelled samples that the head learnt from", "samples"),
        Column(
            "image_passes",
            INTEGER,
            Role.METRIC,
            "of this row's images through the backbone; rows of one pass share them",
            "images",
        ),
        *estimate("validation_accuracy", "what settings are selected by", expected=True),
        *estimate("test_accuracy", "of a screen null: it leaves the test images alone", expected=True),
        Column("fit_seconds", FLOAT, Role.METRIC, "time that training the head took", "s"),
    ),
    title="Study 1: what the features know",
)


def _side(side: str) -> tuple[Column, ...]:
    return (
        Column(f"{side}_model", TEXT, Role.AXIS, '"backbone", "untrained", or a label of the experiment'),
        Column(f"{side}_block", INTEGER, Role.AXIS, "the block, or the number of an encoder's layer"),
        Column(f"{side}_block_name", TEXT, Role.IDENTITY, "the block's module, or the encoder's layer"),
        Column(f"{side}_timestep", INTEGER, Role.AXIS, "null for an encoder: it sees no noise", "steps"),
        Column(f"{side}_pool", INTEGER, Role.AXIS, "maps are pooled to pool x pool; null for an encoder"),
    )


SIMILARITY = Table(
    "similarity",
    "a pair of representations of the same images",
    (
        *_side("a"),
        *_side("b"),
        Column("cka", FLOAT, Role.METRIC, "unbiased linear CKA", "1 is equal up to rotation", expected=True),
        Column("images", INTEGER, Role.METRIC, "that were compared on", "images"),
    ),
    title="Study 1: which representations are similar",
)

GENERATION = Table(
    "generation",
    "a backbone's samples, seen by one encoder",
    (
        Column("backbone", TEXT, Role.SETUP, "name of the backbone in the experiment"),
        Column("regulariser", TEXT, Role.SETUP, "of the backbone's training; null for none"),
        Column("encoder", TEXT, Role.AXIS, "name or label of the encoder"),
        Column("sampler", TEXT, Role.SETUP, "ddpm or ddim"),
        Column("steps", INTEGER, Role.SETUP, "of the sampler: passes through the backbone a sample"),
        Column("samples", INTEGER, Role.SETUP, "that were drawn", "images"),
        Column("real", INTEGER, Role.SETUP, "images that the samples are compared with", "images"),
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
            "the same of as many held-out images: what sampling alone gives",
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
        Column("grid", TEXT, Role.METRIC, "some samples as one picture", "PNG, base64"),
    ),
    title="Study 1: generation beside recognition",
)
