"""What `search: auto` looks at before it fits heads, as trials on some of the images. No torch.

A screening probe is a ridge probe of a setting; a frequency trial measures the high-frequency ratio of a timestep.
"""

from collections.abc import Sequence
from dataclasses import replace

from harness.core.errors import UserError
from harness.core.fingerprint import fingerprint
from harness.core.stages import Code, Stage, Trial, Work, shards
from harness.features.choose import SCREEN_SHARE, Candidate, Chooser, Method, SearchSpace, budget_of
from harness.features.heads.ridge import Ridge
from harness.features.memory import read_in_batches
from harness.features.stages import EXTRACTION

SCREEN = Code("screen", 2, "harness.features.screening_probe:run")
SCREEN_SECONDS = 0.05  # estimated for one CPU core
FEWEST_SCREENED = 50  # images: fewer tell settings apart by luck
SPECTRA = Code("frequencies", 2, "harness.features.frequency:make_frequencies", uses=(EXTRACTION,))
FREQUENCY = Code("frequency", 1, "harness.features.frequency:run")
FREQUENCY_IMAGES = 64  # enough for the mean of a ratio


def screens_of(grid: Sequence[Trial]) -> list[Trial]:
    """Returns a screening probe for each block, timestep and pool of trials on one data set and backbone.

    All probes of a timestep share one pass over the same images. Raises `UserError` if features are not cached, or if
    a probe takes more than `features.memory_gb`.
    """
    _refuse_streamed(grid)
    found = {
        (trial.axes["timestep"], trial.axes["block"], trial.axes["pool"]): _screen(trial) for trial in grid
    }
    return list(found.values())


def frequencies_of(grid: Sequence[Trial]) -> list[Trial]:
    """Returns a trial for each timestep of a grid on one data set and backbone: it measures the high-frequency ratio.

    That is the mean over the blocks of the grid. Raises `UserError` if features are not cached.
    """
    _refuse_streamed(grid)
    modules = list(dict.fromkeys(trial.axes["block_name"] for trial in grid))
    first = {trial.axes["timestep"]: trial for trial in reversed(grid)}
    return [_frequency(trial, modules) for trial in reversed(first.values())]


def _refuse_streamed(grid: Sequence[Trial]) -> None:
    if any("features" not in trial.reads for trial in grid):
        raise UserError(
            "search: auto reads features of some settings only, so features must be cached: "
            "set features.caching=cached, or search.name=grid"
        )


def _screen(trial: Trial) -> Trial:
    whole = trial.reads["features"]
    total = max(stage.part["images"][1] for stage in whole)
    images = min(total, max(FEWEST_SCREENED, int(SCREEN_SHARE * total)))
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


def _frequency(trial: Trial, modules: Sequence[str]) -> Trial:
    """Returns the measurement at a trial's timestep, which reads as its features would be read, before pooling."""
    whole = trial.reads["features"][0]
    images = min(FREQUENCY_IMAGES, max(stage.part["images"][1] for stage in trial.reads["features"]))
    config = {name: value for name, value in whole.config.items() if name not in ("block", "module")}
    begin, end = whole.part["images"]
    factor = images / (end - begin)
    stage = Stage(
        kind="frequencies",
        code=SPECTRA,
        config={**config, "screened": images, "modules": list(modules)},
        needs=whole.needs,
        part={"images": [0, images]},
        options=whole.options,
        work=Work(round(whole.work.image_passes * factor), whole.work.seconds * factor),
    )
    nothing = dict.fromkeys(("block", "block_name", "pool", "head"))
    return replace(
        trial,
        objective="high_frequency_ratio",
        code=FREQUENCY,
        axes={**trial.axes, **nothing, "features": "frequency"},
        config={name: value for name, value in trial.config.items() if name not in ("head", "views")},
        reads={"frequencies": (stage,)},
        options={},
        seconds=SCREEN_SECONDS,
        searchable=False,
        note="",
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


def chooser_of(method: Method, grid: Sequence[Trial], screens: Sequence[Trial], trials: int) -> Chooser:
    """Returns the chooser among `grid`, trials on one data set and backbone, of which at most `trials` are run."""
    timesteps, blocks, pools = (
        tuple(sorted({trial.axes[axis] for trial in grid})) for axis in ("timestep", "block", "pool")
    )
    heads = tuple(dict.fromkeys(trial.axes["head"] for trial in grid))
    budget = budget_of(len(timesteps), len(blocks), len(pools), len(heads), trials)
    space = SearchSpace(timesteps, blocks, pools, heads, budget)
    keys = {_candidate(trial, None): trial.key for trial in screens}
    return Chooser(method, space, keys | {_candidate(trial, trial.axes["head"]): trial.key for trial in grid})


def _candidate(trial: Trial, head: str | None) -> Candidate:
    return Candidate(trial.axes["timestep"], trial.axes["block"], trial.axes["pool"], head)
