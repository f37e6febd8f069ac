"""Study 2 as trials: for every K, originals, what is generated from them and the controls."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from harness.core.errors import UserError
from harness.core.stages import Stage, Trial, Work, shards
from harness.data.config import DataConfig
from harness.data.dataset import Dataset
from harness.training.config import TRAINING_VERSION, TrainConfig
from harness.weights.config import WeightsConfig
from harness.weights.controls import CONTROLS
from harness.weights.layout import layout_of

NETWORK_VERSION = 1
POOL_VERSION = 1
PREDICTIONS_VERSION = 1
AUTOENCODER_VERSION = 1
DENOISER_VERSION = 1
GENERATED_VERSION = 1
CONTENDERS_VERSION = 1
COMPARISON_VERSION = 1
SECONDS_A_STEP = 0.01  # guesses for one CPU core, until there are measurements
SECONDS_A_NETWORK = 0.02
SECONDS_A_COMPARISON = 0.002
ENSEMBLES = 1  # the network of average weights
NETWORKS_AT_ONCE = 16  # evaluated together

OBJECTIVE = "generated_best_validation_accuracy"  # what a search makes large


class Weights:
    """Can a diffusion model write network weights, and are they new or copies?"""

    name = "weights"
    Config = WeightsConfig
    registries = (CONTROLS,)
    axes = ("k", "subset")

    def trials(
        self, config: WeightsConfig, data: DataConfig, dataset: Dataset, stage: Stage, seed: int
    ) -> list[Trial]:
        """Returns a trial for each K and way to take K from the pool; raises `UserError` for what cannot be."""
        check(config)
        dataset.labelled(data.labels_per_class)
        stages = _Stages(config, data, dataset, stage, seed)
        return [stages.trial(k, subset) for k in config.k for subset in config.subsets]


def pool_size(config: WeightsConfig) -> int:
    """Returns how many checkpoints are collected."""
    return config.pool_size or max(config.k)


def check(config: WeightsConfig) -> None:
    """Raises `UserError` naming the value that is out of range."""
    size = pool_size(config)
    for k in config.k:
        if k < 1:
            raise UserError(f"weights.k: {k} is less than 1, the smallest number of originals")
        if k > size:
            raise UserError(
                f"weights.k: {k} is not between 1 and {size}, the size of the pool (weights.pool_size)"
            )
    given: dict[str, Sequence[Any]] = {
        "k": config.k,
        "subsets": config.subsets,
        "parameters": config.parameters,
        "controls": [control.name for control in config.controls],
    }
    for what, values in given.items():
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise UserError(f"weights.{what}: {twice[0]} is given twice")
    for width in config.network.channels:
        if width % config.network.groups:
            raise UserError(
                f"weights.network.channels: {width} is not divisible by groups = {config.network.groups}"
            )
    if config.sampling_steps > config.diffusion.timesteps:
        raise UserError(
            f"weights.sampling_steps = {config.sampling_steps} is more than diffusion.timesteps = "
            f"{config.diffusion.timesteps}"
        )


def check_norms(config: WeightsConfig, size: int, length: int) -> None:
    """Raises `UserError` where a group norm would see a single value: it makes it zero, or refuses it.

    `size` is the images' height and width, `length` the number of varied parameters.
    """
    for number, width in enumerate(config.network.channels, start=1):
        size = size if number == 1 else -(-size // 2)
        if width * size * size == config.network.groups:
            raise UserError(
                f"weights.network.channels: conv{number} leaves one pixel and as many channels as groups = "
                f"{config.network.groups}, nothing to normalise; give fewer groups or fewer channels"
            )
    for number, width in enumerate(config.autoencoder.channels, start=1):
        if width * -(-length // 2**number) == 1:
            raise UserError(
                f"weights.autoencoder.channels: layer {number} leaves one number of {length} parameters; "
                "give fewer layers or wider ones"
            )
    if config.autoencoder.latent * config.diffusion.channels[0] == 1:
        raise UserError("weights.autoencoder.latent = 1 needs weights.diffusion.channels of more than 1")


class _Stages:
    """Makes the stages of an experiment; one pool serves every K."""

    def __init__(
        self, config: WeightsConfig, data: DataConfig, dataset: Dataset, stage: Stage, seed: int
    ) -> None:
        self.config, self.data, self.seed = config, data, seed
        self.dataset, self.fingerprint = stage, dataset.fingerprint
        network = {
            **config.network.keyed(),
            "in_channels": dataset.images.shape[1],
            "classes": len(dataset.classes),
        }
        shapes = config.network.parameter_shapes(network["in_channels"], network["classes"])
        check_norms(config, dataset.images.shape[2], layout_of(shapes, config.parameters).length)
        self.shared = {
            "network": network,
            "labels_per_class": data.labels_per_class,
            "training_version": TRAINING_VERSION,
            "seed": seed,
        }
        self.network = Stage(
            kind="network",
            version=NETWORK_VERSION,
            maker="harness.weights.originals:make_network",
            config={**self.shared, "train": config.train.keyed()},
            needs={"dataset": stage},
            options={"train": config.train.model_dump(mode="json")},
            work=Work(seconds=config.train.steps * SECONDS_A_STEP),
            trains=config.train.workers != 0,
        )
        self.pool = self._pool()
        self.predictions = self._predictions(self.pool, pool_size(config))

    def _predictions(self, vectors: Stage, networks: int) -> tuple[Stage, ...]:
        """Returns the stages that hold what so many networks, whose vectors a stage holds, say of the images."""
        needs = {"dataset": self.dataset, "network": self.network, "pool": self.pool, "vectors": vectors}
        return tuple(
            Stage(
                kind="predictions",
                version=PREDICTIONS_VERSION,
                maker="harness.weights.originals:make_predictions",
                config={"networks": [begin, end]},
                needs=needs,
                work=Work(seconds=(end - begin) * SECONDS_A_NETWORK),
            )
            for begin, end in shards(networks, self.config.shard, NETWORKS_AT_ONCE)
        )

    def _contenders(self, k: int, subset: str) -> Stage:
        """Returns the stage with every network that is compared with `k` originals."""
        return Stage(
            kind="contenders",
            version=CONTENDERS_VERSION,
            maker="harness.weights.compare:make_contenders",
            config={
                "k": k,
                "subset": subset,
                "controls": [control.keyed() for control in self.config.controls],
                "control_versions": [control.version for control in self.config.controls],
                "seed": self.seed,
            },
            needs={"pool": self.pool, "generated": self._generated(k, subset)},
        )

    def _pool(self) -> Stage:
        pool = self.config.pool
        train = TrainConfig(
            steps=pool_size(self.config) * pool.every,
            batch=pool.batch,
            learning_rate=pool.learning_rate,
            optimizer=pool.optimizer,
            workers=pool.workers,
        )
        return Stage(
            kind="pool",
            version=POOL_VERSION,
            maker="harness.weights.originals:make_pool",
            config={
                **self.shared,
                "parameters": list(self.config.parameters),
                "every": pool.every,
                "train": train.keyed(),
            },
            needs={"dataset": self.dataset, "network": self.network},
            options={"train": train.model_dump(mode="json")},
            work=Work(seconds=train.steps * SECONDS_A_STEP),
            trains=pool.workers != 0,
        )

    def _generated(self, k: int, subset: str) -> Stage:
        """Returns the stage with the networks generated from `k` originals, on top of its two models."""
        config = self.config
        chosen = {"k": k, "subset": subset, "seed": self.seed}
        autoencoder = Stage(
            kind="autoencoder",
            version=AUTOENCODER_VERSION,
            maker="harness.weights.generate:make_autoencoder",
            config={
                **chosen,
                "autoencoder": config.autoencoder.keyed(),
                "training_version": TRAINING_VERSION,
            },
            needs={"pool": self.pool},
            options={"train": config.autoencoder.train.model_dump(mode="json")},
            work=Work(seconds=config.autoencoder.train.steps * SECONDS_A_STEP),
            trains=config.autoencoder.train.workers != 0,
        )
        denoiser = Stage(
            kind="denoiser",
            version=DENOISER_VERSION,
            maker="harness.weights.generate:make_denoiser",
            config={**autoencoder.config, "diffusion": config.diffusion.keyed()},
            needs={"pool": self.pool, "autoencoder": autoencoder},
            options={"train": config.diffusion.train.model_dump(mode="json")},
            work=Work(seconds=config.diffusion.train.steps * SECONDS_A_STEP),
            trains=config.diffusion.train.workers != 0,
        )
        return Stage(
            kind="generated",
            version=GENERATED_VERSION,
            maker="harness.weights.generate:make_generated",
            config={**chosen, "generate": config.generate, "sampling_steps": config.sampling_steps},
            needs={"pool": self.pool, "autoencoder": autoencoder, "denoiser": denoiser},
            work=Work(seconds=config.sampling_steps * SECONDS_A_STEP),
        )

    def trial(self, k: int, subset: str) -> Trial:
        """Returns the trial that compares the networks of one K."""
        contenders = self._contenders(k, subset)
        others = ENSEMBLES + self.config.generate + k + sum(one.count() for one in self.config.controls)
        return Trial(
            study="weights",
            table="weights",
            objective=OBJECTIVE,
            version=COMPARISON_VERSION,
            runner="harness.weights.compare:run",
            axes={
                "network": self.config.network.name,
                "parameters": " ".join(self.config.parameters),
                "k": k,
                "subset": subset,
            },
            config={"predictions_version": PREDICTIONS_VERSION},
            seed=self.seed,
            data=self.data.title,
            data_fingerprint=self.fingerprint,
            needs={
                "dataset": self.dataset,
                "network": self.network,
                "pool": self.pool,
                "contenders": contenders,
            },
            reads={"originals": self.predictions, "contenders": self._predictions(contenders, others)},
            seconds=others * SECONDS_A_COMPARISON,
        )


STUDY = Weights()
