"""The stages of study 2: from a trained network over its checkpoints to everything that is compared with them."""

import json
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from harness.core.errors import UserError
from harness.core.seeds import derive_seed
from harness.core.stages import Code, Stage, Trial, Work, shards
from harness.data.dataset import Images
from harness.models.noise_processes.process import SAMPLING
from harness.models.noise_processes.variance_preserving import VariancePreserving
from harness.training.config import TRAINING, TrainConfig
from harness.weights.config import NETWORKS_AT_ONCE, WeightsConfig
from harness.weights.controls import Control, FineTuned
from harness.weights.planned_network import PlannedNetwork
from harness.weights.user_checkpoints import user_stages

NETWORK = Code("network", 2, "harness.weights.collect:make_network", uses=(TRAINING,))
TRAJECTORY = Code("trajectory", 1, "harness.weights.collect:make_trajectory", uses=(TRAINING,))
CHECKPOINTS = Code("checkpoints", 2, "harness.weights.collect:make_checkpoints")
PREDICTIONS = Code("predictions", 2, "harness.weights.predict:make_predictions")
AUTOENCODER = Code("autoencoder", 2, "harness.weights.generate:make_autoencoder", uses=(TRAINING,))
RECONSTRUCTION = Code(
    "reconstruction", 1, "harness.weights.generate:make_reconstruction", uses=(PREDICTIONS,)
)
DENOISER = Code("denoiser", 2, "harness.weights.generate:make_denoiser", uses=(TRAINING,))
GENERATED = Code("generated", 2, "harness.weights.generate:make_generated", uses=(SAMPLING,))
CONTENDERS = Code("contenders", 3, "harness.weights.compare:make_contenders")
COMPARISON = Code("weights", 5, "harness.weights.compare:run")
SECONDS_A_STEP = 0.01  # guesses for one CPU core, until there are measurements
SECONDS_A_NETWORK = 0.02
SECONDS_A_COMPARISON = 0.002
ENSEMBLES = 1  # the network of average weights

OBJECTIVE = "generated_best_validation_accuracy"  # what a search makes large


class Stages:
    """Makes the stages of one data set, seed and variation; one set of checkpoints serves every k. Reads no files."""

    def __init__(
        self,
        config: WeightsConfig,
        images: Images,
        planned: PlannedNetwork,
        seed: int,
        varied: Mapping[str, Any],
    ) -> None:
        """Raises `UserError` where running statistics would be those of another network."""
        self.config, self.images, self.planned, self.seed, self.varied = config, images, planned, seed, varied
        self.layout = planned.layout
        self.labelled = len(images.dataset.labelled(images.config.labels_per_class))
        self.learning = {
            "network": planned.settings,
            "labels_per_class": images.config.labels_per_class,
            "augment": config.augment.keyed() if config.augment else None,
        }
        self._check_statistics()
        self.count = config.checkpoint_count + config.checkpoints.held_out  # of checkpoints
        if planned.user_checkpoints is not None:
            self.network, trajectory = user_stages(planned.user_checkpoints, planned.settings, self.layout)
            if config.checkpoints.size is None:  # all of them
                self.count = len(planned.user_checkpoints.files)
            self.checkpoints = self._checkpoints([trajectory])
        else:
            self.network = self._network(0)
            self.checkpoints = self._collected()
        self.predictions = self._predictions(self.checkpoints, self.count)

    @property
    def permuted(self) -> bool:
        """Whether the originals come from networks whose neurons may be in another order."""
        collected = self.planned.user_checkpoints is None
        return collected and self.planned.whole and self.config.checkpoints.trajectories > 1

    def _collected(self) -> Stage:
        trajectories = self.config.checkpoints.trajectories
        each = ceil(self.count / trajectories)
        return self._checkpoints([self._trajectory(number, each) for number in range(trajectories)])

    def _check_statistics(self) -> None:
        planned = self.planned
        if not planned.whole or not planned.outline.buffers or self.config.buffers == "collected":
            return
        if self.permuted:
            raise UserError(
                f"weights.checkpoints.trajectories = {self.config.checkpoints.trajectories} of whole networks with "
                "running statistics: they differ between the networks; set weights.buffers: collected"
            )
        if any("other_seed" in control.needs for control in self.config.controls):
            raise UserError(
                "weights.controls: other_seed is a whole network with running statistics of its own, which "
                "buffers: base does not keep; set weights.buffers: collected, or leave other_seed out"
            )

    def _network(self, number: int) -> Stage:
        """Returns the stage with the base network, or with that of a further trajectory of whole networks."""
        train = self.config.train.on(self.labelled)
        needs = {"dataset": self.images.stage} | (
            {} if self.planned.start is None else {"start": self.planned.start}
        )
        return Stage(
            kind="network",
            code=NETWORK,
            config={
                **self.learning,
                "train": train.keyed(),
                "seed": _training_seed(self.seed, "network", number),
            },
            needs=needs,
            options={"train": train.model_dump(mode="json")},
            work=Work(seconds=train.steps * SECONDS_A_STEP),
            trains=train.workers != 0,
        )

    def _trajectory(self, number: int, count: int, every: int | None = None) -> Stage:
        """Returns the stage with one training run from its network on, saving `count` checkpoints `every` N steps."""
        return self._collection(
            {"network": self._network(number) if self.planned.whole else self.network},
            count,
            every or self._every,
            self.config.checkpoints.learning_rate,
            {"seed": _training_seed(self.seed, "trajectory", number)},
        )

    @property
    def _every(self) -> int:
        """Steps from one checkpoint to the next."""
        config = self.config.checkpoints
        return config.every * (ceil(self.labelled / config.batch) if config.unit == "epoch" else 1)

    def _collection(
        self,
        needs: dict[str, Stage],
        count: int,
        every: int,
        learning_rate: float,
        more: dict[str, Any],
    ) -> Stage:
        config = self.config.checkpoints
        train = TrainConfig(
            steps=count * every,
            batch=config.batch,
            learning_rate=learning_rate,
            optimizer=config.optimizer,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            workers=config.workers,
        )
        return Stage(
            kind="trajectory",
            code=TRAJECTORY,
            config={
                **self.learning,
                "layout": self.layout.to_json(),
                "buffers": self.config.buffers,
                "every": every,
                "train": train.keyed(),
                **more,
            },
            needs={"dataset": self.images.stage, **needs},
            options={"train": train.model_dump(mode="json")},
            work=Work(seconds=train.steps * SECONDS_A_STEP),
            trains=config.workers != 0,
        )

    def _checkpoints(self, trajectories: Sequence[Stage]) -> Stage:
        return Stage(
            kind="checkpoints",
            code=CHECKPOINTS,
            config={"count": self.count, "held_out": self.config.checkpoints.held_out},
            needs={f"trajectory {number}": stage for number, stage in enumerate(trajectories)},
        )

    def _predictions(self, vectors: Stage, networks: int) -> tuple[Stage, ...]:
        """Returns the stages with the predictions of the first `networks` of a stage of vectors."""
        needs = {
            "dataset": self.images.stage,
            "network": self.network,
            "checkpoints": self.checkpoints,
            "vectors": vectors,
        }
        return tuple(
            Stage(
                kind="predictions",
                code=PREDICTIONS,
                config={},
                needs=needs,
                part={"networks": [begin, end]},
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
            code=AUTOENCODER,
            config={
                **chosen,
                "autoencoder": config.autoencoder.keyed(),
            },
            needs={"checkpoints": self.checkpoints},
            options={"train": config.autoencoder.train.model_dump(mode="json")},
            work=Work(seconds=config.autoencoder.train.steps * SECONDS_A_STEP),
            trains=config.autoencoder.train.workers != 0,
        )
        reconstruction = Stage(
            kind="reconstruction",
            code=RECONSTRUCTION,
            config={"gate": config.gate},
            needs={
                "dataset": self.images.stage,
                "network": self.network,
                "checkpoints": self.checkpoints,
                "autoencoder": autoencoder,
            },
        )
        denoiser = Stage(
            kind="denoiser",
            code=DENOISER,
            config={
                **autoencoder.config,
                "diffusion": config.diffusion.keyed(),
                "process_version": VariancePreserving.version,
            },
            needs={
                "checkpoints": self.checkpoints,
                "autoencoder": autoencoder,
                "reconstruction": reconstruction,
            },
            options={"train": config.diffusion.train.model_dump(mode="json")},
            work=Work(seconds=config.diffusion.train.steps * SECONDS_A_STEP),
            trains=config.diffusion.train.workers != 0,
        )
        generated = Stage(
            kind="generated",
            code=GENERATED,
            config={
                **chosen,
                "generate": config.generate,
                "sampler": config.sampler,
                "sampling_steps": config.sampling_steps,
            },
            needs={"checkpoints": self.checkpoints, "autoencoder": autoencoder, "denoiser": denoiser},
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
        """Returns a further training run as long as those of the originals, with fewer checkpoints."""
        number = self.config.checkpoints.trajectories
        steps = self._every * ceil(self.count / number)
        return self._trajectory(number, control.networks, max(1, steps // control.networks))

    def _fine_tuned(self, control: Control, k: int, subset: str) -> Stage:
        every = control.every if isinstance(control, FineTuned) else 1
        rate = control.learning_rate if isinstance(control, FineTuned) else None
        return self._collection(
            {"network": self.network, "checkpoints": self.checkpoints},
            control.networks,
            every,
            rate or self.config.checkpoints.learning_rate,
            {
                "seed": _training_seed(self.seed, "fine-tuned"),
                "after": {"k": k, "subset": subset, "seed": self.seed},
            },
        )

    def _contenders(self, k: int, subset: str, number: int) -> Stage:
        """Returns the stage with every network that is compared with `k` originals."""
        return Stage(
            kind="contenders",
            code=CONTENDERS,
            config={
                "k": k,
                "subset": subset,
                "seed": self.seed,
                "generator": number,
                "controls": [control.keyed() for control in self.config.controls],
            },
            needs={
                "checkpoints": self.checkpoints,
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
            code=COMPARISON,
            axes={
                "network": config.network.display_name,
                "parameters": " ".join(config.parameters),
                "k": k,
                "subset": subset,
                "generator": number,
                "varied": json.dumps(self.varied, ensure_ascii=False, sort_keys=True)
                if self.varied
                else None,
            },
            config={
                "permuted": self.permuted,
                "columns": self._columns(),
            },
            seed=self.seed,
            data=self.images.config.display_name,
            data_fingerprint=self.images.dataset.fingerprint,
            needs={
                "dataset": self.images.stage,
                "network": self.network,
                "checkpoints": self.checkpoints,
                "contenders": contenders,
            },
            reads={"originals": self.predictions, "contenders": self._predictions(contenders, others)},
            seconds=others * SECONDS_A_COMPARISON,
        )

    def _columns(self) -> dict[str, Any]:
        """Returns the columns that say how the originals were collected and the networks generated."""
        config = self.config
        return {
            "buffers": config.buffers,
            "preset": config.preset,
            "optimizer": None if config.checkpoints.path is not None else config.checkpoints.optimizer,
            "parameter_noise": config.autoencoder.parameter_noise,
            "latent_noise": config.autoencoder.latent_noise,
            "latent": config.autoencoder.numbers(self.layout.length),
            "diffusion_steps": config.diffusion.timesteps,
            "sampler": config.sampler,
            "sampling_steps": config.sampling_steps,
        }


def _training_seed(seed: int, *names: object) -> int:
    """Returns the seed of one training: the experiment's for the first of its kind."""
    return seed if names[-1] == 0 else derive_seed(seed, *names) % 2**63
