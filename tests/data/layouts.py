"""Data sets as people have them, made of small pictures: each builder writes one below a folder."""

import json
import pickle
import tarfile
from io import BytesIO

import datasets
import numpy as np
from images import parquet, png, tree


def folders(root, counts, kinds="ab"):
    """Writes SPLIT/CLASS/IMAGE, `counts` images of each class by split; returns the root."""
    names = [
        f"{split}/{kind}/{n}.png" for split, count in counts.items() for kind in kinds for n in range(count)
    ]
    tree(root, names)
    return root


def classes(root, counts):
    """Writes CLASS/IMAGE; returns the root."""
    tree(root, [f"{kind}/{n}.png" for kind, count in counts.items() for n in range(count)])
    return root


def tables(root, counts, start=0, **columns):
    """Writes Parquet files with `counts` images by name, of classes 0 and 1 in turn; returns the root."""
    for name, count in counts.items():
        numbers = range(start, start + count)
        start += count
        parquet(root / f"{name}.parquet", [png(n) for n in numbers], [n % 2 for n in numbers], **columns)
    return root


def columns_of(count, start=0, names=("cat", "dog")):
    """Returns a data set of the library `datasets` with images and named classes."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    numbers = range(start, start + count)
    content = [{"bytes": png(n), "path": None} for n in numbers]
    return datasets.Dataset.from_dict({"image": content, "label": [n % 2 for n in numbers]}, features)


def saved(root, counts=None, count=20):
    """Writes what `save_to_disk` writes of a Dataset, or of a DatasetDict with `counts` images by split."""
    if counts is None:
        columns_of(count).save_to_disk(root)
    else:
        splits = {name: columns_of(size, 100 * place) for place, (name, size) in enumerate(counts.items())}
        datasets.DatasetDict(splits).save_to_disk(root)
    return root


def shards(root, counts, label="cls", start=0):
    """Writes WebDataset tar files with `counts` images by name; labels are `.cls` files, or in `.json` files."""
    root.mkdir(parents=True, exist_ok=True)
    for name, count in counts.items():
        with tarfile.open(root / f"{name}.tar", "w") as archive:
            for n in range(start, start + count):
                said = str(n % 2) if label == "cls" else json.dumps({"label": n % 2})
                _add(archive, f"{n:04d}.png", png(n))
                _add(archive, f"{n:04d}.{label}", said.encode())
        start += count
    return root


def _add(archive, name, content):
    about = tarfile.TarInfo(name)
    about.size = len(content)
    archive.addfile(about, BytesIO(content))


def listed(root, counts, name="list.csv", separator=",", split=None):
    """Writes images and a file that lists them with their class names, and their splits in a column `split`."""
    lines = [separator.join(["file_name", "label", *([split] if split else [])])]
    for place, (word, count) in enumerate(counts.items()):
        numbers = range(100 * place, 100 * place + count)
        tree(root, [f"images/{word}-{n}.png" for n in numbers])
        for n in numbers:
            (root / f"images/{word}-{n}.png").write_bytes(png(n))
            values = [f"images/{word}-{n}.png", ("cat", "dog")[n % 2], *([word] if split else [])]
            lines.append(separator.join(values))
    (root / name).write_text("\n".join(lines) + "\n")
    return root


def lines(root, count=20, name="list.jsonl"):
    """Writes images and a JSON Lines file that lists them."""
    tree(root, [f"{n}.png" for n in range(count)])
    rows = [json.dumps({"file_name": f"{n}.png", "label": ("cat", "dog")[n % 2]}) for n in range(count)]
    (root / name).write_text("\n".join(rows) + "\n")
    return root


def arrays(path, counts, images="x_{}", labels="y_{}", channels=None, scale=None, column=False):
    """Writes an .npz file with arrays of `counts` images by split, uint8 or floats up to `scale`."""
    found = {}
    for place, (split, count) in enumerate(counts.items()):
        shape = (count, 6, 6) if channels is None else (count, 6, 6, channels)
        levels = np.random.default_rng(place).integers(0, 256, shape, np.uint8)
        found[images.format(split)] = levels if scale is None else (levels / 255 * scale).astype(np.float32)
        found[labels.format(split)] = np.arange(count).reshape((-1, 1) if column else -1) % 2
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found)
    return path


def _batch(file, count, seed, **labels):
    data = np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)
    file.write_bytes(pickle.dumps({b"data": data, **{name.encode(): one for name, one in labels.items()}}, 2))


def cifar10(root, each=4):
    """Writes CIFAR-10 for Python, with `each` images in each of its six files."""
    root.mkdir(parents=True, exist_ok=True)
    for number in range(1, 6):
        _batch(root / f"data_batch_{number}", each, number, labels=[n % 2 for n in range(each)])
    _batch(root / "test_batch", each, 0, labels=[n % 2 for n in range(each)])
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"airplane", b"automobile"]}, 2))
    return root


def cifar100(root, train=20, test=6):
    """Writes CIFAR-100 for Python: three fine classes in two coarse ones."""
    root.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("test", test)):
        fine = [n % 3 for n in range(count)]
        coarse = [int(n == 2) for n in fine]
        _batch(root / name, count, count, fine_labels=fine, coarse_labels=coarse)
    names = {b"fine_label_names": [b"apple", b"pear", b"whale"], b"coarse_label_names": [b"fruit", b"mammal"]}
    (root / "meta").write_bytes(pickle.dumps(names, 2))
    return root
