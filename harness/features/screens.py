"""Screens as data: each setting of the grid looked at on some of the images, by a ridge probe. No torch."""

from collections.abc import Sequence
from dataclasses import replace

from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.core.stages import Code, Stage, Trial, Work, shards
from harness.features.choose import Chooser, Look, Space, most_fits, screen_share
from harness.features.heads.ridge import Ridge

SCREEN = Code("screen", 1, "harness.features.quick_probe:run")
SCREEN_SECONDS = 0.05  # a guess for one CPU core


def screens_of(grid: Sequence[Trial]) -> list[Trial]:
    """Returns a screen for each block, timestep and pool of trials on one data set and backbone.

    All screens of a timestep share one pass over the same images. Raises `UserError` where features are not kept.
    """
    if any("features" not in trial.reads for trial in grid):
        raise UserError(
            "search: auto looks at features of some images before it passes all; they must be kept: "
            "set features.caching=cached, or search.name=grid"
        )
    share = screen_share(len({trial.axes["timestep"] for trial in grid}))
    found = {
        (trial.axes["timestep"], trial.axes["block"], trial.axes["pool"]): _screen(trial, share)
        for trial in grid
    }
    return list(found.values())


def _screen(trial: Trial, share: float) -> Trial:
    whole = trial.reads["features"]
    images = int(share * max(stage.part["images"][1] for stage in whole))
    begin, end = whole[0].part["images"]
    parts = shards(images, end - begin, whole[0].options["batch"])
    head = Ridge()
    return replace(
        trial,
        code=SCREEN,
        axes={**trial.axes, "features": "screen", "head": head.display_name},
        config={**trial.config, "head": head.keyed(), "images": images},
        reads={"features": tuple(_part(whole[0], images, *part) for part in parts)},
        seconds=SCREEN_SECONDS,
        searchable=False,
    )


def _part(whole: Stage, images: int, begin: int, end: int) -> Stage:
    """Returns the stage like `whole`, and with its siblings, of some of the images that screens look at."""
    group = fingerprint([whole.job, images, begin, end])

    def changed(stage: Stage) -> Stage:
        config = {**stage.config, "screened": images}
        part = {**stage.part, "images": [begin, end]}
        return replace(stage, config=config, part=part, group=group)

    first, last = whole.part["images"]
    factor = (end - begin) / (last - first)
    work = Work(
        round(whole.work.image_passes * factor),
        whole.work.seconds * factor,
        round(whole.work.stored_bytes * factor),
    )
    return replace(changed(whole), siblings=tuple(changed(one) for one in whole.siblings), work=work)


def chooser_of(grid: Sequence[Trial], screens: Sequence[Trial], trials: int) -> Chooser:
    """Returns what chooses among `grid`, trials on one data set and backbone; at most `trials` of them are run."""
    heads = tuple(dict.fromkeys(trial.axes["head"] for trial in grid))
    space = Space(
        timesteps=tuple(sorted({trial.axes["timestep"] for trial in grid})),
        settings=tuple(dict.fromkeys((trial.axes["block"], trial.axes["pool"]) for trial in grid)),
        heads=heads,
        fits=most_fits(len(grid), len(heads), trials),
    )
    keys = {_look(trial, None): trial.key for trial in screens}
    return Chooser(space, keys | {_look(trial, trial.axes["head"]): trial.key for trial in grid})


def _look(trial: Trial, head: str | None) -> Look:
    return Look(trial.axes["timestep"], trial.axes["block"], trial.axes["pool"], head)
