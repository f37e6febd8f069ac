"""Generation as trials: how far samples are from real images, for each training of a backbone and each encoder."""

from typing import Any

from harness.core.checks import refuse_duplicates
from harness.core.errors import UserError
from harness.core.stages import Code, Stage, Trial, Work, shards
from harness.core.study import Shared, Study
from harness.data.dataset import Dataset, Images
from harness.features.generation.config import GenerationConfig
from harness.features.stages import MULTIPLICATIONS_PER_SECOND, regularised_backbones
from harness.features.tables import GENERATION
from harness.models.backbones.backbone import BACKBONES, BackbonePlan, multiplications
from harness.models.encoders.encoder import ENCODERS, Encoder
from harness.models.noise_processes.process import SAMPLING
from harness.training.config import NOISE
from harness.training.regularisers import REGULARISERS

SAMPLES = Code("samples", 1, "harness.features.generation.sample:make_samples", uses=(NOISE, SAMPLING))
ENCODED = Code("encoded", 1, "harness.features.generation.compare:make_encoded")
COMPARISON = Code("generation", 1, "harness.features.generation.compare:run")
SECONDS_AN_IMAGE = 0.005  # encoding, estimated for one CPU core

OBJECTIVE = "frechet"  # no search uses these trials


class Generation(Study):
    """How good are the samples of the backbone whose features are probed?"""

    name = "generation"
    Config = GenerationConfig
    tables = (GENERATION,)
    registries = (BACKBONES, ENCODERS, REGULARISERS)
    shared = Shared("features", ("backbone", "train", "regularisers"))

    def trials(self, config: GenerationConfig, images: Images, seed: int) -> list[Trial]:
        """Returns a trial for each regulariser and encoder; raises `UserError` for values out of range."""
        channels, size = images.dataset.images.shape[1:3]
        plan = config.backbone.plan(size, channels)
        check(config, plan, images.dataset)
        comparison = _Comparison(config, images, seed, plan)
        backbones = regularised_backbones(plan, config.train, config.regularisers, images, seed, self.name)
        encoders = [(encoder, encoder.stage(channels)) for encoder in config.encoders]
        return [
            comparison.trial(regulariser, backbone, encoder, encoder_stage)
            for regulariser, backbone in backbones.items()
            for encoder, encoder_stage in encoders
        ]


def check(config: GenerationConfig, plan: BackbonePlan, dataset: Dataset) -> None:
    """Raises `UserError` naming the value that is out of range."""
    if config.steps > plan.timesteps:
        raise UserError(
            f"generation.steps = {config.steps}: the backbone has {plan.timesteps} timesteps; give at most "
            f"{plan.timesteps}"
        )
    if config.real is not None and config.real > len(dataset.splits["train"]):
        raise UserError(
            f"generation.real = {config.real}: there are {len(dataset.splits['train'])} training images; "
            "give at most that many, or null for all"
        )
    for what, count in (("samples", sample_count(config, dataset)), ("real", real_count(config, dataset))):
        if count < 2:
            raise UserError(f"generation.{what}: a covariance needs at least 2 images, not {count}")
    called = [encoder.display_name for encoder in config.encoders]
    refuse_duplicates(called, "generation.encoders", "; give each a label of its own")


def sample_count(config: GenerationConfig, dataset: Dataset) -> int:
    """Returns the number of samples to draw."""
    return config.samples or len(dataset.splits["test"])


def real_count(config: GenerationConfig, dataset: Dataset) -> int:
    """Returns the number of training images that samples are compared with."""
    return config.real or len(dataset.splits["train"])


class _Comparison:
    """Makes trials that differ only in the backbone and the encoder."""

    def __init__(self, config: GenerationConfig, images: Images, seed: int, plan: BackbonePlan) -> None:
        self.config, self.seed, self.plan = config, seed, plan
        self.data, dataset, self.stage = images
        self.fingerprint, self.shape = dataset.fingerprint, list(dataset.images.shape[1:])
        self.samples, self.real = sample_count(config, dataset), real_count(config, dataset)
        # Distances depend on the number of images, so fewer held-out images would not be comparable.
        self.held_out = self.samples if self.samples <= len(dataset.splits["test"]) else None

    def trial(
        self, regulariser: str | None, backbone: Stage, encoder: Encoder, encoder_stage: Stage
    ) -> Trial:
        """Returns the trial that compares one backbone's samples with real images, in one encoder's space."""
        cuts = shards(self.samples, self.config.shard, self.config.batch)
        samples = tuple(self._samples(backbone, begin, end) for begin, end in cuts)
        real = {"real": (self._encoded(encoder_stage, "train", self.real),)}
        if self.held_out is not None:
            real["held_out"] = (self._encoded(encoder_stage, "test", self.held_out),)
        axes: dict[str, Any] = {
            "backbone": self.config.backbone.name,
            "regulariser": regulariser,
            "condition": self.plan.condition.name if self.plan.condition else None,
            "encoder": encoder.display_name,
            "sampler": self.config.sampler,
            "steps": self.config.steps,
            "samples": self.samples,
            "real": self.real,
        }
        return Trial(
            study="generation",
            table="generation",
            objective=OBJECTIVE,
            code=COMPARISON,
            axes=axes,
            config={"held_out": self.held_out},
            seed=self.seed,
            data=self.data.display_name,
            data_fingerprint=self.fingerprint,
            needs={"dataset": self.stage, "backbone": backbone, "encoder": encoder_stage},
            reads={"samples": samples, **real},
            seconds=self.samples * SECONDS_AN_IMAGE,
            searchable=False,
        )

    def _samples(self, backbone: Stage, begin: int, end: int) -> Stage:
        """Returns the stage that draws a shard of a backbone's samples."""
        passes = (end - begin) * self.config.steps
        return Stage(
            kind="samples",
            code=SAMPLES,
            config={
                "sampler": self.config.sampler,
                "steps": self.config.steps,
                "shape": self.shape,
                "seed": self.seed,
            },
            needs={"backbone": backbone},
            part={"samples": [begin, end]},
            options={"batch": self.config.batch},
            work=Work(passes, passes * multiplications(self.plan.blocks) / MULTIPLICATIONS_PER_SECOND),
        )

    def _encoded(self, encoder_stage: Stage, split: str, count: int) -> Stage:
        """Returns the stage with an encoder's statistics of the first `count` images of a split."""
        return Stage(
            kind="encoded",
            code=ENCODED,
            config={"split": split, "images": count},
            needs={"dataset": self.stage, "encoder": encoder_stage},
            options={"batch": self.config.batch},
            work=Work(seconds=count * SECONDS_AN_IMAGE),
        )


STUDY = Generation()
