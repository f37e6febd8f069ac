"""The stages of study 2: from a trained network over its checkpoints to everything that is compared with them."""

from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

from harness.core.errors import UserError
from harness.core.seeds import stream
from harness.core.stages import Stage, Trial, Work, shards
from harness.data.config import DataConfig
from harness.data.dataset import Dataset
from harness.training.config import TRAINING_VERSION, TrainConfig
from harness.weights.brought import brought
from harness.weights.config import WeightsConfig
from harness.weights.controls import Control, FineTuned
from harness.weights.layout import layout_of
from harness.weights.sizes import check_models

NETWORK_VERSION = 2
TRAJECTORY_VERSION = 1
POOL_VERSION = 2
PREDICTIONS_VERSION = 2
AUTOENCODER_VERSION = 2
RECONSTRUCTION_VERSION = 1
DENOISER_VERSION = 2
GENERATED_VERSION = 2
CONTENDERS_VERSION = 3
COMPARISON_VERSION = 4
SECONDS_A_STEP = 0.01  # guesses for one CPU core, until there are measurements
SECONDS_A_NETWORK = 0.02
SECONDS_A_COMPARISON = 0.002
ENSEMBLES = 1  # the network of average weights
NETWORKS_AT_ONCE = 16  # evaluated together

OBJECTIVE = "generated_best_validation_accuracy"  # what a search makes large


class Images(NamedTuple):
    """A data set of an experiment: as it is configured, read, and where workers find it."""

    config: DataConfig
    dataset: Dataset
    stage: Stage


class Stages:
    """Makes the stages of one data set, seed and variation; one pool serves every k."""

    def __init__(self, config: WeightsConfig, images: Images, seed: int, varied: str) -> None:
        self.config, self.images, self.seed, self.varied = config, images, seed, varied
        data, dataset, _ = images
        channels, size = dataset.images.shape[1:3]
        network = config.network
        self.outline = network.outline(channels, size, len(dataset.classes))
        self.layout = layout_of(self.outline, config.parameters, network.locations(), config.buffers)
        check_models(config, self.layout.length)
        self.settings = network.settings(channels, size, len(dataset.classes))
        self.labelled = len(dataset.labelled(data.labels_per_class))
        self.learning = {
            "network": self.settings,
            "labels_per_class": data.labels_per_class,
            "augment": config.augment.keyed() if config.augment else None,
            "training_version": TRAINING_VERSION,
        }
        self.start = network.start(channels, size, len(dataset.classes))
        self._check_statistics()
        self.checkpoints = pool_size(config) + config.pool.held_out  # in the pool, those held out among them
        if config.pool.path is not None:
            self.network, trajectory = brought(
                config.pool, self.settings, self.outline, self.layout, self.checkpoints
            )
            if config.pool.size is None:  # all that there are
                self.checkpoints = len(trajectory.config["steps"])
            self.pool = self._pool([trajectory])
        else:
            self.network = self._network(0)
            self.pool = self._collected()
        self.predictions = self._predictions(self.pool, self.checkpoints)

    @property
    def whole(self) -> bool:
        """Whether all parameters vary: then trajectories begin from networks of their own."""
        return set(self.outline.parameters) <= set(self.layout.names)

    @property
    def permuted(self) -> bool:
        """Whether the originals come from networks whose neurons may be in another order."""
        return self.config.pool.path is None and self.whole and self.config.pool.trajectories > 1

    def _collected(self) -> Stage:
        pool = self.config.pool
        each = ceil(self.checkpoints / pool.trajectories)
        return self._pool([self._trajectory(number, each) for number in range(pool.trajectories)])

    def _check_statistics(self) -> None:
        """Raises `UserError` where running statistics would be those of another network."""
        if not self.whole or not self.outline.buffers or self.config.buffers == "collected":
            return
        if self.permuted:
            raise UserError(
                f"weights.pool.trajectories = {self.config.pool.trajectories} of whole networks with running "
                "statistics: they differ between the networks; set weights.buffers: collected"
            )
        if any("other_seed" in control.needs for control in self.config.controls):
            raise UserError(
                "weights.controls: other_seed is a whole network with running statistics of its own, which "
                "buffers: base does not keep; set weights.buffers: collected, or leave other_seed out"
            )

    def _network(self, number: int) -> Stage:
        """Returns the stage with the base network, or with that of a further trajectory of whole networks."""
        train = self.config.train.on(self.labelled)
        needs = {"dataset": self.images.stage} | ({} if self.start is None else {"start": self.start})
        return Stage(
            kind="network",
            version=NETWORK_VERSION,
            maker="harness.weights.originals:make_network",
            config={**self.learning, "train": train.keyed(), "seed": _draws(self.seed, "network", number)},
            needs=needs,
            options={"train": train.model_dump(mode="json")},
            work=Work(seconds=train.steps * SECONDS_A_STEP),
            trains=train.workers != 0,
        )

    def _trajectory(self, number: int, checkpoints: int, every: int | None = None) -> Stage:
        """Returns the stage with one training that goes on from its network; `every` checkpoint is so many steps."""
        return self._collection(
            {"network": self._network(number) if self.whole else self.network},
            checkpoints,
            every or self._every,
            self.config.pool.learning_rate,
            {"draws": _draws(self.seed, "trajectory", number)},
        )

    @property
    def _every(self) -> int:
        """Steps from one checkpoint to the next."""
        pool = self.config.pool
        return pool.every * (ceil(self.labelled / pool.batch) if pool.unit == "epoch" else 1)

    def _collection(
        self,
        needs: dict[str, Stage],
        checkpoints: int,
        every: int,
        learning_rate: float,
        more: dict[str, Any],
    ) -> Stage:
        pool = self.config.pool
        train = TrainConfig(
            steps=checkpoints * every,
            batch=pool.batch,
            learning_rate=learning_rate,
            optimizer=pool.optimizer,
            momentum=pool.momentum,
            weight_decay=pool.weight_decay,
            workers=pool.workers,
        )
        return Stage(
            kind="trajectory",
            version=TRAJECTORY_VERSION,
            maker="harness.weights.originals:make_trajectory",
            config={
                **self.learning,
                "layout": {"names": list(self.layout.names), "shapes": [list(s) for s in self.layout.shapes]},
                "buffers": self.config.buffers,
                "every": every,
                "train": train.keyed(),
                **more,
            },
            needs={"dataset": self.images.stage, **needs},
            options={"train": train.model_dump(mode="json")},
            work=Work(seconds=train.steps * SECONDS_A_STEP),
            trains=pool.workers != 0,
        )

    def _pool(self, trajectories: Sequence[Stage]) -> Stage:
        return Stage(
            kind="pool",
            version=POOL_VERSION,
            maker="harness.weights.originals:make_pool",
            config={"checkpoints": self.checkpoints, "held_out": self.config.pool.held_out},
            needs={f"trajectory {number}": stage for number, stage in enumerate(trajectories)},
        )

    def _predictions(self, vectors: Stage, networks: int) -> tuple[Stage, ...]:
        """Returns the stages that hold what so many networks, whose vectors a stage holds, say of the images."""
        needs = {
            "dataset": self.images.stage,
            "network": self.network,
            "pool": self.pool,
            "vectors": vectors,
        }
        return tuple(
            Stage(
                kind="predictions",
                version=PREDICTIONS_VERSION,
                maker="harness.weights.originals:make_predictions",
                config={"networks": [begin, end]},
                needs=needs,
                options={"memory_gb": self.config.memory_gb},
                work=Work(seconds=(end - begin) * SECONDS_A_NETWORK),
            )
            for begin, end in shards(networks, self.config.shard, NETWORKS_AT_ONCE)
        )

    def _generation(self, k: int, subset: str, number: int) -> dict[str, Stage]:
        """Returns the stages that learn from `k` originals and write networks, by name; `number` is the run."""
        config = self.config
        chosen = {"k": k, "subset": subset, "seed": self.seed, "generator": number}
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
        reconstruction = Stage(
            kind="reconstruction",
            version=RECONSTRUCTION_VERSION,
            maker="harness.weights.generate:make_reconstruction",
            config={"gate": config.gate},
            needs={
                "dataset": self.images.stage,
                "network": self.network,
                "pool": self.pool,
                "autoencoder": autoencoder,
            },
        )
        denoiser = Stage(
            kind="denoiser",
            version=DENOISER_VERSION,
            maker="harness.weights.generate:make_denoiser",
            config={**autoencoder.config, "diffusion": config.diffusion.keyed()},
            needs={"pool": self.pool, "autoencoder": autoencoder, "reconstruction": reconstruction},
            options={"train": config.diffusion.train.model_dump(mode="json")},
            work=Work(seconds=config.diffusion.train.steps * SECONDS_A_STEP),
            trains=config.diffusion.train.workers != 0,
        )
        generated = Stage(
            kind="generated",
            version=GENERATED_VERSION,
            maker="harness.weights.generate:make_generated",
            config={
                **chosen,
                "generate": config.generate,
                "sampler": config.sampler,
                "sampling_steps": config.sampling_steps,
            },
            needs={"pool": self.pool, "autoencoder": autoencoder, "denoiser": denoiser},
            work=Work(seconds=config.sampling_steps * SECONDS_A_STEP),
        )
        return {"autoencoder": autoencoder, "reconstruction": reconstruction, "generated": generated}

    def _for_controls(self, k: int, subset: str) -> dict[str, Stage]:
        """Returns the trajectories that the controls need, by name."""
        found = {}
        for control in self.config.controls:
            for name in control.needs:
                found[name] = (
                    self._fine_tuned(control, k, subset)
                    if name == "fine_tuned"
                    else self._other_seed(control)
                )
        return found

    def _other_seed(self, control: Control) -> Stage:
        """As long a training as a trajectory of the pool's, with fewer checkpoints."""
        number = self.config.pool.trajectories
        steps = self._every * ceil(self.checkpoints / number)
        return self._trajectory(number, control.networks, max(1, steps // control.networks))

    def _fine_tuned(self, control: Control, k: int, subset: str) -> Stage:
        every = control.every if isinstance(control, FineTuned) else 1
        rate = control.learning_rate if isinstance(control, FineTuned) else None
        return self._collection(
            {"network": self.network, "pool": self.pool},
            control.networks,
            every,
            rate or self.config.pool.learning_rate,
            {
                "draws": _draws(self.seed, "fine-tuned"),
                "after": {"k": k, "subset": subset, "seed": self.seed},
            },
        )

    def _contenders(self, k: int, subset: str, number: int) -> Stage:
        """Returns the stage with every network that is compared with `k` originals."""
        return Stage(
            kind="contenders",
            version=CONTENDERS_VERSION,
            maker="harness.weights.compare:make_contenders",
            config={
                "k": k,
                "subset": subset,
                "seed": self.seed,
                "generator": number,
                "controls": [control.keyed() for control in self.config.controls],
                "control_versions": [control.version for control in self.config.controls],
            },
            needs={
                "pool": self.pool,
                **self._generation(k, subset, number),
                **self._for_controls(k, subset),
            },
        )

    def trial(self, k: int, subset: str, number: int) -> Trial:
        """Returns the trial that compares the networks of one k and one run of the generator."""
        config = self.config
        contenders = self._contenders(k, subset, number)
        others = ENSEMBLES + config.generate + k + sum(one.count() for one in config.controls)
        return Trial(
            study="weights",
            table="weights",
            objective=OBJECTIVE,
            version=COMPARISON_VERSION,
            runner="harness.weights.compare:run",
            axes={
                "network": config.network.called,
                "parameters": " ".join(config.parameters),
                "k": k,
                "subset": subset,
                "generator": number,
                "varied": self.varied or None,
            },
            config={
                "predictions_version": PREDICTIONS_VERSION,
                "permuted": self.permuted,
                "columns": self._columns(),
            },
            seed=self.seed,
            data=self.images.config.title,
            data_fingerprint=self.images.dataset.fingerprint,
            needs={
                "dataset": self.images.stage,
                "network": self.network,
                "pool": self.pool,
                "contenders": contenders,
            },
            reads={"originals": self.predictions, "contenders": self._predictions(contenders, others)},
            seconds=others * SECONDS_A_COMPARISON,
        )

    def _columns(self) -> dict[str, Any]:
        """Returns what rows say of how the originals were collected and the networks generated."""
        config = self.config
        return {
            "buffers": config.buffers,
            "preset": config.preset,
            "optimizer": None if config.pool.path is not None else config.pool.optimizer,
            "parameter_noise": config.autoencoder.parameter_noise,
            "latent_noise": config.autoencoder.latent_noise,
            "latent": config.autoencoder.numbers(self.layout.length),
            "diffusion_steps": config.diffusion.timesteps,
            "sampler": config.sampler,
            "sampling_steps": config.sampling_steps,
        }


def pool_size(config: WeightsConfig) -> int:
    """Returns how many checkpoints there are to learn from."""
    return config.pool.size or max(config.k)


def _draws(seed: int, *names: object) -> int:
    """Returns the seed of one training: the experiment's for the first of its kind."""
    return seed if names[-1] == 0 else stream(seed, *names) % 2**63
