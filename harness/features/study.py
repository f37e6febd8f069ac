"""Study 1 as trials: every block, timestep, pool and head of the grid, and the controls beside it."""

from collections.abc import Sequence

from harness.core.stages import Stage, Trial
from harness.data.config import DataConfig
from harness.data.dataset import Dataset
from harness.features.choose import Chooser
from harness.features.config import FeaturesConfig
from harness.features.grid import Grid, Images, check, transferred
from harness.features.heads.head import HEADS
from harness.features.screens import chooser_of, screens_of
from harness.features.stages import (
    backbone_stage,
    regularised_backbones,
)
from harness.models.backbones.backbone import BACKBONES
from harness.training.regularisers import REGULARISERS


class Features:
    """Which layer, noise level, pooling and head give the best features?"""

    name = "features"
    Config = FeaturesConfig
    registries = (BACKBONES, HEADS, REGULARISERS)
    axes = ("block", "timestep", "pool", "head", "regulariser")
    loaders = {
        "extractor.json": "harness.features.extractor:load"
    }  # of what `exporter` writes, by a file of it
    apart = ("backbone", "regulariser")  # axes that no search chooses: each value has one of its own

    def trials(
        self, config: FeaturesConfig, data: DataConfig, dataset: Dataset, stage: Stage, seed: int
    ) -> list[Trial]:
        """Returns all trials of an experiment; raises `UserError` for settings that the backbone does not have."""
        size, channels = dataset.images.shape[2], dataset.images.shape[1]
        plan = config.backbone.plan(size, channels)
        backbones = regularised_backbones(plan, config.train, config.regularisers, stage, seed, self.name)
        trials: list[Trial] = []
        for one in [Images(data, dataset, stage), *transferred(config, data, dataset, seed)]:
            grid = Grid(config, one, seed, plan)
            for regulariser, backbone in backbones.items():
                trials += grid.over("trained", backbone, grid.timesteps, regulariser)
                trials += [grid.combined(mixture, backbone, regulariser) for mixture in grid.mixtures]
            if "untrained" in config.controls:
                zero = config.train.model_copy(update={"steps": 0})
                untrained = backbone_stage(plan.untrained(), zero, stage, seed)
                trials += grid.over("untrained", untrained, [min(grid.timesteps)])
            if "pixels" in config.controls:
                trials += [grid.trial("pixels", None, None, None, head) for head in config.heads]
        return trials

    def describe(self, config: FeaturesConfig, size: int, channels: int) -> list[str]:
        """Returns lines about the backbone for such images: its blocks, and the noise of the timesteps."""
        plan = config.backbone.plan(size, channels)
        check(config, plan)
        return [
            f"backbone {config.backbone.name}, images of {size} pixels and {channels} channels:",
            *plan.lines(plan.steps(config.timesteps)),
        ]

    def exporter(self, trial: Trial, kind: str) -> str | None:
        """Returns the function that takes a trial's classifier home, "module:function", or None where none can."""
        if kind != "classifier" or trial.axes["features"] != "trained":
            return None
        return "harness.features.export:" + ("write_streamed" if "streamed" in trial.reads else "write_probe")

    def screens(self, grid: Sequence[Trial]) -> list[Trial]:
        """Returns the quick looks of `search: auto` at trials on one data set and backbone; raises `UserError`."""
        return screens_of(grid)

    def chooser(self, grid: Sequence[Trial], screens: Sequence[Trial], trials: int) -> Chooser:
        """Returns what chooses at most `trials` of `grid`, trials on one data set and backbone."""
        return chooser_of(grid, screens, trials)


STUDY = Features()
