"""A data set in memory with its splits and fingerprint, and the artifact from which workers read it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from harness.core.checks import refuse_duplicates
from harness.core.config import parse
from harness.core.errors import UserError, did_you_mean
from harness.core.fingerprint import canonical
from harness.core.recent import Recent
from harness.core.seeds import rng
from harness.core.stages import Code, Context, Stage
from harness.data.config import SOURCES, DataConfig
from harness.data.source import Record, Source, decode
from harness.data.splits import SPLITS as SPLITS
from harness.data.traps import traps

DATASET = Code("dataset", 1, "harness.data.dataset:make")  # reading, splitting


@dataclass(frozen=True)
class Dataset:
    """Images with labels; `splits` and `labelled` hold indices into them.

    `images` holds the images of all splits; an image's index identifies it in every noise draw.
    """

    images: np.ndarray  # uint8 [N, C, H, W]
    labels: np.ndarray  # int64 [N]
    classes: tuple[str, ...]
    splits: dict[str, np.ndarray]  # "train", "validation", "test": int64 indices, disjoint
    notes: tuple[str, ...] = ()  # what was left out when it was read

    @property
    def about(self) -> str:
        """What was read, in one line: images, pixels, splits, classes, and the accuracy of a constant answer."""
        count, channels, height, width = self.images.shape
        sizes = ", ".join(f"{name} {len(self.splits[name]):,}" for name in SPLITS)
        tested = np.bincount(self.labels[self.splits["test"]], minlength=1)
        return (
            f"{count:,} images of {width}x{height} pixels, {'grey' if channels == 1 else 'colour'} ({sizes}); "
            f"{len(self.classes)} classes, {tested.max() / max(1, tested.sum()):.1%} of test images in the largest"
        )

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the content: pixels, labels, class names and splits."""
        digest = hashlib.sha256(canonical([self.images.shape, self.classes]).encode())
        for array in (self.images, self.labels, *(self.splits[name] for name in SPLITS)):
            digest.update(np.ascontiguousarray(array).tobytes())
            digest.update(b"|")
        return digest.hexdigest()[:20]

    def labelled(self, per_class: int | None) -> np.ndarray:
        """Returns the first `per_class` training images of each class, or all if it is None.

        Raises `UserError` if a class has fewer, or if there is only one class.
        """
        if len(self.classes) < 2:
            raise UserError(f"the data set has one class, {self.classes[0]!r}; a classifier needs two")
        train = self.splits["train"]
        if per_class is None:
            return train
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


def load(config: DataConfig, seed: int) -> Dataset:
    """Reads the images and splits them; raises `UserError` if they cannot be read or are too few."""
    source = kept(SOURCES.load(config.name)(config), config.classes)
    records = list(source.records)
    if not records:
        raise UserError(f"data set {config.name!r} at {config.path!r} contains no images")
    labels = np.array([record.label for record in records], np.int64)
    splits = split(records, config, seed)
    used = np.sort(np.concatenate(list(splits.values())))
    places = np.full(len(records), -1)
    places[used] = np.arange(len(used))
    splits = {name: places[chosen] for name, chosen in splits.items()}
    return Dataset(
        images=decode([records[place] for place in used], config),
        labels=labels[used],
        classes=tuple(source.classes),
        splits=splits,
        notes=tuple(source.notes),
    )


def kept(source: Source, classes: Sequence[str] | None) -> Source:
    """Returns a source reduced to the named classes, or all of it; raises `UserError` for unknown classes."""
    if classes is None:
        return source
    for name in classes:
        if name not in source.classes:
            raise UserError(f"data.classes: no class {name!r}; {did_you_mean(name, list(source.classes))}")
    refuse_duplicates(classes, "data.classes")
    number = {source.classes.index(name): place for place, name in enumerate(classes)}
    chosen = (one._replace(label=number[one.label]) for one in source.records if one.label in number)
    return source._replace(records=chosen, classes=classes)


def split(records: Sequence[Record], config: DataConfig, seed: int) -> dict[str, np.ndarray]:
    """Returns indices for "train", "validation" and "test", in random order given the seed.

    The source's own splits are kept; a missing one is drawn from the training images.
    """
    total = len(records)
    order = rng(seed, "split").permutation(total)
    named = np.array([record.split or "train" for record in records])[order]
    found = {name: order[named == name] for name in SPLITS}
    for name, share in (("test", config.test), ("validation", config.validation)):
        if not len(found[name]):
            count = round(share * total)
            found[name], found["train"] = found["train"][:count], found["train"][count:]
    limits = {"train": config.max_train, "validation": config.max_validation, "test": config.max_test}
    found = {name: chosen[: limits[name]] for name, chosen in found.items()}
    for name, chosen in found.items():
        if not len(chosen):
            raise UserError(
                f"data set {config.name!r}: no images left for {name}: it has {total} images, "
                f"data.validation = {config.validation} and data.test = {config.test}"
            )
    return found


class Images(NamedTuple):
    """A data set of an experiment: its configuration, its content, and the stage from which workers read it."""

    config: DataConfig
    dataset: "Dataset"
    stage: Stage

    @classmethod
    def read(cls, config: DataConfig, seed: int) -> Self:
        """Reads a data set; raises `UserError` if it cannot be read."""
        dataset = load(config, seed)
        found = traps(dataset.images, dataset.labels, dataset.classes, dataset.splits)
        warnings, about = (
            [f"{config.display_name}: {one}" for one in said]
            for said in (found, [dataset.about, *dataset.notes])
        )
        return cls(config, dataset, dataset_stage(config, seed, dataset.fingerprint, warnings, about))


def further(first: Images, others: Sequence[DataConfig], seed: int, where: str) -> list[Images]:
    """Reads the additional data sets of an experiment. Raises `UserError` if two have the same name."""
    found = [Images.read(other, seed) for other in others]
    refuse_duplicates(
        [one.config.display_name for one in (first, *found)], where, "; give each data set a label"
    )
    return found


def dataset_stage(
    config: DataConfig, seed: int, fingerprint: str, warnings: Sequence[str] = (), about: Sequence[str] = ()
) -> Stage:
    """Returns the stage that stores the data set for workers. It runs where the images can be read.

    `about` is what was read and left out, `warnings` are traps: plan and page say both.
    """
    return Stage(
        kind="dataset",
        code=DATASET,
        config={"fingerprint": fingerprint},
        options={
            "data": config.model_dump(mode="json"),
            "seed": seed,
            "warnings": [*warnings],
            "about": [*about],
        },
        local=True,
    )


def make(stage: Stage, folder: Path, context: Context) -> None:
    """Writes images, labels and splits; raises `UserError` if the source has changed since planning."""
    dataset = load(parse(DataConfig, stage.options["data"], "data"), stage.options["seed"])
    if dataset.fingerprint != stage.config["fingerprint"]:
        raise UserError("the images have changed since the sweep was planned; run the command again")
    arrays = {"images": dataset.images, "labels": dataset.labels, **dataset.splits}
    save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "images.safetensors"
    )
    (folder / "classes.json").write_text(json.dumps(dataset.classes), encoding="utf-8")


def open_dataset(stage: Stage, context: Context) -> Dataset:
    """Reads the artifact of a data-set stage; the last one is cached for the next trial or shard of the process."""
    return _opened.get(stage.key, lambda: _read(stage, context))


_opened = Recent[Dataset]()


def _read(stage: Stage, context: Context) -> Dataset:
    path = context.file(stage, "images.safetensors")
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in ("labels", *SPLITS)}
    classes = json.loads(context.file(stage, "classes.json").read_text(encoding="utf-8"))
    return Dataset(
        images=_mapped(path, "images"),
        labels=arrays["labels"],
        classes=tuple(classes),
        splits={name: arrays[name] for name in SPLITS},
    )


def _mapped(path: Path, name: str) -> np.ndarray:
    """Maps an array of a safetensors file into memory: a worker only loads the images it uses."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(length))[name]
    return np.memmap(path, np.uint8, "r", 8 + length + about["data_offsets"][0], tuple(about["shape"]))
