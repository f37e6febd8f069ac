"""Study 1 as trials: every block, timestep, pool and head of the grid, and the controls."""

from collections.abc import Sequence
from itertools import product

from harness.core.stages import Trial
from harness.core.study import AutoSearch, Study
from harness.data.dataset import Images
from harness.features.choose import Chooser
from harness.features.choose_published import FREQUENCY, LOCAL
from harness.features.choose_screening import SCREENING
from harness.features.config import FeaturesConfig
from harness.features.grid import Grid, check, conditioned, transferred
from harness.features.heads.head import HEADS
from harness.features.screens import chooser_of, frequencies_of, screens_of
from harness.features.stages import (
    backbone_stage,
    regularised_backbones,
)
from harness.features.tables import CORRECTNESS, FEATURES
from harness.models.backbones.backbone import BACKBONES
from harness.training.regularisers import REGULARISERS


class Choosing(AutoSearch):
    """`search: auto` of study 1."""

    methods = ("screening", "frequency", "local")
    _ways = {"screening": SCREENING, "frequency": FREQUENCY, "local": LOCAL}

    def screens(self, method: str, grid: Sequence[Trial]) -> list[Trial]:
        """Returns what the method looks at before it fits heads of `grid`."""
        if method == "local":
            return []
        return frequencies_of(grid) if method == "frequency" else screens_of(grid)

    def chooser(self, method: str, grid: Sequence[Trial], screens: Sequence[Trial], trials: int) -> Chooser:
        """Returns the chooser of that method."""
        return chooser_of(self._ways[method], grid, screens, trials)


class Features(Study):
    """Which layer, noise level, pooling and head give the best features?"""

    name = "features"
    Config = FeaturesConfig
    tables = (FEATURES, CORRECTNESS)
    registries = (BACKBONES, HEADS, REGULARISERS)
    auto = Choosing()
    loaders = {"extractor.json": "harness.features.extractor:load"}

    def trials(self, config: FeaturesConfig, images: Images, seed: int) -> list[Trial]:
        """Returns all trials of an experiment; raises `UserError` for settings out of the backbone's range."""
        channels, size = images.dataset.images.shape[1:3]
        stage = images.stage
        zero = config.train.model_copy(update={"steps": 0})
        learners = [
            (under, regularised_backbones(under, config.train, config.regularisers, images, seed, self.name))
            for under in conditioned(config, size, channels)
        ]
        trials: list[Trial] = []
        for one in [images, *transferred(config, images, seed)]:
            for (under, backbones), noise in product(learners, config.noise):
                grid = Grid(config, one, seed, under, noise)
                for regulariser, backbone in backbones.items():
                    trials += grid.over("trained", backbone, grid.timesteps, regulariser)
                    trials += [
                        grid.combined(combination, backbone, regulariser) for combination in grid.combinations
                    ]
                if "untrained" in config.controls:
                    untrained = backbone_stage(under.untrained(), zero, stage, seed)
                    trials += grid.over("untrained", untrained, [min(grid.timesteps)])
            if "pixels" in config.controls:
                trials += [grid.on_pixels(head) for head in config.heads]
        return trials

    def describe(self, config: FeaturesConfig, size: int, channels: int) -> list[str]:
        """Returns lines about the backbone for such images: its blocks, and the noise levels of the timesteps."""
        plan, *_ = conditioned(config, size, channels)
        check(config, plan)
        return [
            f"backbone {config.backbone.name}, images of {size} pixels and {channels} channels:",
            *plan.lines(plan.steps(config.timesteps)),
        ]

    def exporter(self, trial: Trial, kind: str) -> str | None:
        """Returns the function that exports a trial's classifier, "module:function", or None if none can."""
        if kind != "classifier" or trial.axes["features"] != "trained":
            return None
        return "harness.features.export:" + ("write_streamed" if "streamed" in trial.reads else "write_probe")


STUDY = Features()
