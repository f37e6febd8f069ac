"""Screening probes as trials: a ridge probe of each setting of the grid, on some of the images. No torch."""

from collections.abc import Sequence
from dataclasses import replace

from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.core.stages import Code, Stage, Trial, Work, shards
from harness.features.choose import Candidate, Chooser, SearchSpace, most_fits, screen_share
from harness.features.heads.ridge import Ridge
from harness.features.memory import read_in_batches

SCREEN = Code("screen", 2, "harness.features.screening_probe:run")
SCREEN_SECONDS = 0.05  # estimated for one CPU core


def screens_of(grid: Sequence[Trial]) -> list[Trial]:
    """Returns a screening probe for each block, timestep and pool of trials on one data set and backbone.

    All probes of a timestep share one pass over the same images. Raises `UserError` if features are not cached, or if
    a probe takes more than `features.memory_gb`.
    """
    if any("features" not in trial.reads for trial in grid):
        raise UserError(
            "search: auto probes features of some images before passing all, so features must be cached: "
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
    setting = trial.options["setting"]._replace(train=images, evaluated=0)
    options = {**trial.options, "setting": setting}
    read_in_batches(head, **options)  # or refuses
    return replace(
        trial,
        code=SCREEN,
        axes={**trial.axes, "features": "screen", "head": head.display_name},
        config={**trial.config, "head": head.keyed(), "images": images},
        reads={"features": tuple(_part(whole[0], images, *part) for part in parts)},
        options=options,
        seconds=SCREEN_SECONDS,
        searchable=False,
    )


def _part(whole: Stage, images: int, begin: int, end: int) -> Stage:
    """Returns a copy of `whole`, and of its siblings, for some of the screened images."""
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
    """Returns the chooser among `grid`, trials on one data set and backbone, of which at most `trials` are run."""
    heads = tuple(dict.fromkeys(trial.axes["head"] for trial in grid))
    space = SearchSpace(
        timesteps=tuple(sorted({trial.axes["timestep"] for trial in grid})),
        settings=tuple(dict.fromkeys((trial.axes["block"], trial.axes["pool"]) for trial in grid)),
        heads=heads,
        fits=most_fits(len(grid), len(heads), trials),
    )
    keys = {_candidate(trial, None): trial.key for trial in screens}
    return Chooser(space, keys | {_candidate(trial, trial.axes["head"]): trial.key for trial in grid})


def _candidate(trial: Trial, head: str | None) -> Candidate:
    return Candidate(trial.axes["timestep"], trial.axes["block"], trial.axes["pool"], head)
