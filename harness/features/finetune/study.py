"""Fine-tuning as trials: a training run for every block, timestep, pool and head."""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from harness.core.apart import apart
from harness.core.checks import refuse_duplicates
from harness.core.errors import UserError, did_you_mean
from harness.core.stages import Code, Stage, Trial, Work
from harness.core.study import Shared, Study
from harness.data.dataset import Images
from harness.features.finetune.config import PROJECTIONS, FinetuneConfig, Lora
from harness.features.heads.head import (
    HEADS,
    Head,
    learns_by_gradients,
    refuse_same_names,
    refuse_single_label,
)
from harness.features.stages import (
    EXTRACTION,
    MULTIPLICATIONS_PER_SECOND,
    check_pools,
    regularised_backbones,
)
from harness.features.tables import CORRECTNESS, FEATURES, objective
from harness.models.backbones.backbone import BACKBONES, BackbonePlan, Block, multiplications
from harness.models.backbones.blocks import OUTPUT
from harness.training.config import TRAINING
from harness.training.regularisers import REGULARISERS

TUNED = Code("finetuned", 1, "harness.features.finetune.task:make_tuned", uses=(TRAINING,))
EVALUATION = Code("finetuned evaluation", 1, "harness.features.finetune.evaluate:run", uses=(EXTRACTION,))
ADAPTERS = "harness.features.finetune.adapters"
ALL = "all"  # tuning, in rows, of all weights


class Setting(NamedTuple):
    """One point of the grid."""

    block: Block
    timestep: int
    pool: int
    head: Head


class Finetune(Study):
    """How much better is the backbone up to a block if it is trained together with its head?"""

    name = "finetune"
    Config = FinetuneConfig
    tables = (FEATURES, CORRECTNESS)
    registries = (BACKBONES, HEADS, REGULARISERS)
    shared = Shared("features", ("backbone", "train", "regularisers"))
    loaders = {"extractor.json": "harness.features.extractor:load"}

    def trials(self, config: FinetuneConfig, images: Images, seed: int) -> list[Trial]:
        """Returns all trials of an experiment; raises `UserError` for settings out of the backbone's range."""
        data, dataset, stage = images
        plan = config.backbone.plan(dataset.images.shape[2], dataset.images.shape[1])
        grid = product(
            check(config, plan),
            plan.steps(config.timesteps, "finetune.timesteps"),
            config.pools,
            config.heads,
        )
        dataset.labelled(data.labels_per_class)
        if dataset.multilabel:
            refuse_single_label(config.heads, data.display_name, "finetune.heads")
        backbones = regularised_backbones(plan, config.train, config.regularisers, images, seed, self.name)
        return [
            Trial(
                study=self.name,
                table="features",
                objective=objective(dataset.multilabel),
                code=EVALUATION,
                axes={
                    "features": "finetuned",
                    "tuning": config.lora.display_name if config.lora else ALL,
                    "backbone": config.backbone.name,
                    "regulariser": regulariser,
                    "condition": plan.condition.name if plan.condition else None,
                    "noise": "fresh",
                    "after": OUTPUT,
                    "block": setting.block.number,
                    "block_name": setting.block.name,
                    "timestep": setting.timestep,
                    "sigma": plan.sigma(setting.timestep),
                    "log_snr": plan.log_snr(setting.timestep),
                    "pool": setting.pool,
                    "head": setting.head.display_name,
                },
                config={
                    "head": setting.head.keyed(),
                    "draws": config.draws,
                    "precision": config.precision,
                },
                seed=seed,
                data=data.display_name,
                data_fingerprint=dataset.fingerprint,
                needs={
                    "dataset": stage,
                    "tuned": tuned_stage(setting, config, data.labels_per_class, plan, backbone, stage, seed),
                },
                searchable=False,  # each is a training run, so all that are requested are run
            )
            for setting in map(Setting._make, grid)
            for regulariser, backbone in backbones.items()
        ]

    def exporter(self, trial: Trial, kind: str) -> str | None:
        """Returns the function that exports a trial's classifier, "module:function", or None."""
        return "harness.features.export:write_tuned" if kind == "classifier" else None


def tuned_stage(
    setting: Setting,
    config: FinetuneConfig,
    labels_per_class: int | None,
    plan: BackbonePlan,
    backbone: Stage,
    dataset: Stage,
    seed: int,
) -> Stage:
    """Returns the stage that fine-tunes `backbone` in one setting."""
    tune, block = config.tune, setting.block
    passes = 3 * tune.steps * tune.batch
    return Stage(
        kind="finetuned",
        code=TUNED,
        config={
            "module": block.name,
            "timestep": setting.timestep,
            "pool": setting.pool,
            "head": setting.head.keyed(),
            "tune": tune.keyed(),
            "augment": config.augment.keyed() if config.augment else None,
            **({"lora": config.lora.keyed()} if config.lora else {}),
            "labels_per_class": labels_per_class,
            "seed": seed,
        },
        needs={"backbone": backbone, "dataset": dataset},
        options={
            "tune": tune.model_dump(mode="json"),
            "batch": config.batch,
            "checkpointing": config.gradient_checkpointing,
        },
        work=Work(passes, passes * multiplications(plan.blocks[: block.number]) / MULTIPLICATIONS_PER_SECOND),
        trains=tune.steps > 0 and tune.workers != 0,
    )


def check(config: FinetuneConfig, plan: BackbonePlan) -> list[Block]:
    """Returns the blocks to tune up to; raises `UserError` naming the value that is out of range."""
    blocks = plan.select(config.blocks)
    check_pools(config.pools, blocks, "finetune.pools")
    for head in config.heads:
        if not learns_by_gradients(head):
            raise UserError(
                f"finetune.heads: {head.name!r} is not trained by gradient descent; give linear, or a "
                "head that is, such as mlp or attention"
            )
    refuse_same_names(config.heads, "finetune.heads")
    network = plan.family.class_name, dict(plan.config), plan.size
    if config.lora is not None:
        _check_adapters(config.lora, blocks, network)
    if config.gradient_checkpointing and not apart(f"{ADAPTERS}:can_checkpoint", *network):
        raise UserError(
            f"finetune.gradient_checkpointing: a {network[0]} cannot compute activations again; leave it out and "
            "take a smaller finetune.tune.batch to save memory"
        )
    return blocks


def _check_adapters(lora: Lora, blocks: Sequence[Block], network: tuple[str, dict[str, Any], int]) -> None:
    """Raises `UserError` unless every block depends on a layer that gets adapters."""
    where = "finetune.lora.targets"
    refuse_duplicates(lora.targets, where)
    about = apart(f"{ADAPTERS}:adaptable", *network, [block.name for block in blocks], lora.targets)
    for target, count in about["found"].items():
        if not count and (target not in PROJECTIONS or not any(about["found"].values())):
            raise UserError(
                f"{where}: no linear or convolutional layer of this {network[0]} is called {target!r}; "
                f"{did_you_mean(target, about['layers'])}"
            )
    for block, reached in zip(blocks, about["reached"], strict=True):
        if not reached:
            raise UserError(
                f"{where}: block {block.number} ({block.name}) depends on no layer called "
                f"{' or '.join(lora.targets)}; choose deeper blocks, other targets, or leave finetune.lora out"
            )


STUDY = Finetune()
