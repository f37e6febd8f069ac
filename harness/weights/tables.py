"""The tables of study 2, declared: trials, and the networks of each."""

import pyarrow as pa

from harness.core.tables import CORRECTNESS as CORRECTNESS
from harness.core.tables import Column, Role, Table, estimate

FLOAT, INTEGER, TEXT, FLAG = pa.float64(), pa.int64(), pa.string(), pa.bool_()
SHARE = "share, 0 to 1"


def _summary(name: str, expected: bool = False) -> tuple[Column, ...]:
    """Columns for many networks' test accuracies: that of the best on validation, the mean and the median."""
    best = f"{name}_best_accuracy"
    return (
        Column(f"{name}_best_validation_accuracy", FLOAT, Role.METRIC, "of the best on validation", SHARE),
        *estimate(best, "on test, of the network that is best on validation", expected),
        Column(f"{name}_mean_accuracy", FLOAT, Role.METRIC, "on test, mean over the networks", SHARE),
        Column(f"{name}_median_accuracy", FLOAT, Role.METRIC, "on test, median over the networks", SHARE),
        Column(f"{name}_networks", INTEGER, Role.INTERVAL, "how many networks there are", "networks"),
    )


WEIGHTS = Table(
    "weights",
    "a trial: k originals, one run of the generator, and what it generated",
    (
        Column("network", TEXT, Role.SETUP, "name or path of the original network"),
        Column("parameters", TEXT, Role.SETUP, "names and patterns that choose the parameters which vary"),
        Column("parameter_count", INTEGER, Role.IDENTITY, "how many numbers vary"),
        Column("buffers", TEXT, Role.SETUP, "running statistics: base (the network's) or collected"),
        Column("preset", TEXT, Role.SETUP, "edition of the paper; null for none"),
        Column("k", INTEGER, Role.AXIS, "originals that the generator learns from", "networks"),
        Column("subset", TEXT, Role.AXIS, "how they were taken: first, strided or random"),
        Column("generator", INTEGER, Role.SETUP, "run of autoencoder and diffusion model, from 0"),
        Column("optimizer", TEXT, Role.SETUP, "that collected the originals; null for a user's checkpoints"),
        Column("trajectories", INTEGER, Role.IDENTITY, "trainings that the originals come from"),
        Column(
            "permuted",
            FLAG,
            Role.IDENTITY,
            "whether those began from different networks: neurons may be swapped",
        ),
        Column("parameter_noise", FLOAT, Role.SETUP, "on the autoencoder's input"),
        Column("latent_noise", FLOAT, Role.SETUP, "on its latents"),
        Column("latent", INTEGER, Role.SETUP, "size of the latent", "numbers"),
        Column("diffusion_steps", INTEGER, Role.SETUP, "T of the latent diffusion"),
        Column("sampler", TEXT, Role.SETUP, "of the latent diffusion: ddpm or ddim"),
        Column("sampling_steps", INTEGER, Role.SETUP, "that it takes"),
        Column(
            "varied",
            TEXT,
            Role.SETUP,
            "what `vary` sets in this trial: a JSON object of values by path; null for nothing",
        ),
        *_summary("original", expected=True),
        *estimate("ensemble_accuracy", "on test, of the network of average weights", expected=True),
        *_summary("generated", expected=True),
        *_summary("reconstructed"),
        Column(
            "similarity_original",
            FLOAT,
            Role.METRIC,
            "mean IoU of wrong predictions, pairs of originals",
            SHARE,
        ),
        Column("similarity_generated", FLOAT, Role.METRIC, "the same, pairs of generated networks", SHARE),
        Column(
            "similarity_across", FLOAT, Role.METRIC, "the same, a generated network and an original", SHARE
        ),
        Column("reconstruction_error", FLOAT, Role.METRIC, "mean squared error on normalised parameters"),
        Column(
            "generated_minus_original",
            FLOAT,
            Role.METRIC,
            "best against best, test accuracy",
            "difference of shares",
            expected=True,
        ),
        Column(
            "generated_minus_original_low", FLOAT, Role.INTERVAL, "lower end of its 95 % interval, paired"
        ),
        Column(
            "generated_minus_original_high", FLOAT, Role.INTERVAL, "upper end of its 95 % interval, paired"
        ),
        Column(
            "p_value",
            FLOAT,
            Role.METRIC,
            "exact McNemar test of that difference",
            "probability",
            expected=True,
        ),
        # Is it new? Distances are RMS over normalised parameters; "held out" are checkpoints that nothing learnt from
        Column(
            "copying_z",
            FLOAT,
            Role.METRIC,
            "Z_U of distances to the nearest original, generated against held out; far below 0: copies",
        ),
        Column("copying_z_raw", FLOAT, Role.METRIC, "the same over parameters as they are"),
        Column(
            "distance_ratio",
            FLOAT,
            Role.METRIC,
            "median distance to the nearest original, generated over held out",
        ),
        Column(
            "mean_z", FLOAT, Role.METRIC, "Mann-Whitney z of distances to the originals' mean, as copying_z"
        ),
        Column("variance_ratio", FLOAT, Role.METRIC, "total variance, generated over originals"),
        Column(
            "new_share",
            FLOAT,
            Role.METRIC,
            "of generated networks: at least as far from all originals as 5 % of held out are",
            SHARE,
        ),
        Column(
            "new_and_good_share", FLOAT, Role.METRIC, "new, and as accurate as the median original", SHARE
        ),
    ),
    title="Study 2: weights written by diffusion",
)

NETWORKS = Table(
    "networks",
    "a network of a trial",
    (
        Column("k", INTEGER, Role.AXIS, "originals that the generator learns from", "networks"),
        Column("subset", TEXT, Role.AXIS, "how they were taken: first, strided or random"),
        Column("generator", INTEGER, Role.SETUP, "run of autoencoder and diffusion model, from 0"),
        Column(
            "kind",
            TEXT,
            Role.IDENTITY,
            "original, ensemble, generated, reconstructed, held_out, vote, or a control's name",
        ),
        Column("setting", FLOAT, Role.IDENTITY, "noise: its scale; average: of how many; else null"),
        Column("index", INTEGER, Role.IDENTITY, "among those of its kind and setting, from 0"),
        Column("selected", FLAG, Role.IDENTITY, "best of its kind and setting on validation"),
        *estimate("validation_accuracy", "what the best of a kind is selected by", expected=True),
        *estimate("test_accuracy", "on test", expected=True),
        Column(
            "max_similarity",
            FLOAT,
            Role.METRIC,
            "IoU to the most similar original, itself excluded",
            SHARE,
            True,
        ),
        Column(
            "distance",
            FLOAT,
            Role.METRIC,
            "to the nearest original, itself excluded; null of a vote",
            "RMS, normalised parameters",
            expected=True,
        ),
        Column("distance_raw", FLOAT, Role.METRIC, "the same over parameters as they are", "RMS"),
        Column(
            "distance_to_mean",
            FLOAT,
            Role.METRIC,
            "to the mean of the originals, itself left out",
            "RMS, normalised parameters",
        ),
        Column(
            "off_span",
            FLOAT,
            Role.METRIC,
            "share of the squared length that no mixture of originals reaches",
            SHARE,
        ),
        Column(
            "new", FLAG, Role.METRIC, "at least as far from all originals as 5 % of held-out checkpoints are"
        ),
        Column("step", INTEGER, Role.IDENTITY, "of training, for checkpoints"),
        Column("nearest_step", INTEGER, Role.METRIC, "of the nearest original"),
        # t-SNE of the autoencoder's latents and of the normalised weights, all kinds of the trial together
        Column("latent_x", FLOAT, Role.METRIC, "place on the map of latents"),
        Column("latent_y", FLOAT, Role.METRIC, "place on the map of latents"),
        Column("weight_x", FLOAT, Role.METRIC, "place on the map of weights"),
        Column("weight_y", FLOAT, Role.METRIC, "place on the map of weights"),
    ),
    detail=True,
)
