"""A data set with its splits and fingerprint, and the artifacts from which workers read it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from safetensors.numpy import load_file, save_file

from harness.core.checks import refuse_duplicates
from harness.core.config import Config, parse
from harness.core.errors import BadData, UserError, named
from harness.core.fingerprint import canonical
from harness.core.paths import existing_path
from harness.core.recent import Recent
from harness.core.stages import Code, Context, Stage
from harness.data import index as indexing
from harness.data.config import SOURCES, DataConfig
from harness.data.decoding import Pixels, decoded, encoded, white_of
from harness.data.index import Index
from harness.data.label_arrays import class_counts, is_labelled, is_multilabel
from harness.data.labels import labels_of
from harness.data.shards import CHANGED, DECODING, INDEX, ImageArray, StoredImages, shard_stages
from harness.data.source import Source
from harness.data.splits import SPLITS as SPLITS
from harness.data.splitting import can_be_tested, split
from harness.data.traps import traps

DATASET = Code("dataset", 2, "harness.data.dataset:make", uses=(DECODING,))  # reading, splitting


class NotDecoded:
    """The images of a data set where it is planned: their shape, and nothing else."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        raise RuntimeError("images are decoded by stages, not where a sweep is planned")


@dataclass(frozen=True)
class Dataset:
    """Images with labels; `splits` and `labelled` hold indices into them.

    `images` holds the images of all splits; an image's index identifies it in every noise draw.
    """

    images: ImageArray  # uint8 [N, C, H, W]
    # int64 [N]; -1 for images without a label, which are training images unless none has one.
    # Of multi-label data int8 [N, K]: 1 for a class that the image is of, 0 for another, rows of -1 without a label
    labels: np.ndarray
    classes: tuple[str, ...]
    splits: dict[str, np.ndarray]  # "train", "validation", "test": int64 indices, disjoint
    fingerprint: str = ""  # of the content: encoded images, how they are decoded, labels, class names, splits

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return int(self.images.shape[1])

    @property
    def size(self) -> int:
        """Width and height of the images."""
        return int(self.images.shape[2])

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels, or none of the classes."""
        return is_multilabel(self.labels)

    @property
    def about(self) -> list[str]:
        """What was read: images, pixels, splits, classes, and what a constant answer scores: its accuracy or mAP."""
        sizes = ", ".join(f"{name} {len(self.splits[name]):,}" for name in SPLITS)
        kind = "grey" if self.channels == 1 else "colour"
        lines = [f"{len(self.labels):,} images of {self.size}x{self.size} pixels, {kind} ({sizes})"]
        if self.classes:
            counts = class_counts(self.labels, len(self.classes))
            tested = class_counts(self.labels[self.splits["test"]], len(self.classes))
            low, high = int(counts.min()), int(counts.max())
            each = f"{low:,} images each" if low == high else f"{low:,} to {high:,} images each"
            chance = f"chance level {tested.max() / max(1, tested.sum()):.1%}, the largest class of the test images"
            if self.multilabel:
                each_N = (self.labels[is_labelled(self.labels)] == 1).sum(1)
                each += (
                    f"; multi-label: {each_N.mean():.3g} labels an image, {(each_N == 0).sum():,} with none"
                )
                share = tested[tested > 0].sum() / max(1, (tested > 0).sum() * len(self.splits["test"]))
                chance = f"chance level {share:.1%}, the mAP of a constant answer on the test images"
            lines[0] += f"; {len(self.classes)} classes, {each}; {chance}"
        without = int((~is_labelled(self.labels)).sum())
        if without and not self.classes:
            lines.append("no image has a label: a diffusion model can be trained on them, but no classifier")
        elif without:
            lines.append(f"{without:,} training images have no label: they train the diffusion model only")
        return lines

    def labelled(self, per_class: int | None) -> np.ndarray:
        """Returns the first `per_class` training images of each class, or all that have a label if it is None.

        Raises `UserError` if a class has fewer, if there are fewer than two classes, or for multi-label data without
        a positive and a negative image to rank, or of which some per class are wanted.
        """
        if not self.classes:
            raise UserError("no image has a label; set data.label_column, or leave out what needs labels")
        if self.multilabel:
            self._refuse_unranked(per_class)
        elif len(self.classes) < 2:
            raise UserError(f"the data set has one class, {self.classes[0]!r}; a classifier needs two")
        train = self.splits["train"]
        if per_class is None:
            return train[is_labelled(self.labels[train])]
        chosen = []
        for number, name in enumerate(self.classes):
            of_class = train[self.labels[train] == number]
            if len(of_class) < per_class:
                raise UserError(
                    f"data.labels_per_class = {per_class}: class {name!r} has {len(of_class)} "
                    f"training images; give at most {len(of_class)}, or null for all"
                )
            chosen.append(of_class[:per_class])
        return np.concatenate(chosen)

    def _refuse_unranked(self, per_class: int | None) -> None:
        if per_class is not None:
            raise UserError(
                f"data.labels_per_class = {per_class}: images have several labels, so images per class cannot be "
                "counted out; set it to null, and data.max_train to use fewer"
            )
        for name, places in self.splits.items():
            here = self.labels[places][is_labelled(self.labels[places])]
            if len(here) and not (here == 1).any():
                raise UserError(f"no {name} image is of any class, so there is nothing to learn or to rank")
            if len(here) and (here == 1).all():
                raise UserError(
                    f"every {name} image is of every class, so there is nothing to learn or to rank; if lists of 0 "
                    "and 1 are meant to say which classes an image is of, give a column for each: data.label_columns"
                )

    def thinned(self, per_class: int | None, images: int) -> "Dataset":
        """Returns the data set with only `images` of the labelled and validation images, and no test images.

        They are evenly spaced within each split; half are validation images if there are enough of both.
        """
        labelled, validation = self.labelled(per_class), self.splits["validation"]
        first = min(len(labelled), max(images // 2, images - len(validation)))
        counts = {
            "train": (labelled, first),
            "validation": (validation, min(len(validation), images - first)),
        }
        few = {
            name: places[np.arange(count) * len(places) // count] for name, (places, count) in counts.items()
        }
        return replace(self, splits={**few, "test": validation[:0]})

    def probed(self, per_class: int | None) -> np.ndarray:
        """Returns indices of the images that probes use: labelled, then validation, then test."""
        return np.concatenate([self.labelled(per_class), self.splits["validation"], self.splits["test"]])


@dataclass(frozen=True)
class Reading:
    """A data set as it was read for a plan: nothing is decoded."""

    dataset: Dataset
    pixels: Pixels
    parts: np.ndarray  # int64 [N]: the source's part that holds each image
    places: np.ndarray  # int64 [N]: its place there
    digests: np.ndarray  # uint8 [N, 16]: of the encoded images
    everywhere: bool  # whether any machine can read the source
    notes: tuple[str, ...]  # what was left out or assumed


def read(config: DataConfig, seed: int) -> Reading:
    """Reads the index of a data set and splits it. Raises `UserError` if it cannot be read or has too few images."""
    source: Source = SOURCES.load(config.name)(config)
    index = indexing.build(source, config)
    if not len(index):
        raise UserError(f"data set {config.name!r} at {config.path!r} contains no images")
    notes = list(source.notes)
    rows_N = readable(index, config, notes)
    labels = labels_of(index, rows_N, source, config)
    notes += labels.notes
    rows_N, labels_N = rows_N[labels.kept], labels.numbers[labels.kept]
    given_N = index.column("split")[rows_N]
    tested_N = can_be_tested(labels_N)
    moved = int(((given_N > 0) & ~tested_N).sum())
    if moved:
        notes.append(f"{moved:,} images of validation and test have no label: they become training images")
    splits = split(given_N, labels_N, config, seed)
    drawn = [name for name in SPLITS[1:] if not ((given_N == SPLITS.index(name)) & tested_N).any()]
    if drawn:
        how = "images by the rarest of their classes" if is_multilabel(labels_N) else "each class"
        notes.append(f"{' and '.join(drawn)} drawn from the training images, {how} in proportion")
    used = np.sort(np.concatenate(list(splits.values())))
    at = np.full(len(rows_N), -1)
    at[used] = np.arange(len(used))
    rows_N = rows_N[used]
    pixels = how_decoded(index, rows_N, config, source, notes)
    ends = np.cumsum(index.counts)
    parts = np.searchsorted(ends, rows_N, "right")
    digests = index.column("digest")[rows_N]
    dataset = Dataset(
        NotDecoded((len(rows_N), pixels.channels, pixels.size, pixels.size)),
        labels_N[used],
        tuple(labels.classes),
        {name: at[chosen] for name, chosen in splits.items()},
    )
    return Reading(
        dataset=replace(dataset, fingerprint=_fingerprint(dataset, pixels, digests)),
        pixels=pixels,
        parts=parts,
        places=rows_N - (ends - index.counts)[parts],
        digests=digests,
        everywhere=source.everywhere,
        notes=tuple(notes),
    )


def _fingerprint(dataset: Dataset, pixels: Pixels, digests_ND: np.ndarray) -> str:
    digest = hashlib.sha256(canonical([list(pixels), dataset.classes]).encode())
    for array in (digests_ND, dataset.labels, *(dataset.splits[name] for name in SPLITS)):
        digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(b"|")
    return digest.hexdigest()[:20]


def readable(index: Index, config: DataConfig, notes: list[str]) -> np.ndarray:
    """Returns the rows of images that can be read; raises `UserError` naming the others, unless they are skipped."""
    messages, error_N = index.names("error")
    fine = messages.index("") if "" in messages else -1
    wrong = np.flatnonzero(error_N != fine)
    if not len(wrong):
        return np.arange(len(index))
    found = [messages[place] for place in error_N[wrong]]
    if not config.skip_unreadable:
        raise UserError(f"{named(found)}; data.skip_unreadable=true leaves them out")
    notes.append(f"left out {len(found):,} images that cannot be read: {named(found[:3])}")
    return np.flatnonzero(error_N == fine)


def how_decoded(
    index: Index, rows_N: np.ndarray, config: DataConfig, source: Source, notes: list[str]
) -> Pixels:
    """Returns how these images are decoded, and adds to `notes` what that changes.

    Raises `UserError` if they differ in size and `data.size` is not given.
    """
    grey_N = index.column("grey")[rows_N]
    width_N, height_N = (index.column(name)[rows_N] for name in ("width", "height"))
    level_N = index.column("level")[rows_N]
    channels = config.channels or (1 if grey_N.all() else 3)
    if channels == 3 and config.channels is None and grey_N.any():
        notes.append(f"{int(grey_N.sum()):,} of the images are grey: read as colour like the others")
    size = config.size
    if size is None:
        other = np.flatnonzero((width_N != width_N[0]) | (height_N != height_N[0]))
        if len(other):
            place = indexing.where(source, index, int(rows_N[other[0]]))
            raise UserError(
                f"{place}: {width_N[other[0]]}x{height_N[other[0]]} pixels where the first image has "
                f"{width_N[0]}x{height_N[0]}; set data.size to resize all to one size"
            )
        if width_N[0] != height_N[0]:
            raise UserError(
                f"images are {width_N[0]}x{height_N[0]} pixels; set data.size to make them square"
            )
        size = int(width_N[0])
    elif ((width_N != size) | (height_N != size)).any():
        small = int((np.minimum(width_N, height_N) < size).sum())
        enlarged = f"; {small:,} of them are enlarged" if small else ""
        notes.append(
            f"stored as {_range(width_N)} x {_range(height_N)} pixels, resized and cropped to {size}x{size}{enlarged}"
        )
    deep_N = ~np.isnan(level_N)
    white = None
    if deep_N.any():
        white = white_of(float(level_N[deep_N].max()), bool(index.column("floats")[rows_N][deep_N].all()))
        notes.append(f"{int(deep_N.sum()):,} images have more than 256 grey levels: {white:g} is white")
    return Pixels(channels, size, white)


def _range(values_N: np.ndarray) -> str:
    low, high = int(values_N.min()), int(values_N.max())
    return str(low) if low == high else f"{low} to {high}"


def load(config: DataConfig, seed: int) -> Dataset:
    """Returns a small data set with all of its images decoded, in memory. Raises `UserError` if it cannot be read."""
    reading = read(config, seed)
    source: Source = SOURCES.load(config.name)(config)
    wanted = set(zip(reading.parts.tolist(), reading.places.tolist(), strict=True))
    contents = (
        (encoded(record), record.where)
        for number, part in enumerate(source.parts)
        for place, record in enumerate(part.read())
        if (number, place) in wanted
    )
    return replace(reading.dataset, images=np.stack(list(decoded(contents, reading.pixels))))


class Images(NamedTuple):
    """An experiment's data set: its configuration, what is known of it, and the stage from which workers read it."""

    config: DataConfig
    dataset: Dataset
    stage: Stage

    @classmethod
    def read(cls, config: DataConfig, seed: int) -> Self:
        """Reads a data set's index; raises `UserError` if it cannot be read."""
        reading = read(config, seed)
        return cls(config, reading.dataset, dataset_stage(config, seed, reading))


def verify_data(experiment: Config) -> None:
    """Reads all images of all data sets that an experiment names, also those of files that look unchanged.

    The plan that follows notices what has changed. Raises `UserError` if a source cannot be read.
    """
    for config in _data_sets(experiment):
        indexing.build(SOURCES.load(config.name)(config), config, verify=True)


def _data_sets(values: Any) -> Iterator[DataConfig]:
    if isinstance(values, DataConfig):
        yield values
    elif isinstance(values, Config):
        for name in type(values).model_fields:
            yield from _data_sets(getattr(values, name))
    elif isinstance(values, list):
        for value in values:
            yield from _data_sets(value)


def further(first: Images, others: Sequence[DataConfig], seed: int, where: str) -> list[Images]:
    """Reads the additional data sets of an experiment. Raises `UserError` if two have the same name."""
    found = [Images.read(other, seed) for other in others]
    refuse_duplicates(
        [one.config.display_name for one in (first, *found)], where, "; give each data set a label"
    )
    return found


def dataset_stage(config: DataConfig, seed: int, reading: Reading) -> Stage:
    """Returns the stage that stores labels, splits and places, with the shards of pixels as its parts.

    Its options say what was read and left out, and traps, in "about" and "warnings": plan and page say both.
    """
    dataset = reading.dataset
    found = traps(reading.digests, dataset.labels, dataset.classes, dataset.splits)
    warnings, about = (
        [f"{config.display_name}: {one}" for one in said]
        for said in (found, [*dataset.about, *reading.notes])
    )
    stage = Stage(
        kind="dataset",
        code=DATASET,
        config={"fingerprint": dataset.fingerprint},
        options={
            "data": {**config.model_dump(mode="json"), "path": _absolute(config.path)},
            "seed": seed,
            "pixels": reading.pixels._asdict(),
            "warnings": warnings,
            "about": about,
        },
        local=True,
    )
    return replace(stage, parts=shard_stages(stage, len(dataset.labels), reading.pixels, reading.everywhere))


def _absolute(path: str | None) -> str | None:
    """Returns the path of local data for processes with another working folder; anything else as it is."""
    place = None if path is None or "://" in path else existing_path(path)
    return path if place is None else str(place.absolute())


def make(stage: Stage, folder: Path, context: Context) -> None:
    """Writes labels, splits and places of images; raises `UserError` if the source has changed since planning."""
    reading = read(parse(DataConfig, stage.options["data"], "data"), stage.options["seed"])
    if reading.dataset.fingerprint != stage.config["fingerprint"]:
        raise BadData(CHANGED)
    dataset = reading.dataset
    arrays = {
        "labels": dataset.labels,
        **dataset.splits,
        "part": reading.parts,
        "place": reading.places,
        "digest": reading.digests,
    }
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / INDEX)
    (folder / "classes.json").write_text(json.dumps(dataset.classes), encoding="utf-8")


def open_dataset(stage: Stage, context: Context) -> Dataset:
    """Reads the artifact of a data-set stage; the last one is cached for the next trial or shard of the process."""
    return _opened.get((context.store.storage.url, stage.key), lambda: _read(stage, context))


_opened = Recent[Dataset]()


def _read(stage: Stage, context: Context) -> Dataset:
    arrays = load_file(context.file(stage, INDEX))
    classes = json.loads(context.file(stage, "classes.json").read_text(encoding="utf-8"))
    return Dataset(
        images=StoredImages(stage, context),
        labels=arrays["labels"],
        classes=tuple(classes),
        splits={name: arrays[name] for name in SPLITS},
        fingerprint=stage.config["fingerprint"],
    )
