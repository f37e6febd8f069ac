"""A data set in memory, its splits and its fingerprint; and the artifact that workers read it from."""

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

SPLITS = ("train", "validation", "test")
DATASET = Code("dataset", 1, "harness.data.dataset:make")  # reading, splitting


@dataclass(frozen=True)
class Dataset:
    """Images with labels; `splits` and `labelled` hold places in them.

    An image's place in `images`, which holds those that some split uses, is its name in every noise draw.
    """

    images: np.ndarray  # uint8 [N, C, H, W]
    labels: np.ndarray  # int64 [N]
    classes: tuple[str, ...]
    splits: dict[str, np.ndarray]  # "train", "validation", "test": int64 places, disjoint

    @cached_property
    def fingerprint(self) -> str:
        """Names the content: pixels, labels, class names and splits."""
        digest = hashlib.sha256(canonical([self.images.shape, self.classes]).encode())
        for array in (self.images, self.labels, *(self.splits[name] for name in SPLITS)):
            digest.update(np.ascontiguousarray(array).tobytes())
            digest.update(b"|")
        return digest.hexdigest()[:20]

    def labelled(self, per_class: int | None) -> np.ndarray:
        """Returns the first `per_class` training images of each class, or all where it is None.

        Raises `UserError` if a class has fewer, or if there is but one class.
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
                    "training images; give at most so many, or null for all"
                )
            chosen.append(of_class[:per_class])
        return np.concatenate(chosen)

    def thinned(self, per_class: int | None, images: int) -> "Dataset":
        """Returns the same with `images` of the labelled and validation images in its splits, none to test on.

        They are evenly spread over each, half and half where there are so many.
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
        """Returns places of the images that probes look at: labelled, then validation, then test."""
        return np.concatenate([self.labelled(per_class), self.splits["validation"], self.splits["test"]])


def load(config: DataConfig, seed: int) -> Dataset:
    """Reads the images and splits them; raises `UserError` for what cannot be read or is too small."""
    source = kept(SOURCES.load(config.name)(config), config.classes)
    records = list(source.records)
    if not records:
        raise UserError(f"data set {config.name!r} at {config.path!r} holds no images")
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
    )


def kept(source: Source, classes: Sequence[str] | None) -> Source:
    """Returns the part of a source that has the named classes, or all of it; raises `UserError` for unknown ones."""
    if classes is None:
        return source
    for name in classes:
        if name not in source.classes:
            raise UserError(f"data.classes: no class {name!r}; {did_you_mean(name, list(source.classes))}")
        if classes.count(name) > 1:
            raise UserError(f"data.classes: {name!r} is given twice")
    number = {source.classes.index(name): place for place, name in enumerate(classes)}
    chosen = (one._replace(label=number[one.label]) for one in source.records if one.label in number)
    return Source(chosen, classes)


def split(records: Sequence[Record], config: DataConfig, seed: int) -> dict[str, np.ndarray]:
    """Returns places for "train", "validation" and "test", in an order drawn from the seed.

    Splits that the source has are kept; a missing one is drawn from the training images.
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
                f"data set {config.name!r}: no image is left for {name}; it has {total} images, "
                f"data.validation = {config.validation} and data.test = {config.test}"
            )
    return found


class Images(NamedTuple):
    """A data set of an experiment: as it is configured, read, and where workers find it."""

    config: DataConfig
    dataset: "Dataset"
    stage: Stage

    @classmethod
    def read(cls, config: DataConfig, seed: int) -> Self:
        """Reads a data set; raises `UserError` for what cannot be read."""
        dataset = load(config, seed)
        return cls(config, dataset, dataset_stage(config, seed, dataset.fingerprint))


def further(first: Images, others: Sequence[DataConfig], seed: int, where: str) -> list[Images]:
    """Reads the data sets that stand beside an experiment's own. Raises `UserError` for two of one title."""
    found = [Images.read(other, seed) for other in others]
    refuse_duplicates(
        [one.config.display_name for one in (first, *found)], where, "; give each data set a label"
    )
    return found


def dataset_stage(config: DataConfig, seed: int, fingerprint: str) -> Stage:
    """Returns the stage that puts the data set where workers find it. Made where the images can be read."""
    return Stage(
        kind="dataset",
        code=DATASET,
        config={"fingerprint": fingerprint},
        options={"data": config.model_dump(mode="json"), "seed": seed},
        local=True,
    )


def make(stage: Stage, folder: Path, context: Context) -> None:
    """Writes images, labels and splits; raises `UserError` if the source changed since the plan."""
    dataset = load(parse(DataConfig, stage.options["data"], "data"), stage.options["seed"])
    if dataset.fingerprint != stage.config["fingerprint"]:
        raise UserError("the images changed while the sweep was being planned; run the command again")
    arrays = {"images": dataset.images, "labels": dataset.labels, **dataset.splits}
    save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "images.safetensors"
    )
    (folder / "classes.json").write_text(json.dumps(dataset.classes), encoding="utf-8")


def open_dataset(stage: Stage, context: Context) -> Dataset:
    """Reads the artifact of a data-set stage; the last one is kept, for the next trial or shard of a process."""
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
    """Returns bytes of a safetensors file as they lie on disk: a worker holds the images it looks at, not all."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(length))[name]
    return np.memmap(path, np.uint8, "r", 8 + length + about["data_offsets"][0], tuple(about["shape"]))
