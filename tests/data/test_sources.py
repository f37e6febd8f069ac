"""Where images come from: Parquet in the Hub's layout, a folder, the Hub; and how they become one array."""

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from images import encoded, parquet, pixels, png
from PIL import Image

from harness.core.errors import UserError
from harness.data.config import SOURCES, DataConfig
from harness.data.dataset import load
from harness.data.source import FORMATS, Record, decode
from harness.testing.datasets import DataSetContract


def config(place=None, **settings):
    return DataConfig(**{"name": "parquet", "path": str(place), **settings})


def records(place, **settings):
    return list(SOURCES.load(settings.get("name", "parquet"))(config(place, **settings)).records)


def refused(words, place, **settings):
    with pytest.raises(UserError) as caught:
        load(config(place, **settings), 0)
    assert words in str(caught.value)


@pytest.fixture
def hub_layout(tmp_path):
    """Train in two shards, test in one, in the Hub's layout, with class names."""
    for shard in range(2):
        numbers = range(10 * shard, 10 * shard + 10)
        path = tmp_path / "data" / f"train-0000{shard}-of-00002.parquet"
        parquet(
            path,
            [png(number) for number in numbers],
            [number % 2 for number in numbers],
            names=["cat", "dog"],
        )
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [png(n) for n in range(20, 25)], [0] * 5)
    return tmp_path


def test_the_hubs_layout_is_read_with_its_splits_and_class_names(hub_layout):
    dataset = load(config(hub_layout), 0)
    assert dataset.classes == ("cat", "dog")
    assert {name: len(places) for name, places in dataset.splits.items()} == {
        "train": 15,
        "validation": 5,
        "test": 5,
    }
    assert dataset.images.shape == (25, 3, 6, 6)


def test_pixels_and_labels_arrive_unchanged_and_together(hub_layout):
    dataset = load(config(hub_layout), 0)
    by_pixels = {
        image.tobytes(): int(label) for image, label in zip(dataset.images, dataset.labels, strict=True)
    }
    for number in range(25):
        expected = number % 2 if number < 20 else 0
        assert by_pixels[pixels(number).transpose(2, 0, 1).tobytes()] == expected
    held_out = {dataset.images[place].tobytes() for place in dataset.splits["test"]}
    assert held_out == {pixels(number).transpose(2, 0, 1).tobytes() for number in range(20, 25)}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("train-00000-of-00001", "train"),
        ("validation", "validation"),
        ("val-0", "validation"),
        ("dev", "validation"),
        ("test-00000", "test"),
        ("0000", None),
    ],
)
def test_a_files_name_tells_its_split(tmp_path, name, split):
    parquet(tmp_path / f"{name}.parquet", [png(0)], [0])
    assert records(tmp_path)[0].split == split


def test_a_single_file_is_split_here(tmp_path):
    path = parquet(tmp_path / "all.parquet", [png(number) for number in range(10)], [0, 1] * 5)
    dataset = load(config(path), 0)
    assert {name: len(places) for name, places in dataset.splits.items()} == {
        "train": 5,
        "validation": 2,
        "test": 3,
    }
    assert dataset.classes == ("0", "1")


def test_images_may_be_plain_bytes_and_columns_have_other_names(tmp_path):
    pq.write_table(pa.table({"picture": [png(0), png(1)], "fine_label": [0, 2]}), tmp_path / "train.parquet")
    found = records(tmp_path)
    assert [record.label for record in found] == [0, 2]
    np.testing.assert_array_equal(decode(found, DataConfig())[1], pixels(1).transpose(2, 0, 1))


def test_asked_for_columns_are_taken(tmp_path):
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pictures = [pa.array([{"bytes": png(number), "path": None}], struct) for number in range(2)]
    table = pa.table({"first": pictures[0], "second": pictures[1], "label": [0], "coarse": [7]})
    pq.write_table(table, tmp_path / "train.parquet")
    (found,) = records(tmp_path, image_column="second", label_column="coarse")
    assert (found.image, found.label) == (png(1), 7)


def test_columns_that_are_not_there_are_answered_with_the_nearest(tmp_path):
    parquet(tmp_path / "train.parquet", [png(0)], [0])
    refused("no column 'imag'; did you mean 'image'? known: image, label", tmp_path, image_column="imag")
    refused("no column 'lable'; did you mean 'label'?", tmp_path, label_column="lable")


def test_columns_that_cannot_be_found_are_asked_for(tmp_path):
    pq.write_table(pa.table({"picture": [png(0)], "kind": [0]}), tmp_path / "train.parquet")
    refused("no label column found; set data.label_column", tmp_path)
    pq.write_table(pa.table({"text": ["x"], "label": [0]}), tmp_path / "train.parquet")
    refused("no image column found; set data.image_column", tmp_path)


def test_columns_of_the_wrong_kind_are_refused(tmp_path):
    pq.write_table(pa.table({"image": [png(0)], "label": ["cat"]}), tmp_path / "train.parquet")
    refused("column 'label' holds string, not class numbers", tmp_path)
    refused("column 'label' holds string, not images", tmp_path, image_column="label", label_column="image")


def test_a_file_that_lacks_the_others_columns_is_named(tmp_path):
    parquet(tmp_path / "test.parquet", [png(0)], [0])
    parquet(tmp_path / "train.parquet", [png(0)], [0], label="labels")
    refused("train.parquet: no column 'label'; did you mean 'labels'?", tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        ([png(0), b"no image"], [0, 0], "train.parquet, row 1: the image cannot be read"),
        ([png(0), png(1)[:60]], [0, 0], "train.parquet, row 1: the image cannot be read"),
        ([png(0), b""], [0, 0], "train.parquet, row 1: the image cannot be read"),
        ([png(0), None], [0, 0], "train.parquet, row 1: the image cannot be read: it is null"),
        ([png(0), {"bytes": None, "path": "x.png"}], [0, 0], "row 1: the image cannot be read: it is null"),
        ([png(0), png(1)], [0, 2], "train.parquet, row 1: label 2 is not between 0 and 1"),
        ([png(0), png(1)], [0, -1], "train.parquet, row 1: label -1 is not between 0 and 1"),
        ([png(0), png(1)], [0, None], "train.parquet, row 1: label None is not between 0 and 1"),
        ([], [], "contains no images"),
    ],
)
def test_a_bad_row_is_refused_with_its_file_and_number(tmp_path, images, labels, words):
    more = [png(number) for number in range(2, 12)] if images else []
    parquet(tmp_path / "train.parquet", [*images, *more], [*labels, *([0] * len(more))], names=["cat", "dog"])
    refused(words, tmp_path)


def test_a_missing_label_is_refused_where_classes_have_no_names(tmp_path):
    parquet(tmp_path / "train.parquet", [png(0), png(1)], [1, None])
    refused("row 1: label None", tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1 no more"])
def test_a_file_that_is_no_parquet_is_named(tmp_path, content):
    (tmp_path / "train.parquet").write_bytes(content)
    refused("train.parquet: not a readable Parquet file", tmp_path)


def tree(root, places):
    for number, place in enumerate(places):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(png(number))


def test_a_folder_of_classes_is_split_here(tmp_path):
    tree(tmp_path, [f"{name}/{number}.png" for name in ("dog", "cat") for number in range(10)])
    dataset = load(config(tmp_path, name="folder"), 0)
    assert dataset.classes == ("cat", "dog")
    assert {name: len(places) for name, places in dataset.splits.items()} == {
        "train": 10,
        "validation": 4,
        "test": 6,
    }
    by_pixels = {
        image.tobytes(): int(label) for image, label in zip(dataset.images, dataset.labels, strict=True)
    }
    assert by_pixels[pixels(0).transpose(2, 0, 1).tobytes()] == 1
    assert by_pixels[pixels(10).transpose(2, 0, 1).tobytes()] == 0


def test_a_folder_of_splits_keeps_them(tmp_path):
    places = [f"{split}/{name}/x.png" for split in ("train", "VAL", "test") for name in ("cat", "dog")]
    tree(tmp_path, places)
    dataset = load(config(tmp_path, name="folder"), 0)
    assert {name: len(places) for name, places in dataset.splits.items()} == {
        "train": 2,
        "validation": 2,
        "test": 2,
    }
    assert set(dataset.labels[dataset.splits["test"]]) == {0, 1}


def test_files_that_are_no_images_by_name_and_hidden_folders_are_passed_over(tmp_path):
    tree(tmp_path, [f"cat/{number}.png" for number in range(10)])
    (tmp_path / "cat" / "notes.txt").write_text("x")
    tree(tmp_path, [".hidden/x.png"])
    assert len(load(config(tmp_path, name="folder"), 0).images) == 10


def test_an_unreadable_image_of_a_folder_is_named(tmp_path):
    tree(tmp_path, [f"cat/{number}.png" for number in range(10)])
    (tmp_path / "cat" / "bad.png").write_bytes(b"x")
    refused("cat/bad.png: the image cannot be read", tmp_path, name="folder")


def test_a_folder_without_folders_is_refused(tmp_path):
    tree(tmp_path, ["x.png"])
    refused("expected one folder of images per class", tmp_path, name="folder")


def test_a_folder_whose_folders_are_empty_holds_no_images(tmp_path):
    (tmp_path / "cat").mkdir()
    refused("contains no images", tmp_path, name="folder")


def written(tmp_path, name):
    """Returns the configuration of twenty images of two classes, as the data set `name` reads them."""
    if name == "digits":
        return DataConfig()
    if name == "folder":
        tree(tmp_path, [f"{kind}/{number}.png" for kind in ("dog", "cat") for number in range(10)])
        return config(tmp_path, name=name)
    if name == "parquet":
        parquet(tmp_path / "train.parquet", [png(n) for n in range(12)], [0, 1] * 6, names=["cat", "dog"])
        parquet(tmp_path / "test.parquet", [png(n) for n in range(20, 28)], [0, 1] * 4)
        return config(tmp_path)
    raise AssertionError(f"add data set {name!r} to `written`, or a class like `TestHub`")


class TestDataSets(DataSetContract):
    """Every registered data set that needs no network."""

    @pytest.fixture(params=[name for name in SOURCES.names() if name != "hub"])
    def config(self, request, tmp_path):
        return written(tmp_path, request.param)

    def change(self, config):
        if config.name == "digits":
            super().change(config)
        elif config.name == "folder":
            (Path(config.path) / "cat" / "3.png").write_bytes(png(99))
        else:
            parquet(Path(config.path) / "test.parquet", [png(n) for n in range(21, 29)], [0, 1] * 4)


class TestFolderOfSplits(DataSetContract):
    """A folder whose first level is the splits."""

    @pytest.fixture
    def config(self, tmp_path):
        sizes = {"train": 6, "VAL": 2, "test": 3}
        places = [
            f"{split}/{kind}/{n}.png"
            for split in sizes
            for kind in ("cat", "dog")
            for n in range(sizes[split])
        ]
        tree(tmp_path, places)
        return config(tmp_path, name="folder")

    def change(self, config):
        (Path(config.path) / "test" / "cat" / "0.png").write_bytes(png(99))


def decoded(*images, **settings):
    return decode(
        [Record(image, 0, None, f"image {n}") for n, image in enumerate(images)], DataConfig(**settings)
    )


def test_channels_are_as_the_first_image_has_them_unless_asked_for():
    grey, colour = png(0, channels=1), png(1)
    assert decoded(grey, colour).shape == (2, 1, 6, 6)
    assert decoded(colour, grey).shape == (2, 3, 6, 6)
    assert decoded(grey, colour, channels=3).shape == (2, 3, 6, 6)
    np.testing.assert_array_equal(decoded(grey, channels=3)[0], np.stack([pixels(0, channels=1)] * 3))


def test_grey_is_made_of_colour_by_the_usual_weights():
    expected = pixels(1) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(decoded(png(1), channels=1)[0, 0], expected, atol=1)


def levels(low, high, kind):
    return encoded(Image.fromarray(np.linspace(low, high, 36).astype(kind).reshape(6, 6)), "TIFF")


@pytest.mark.parametrize(
    ("kind", "high", "white"),
    [
        (np.float32, 1.0, 1.0),
        (np.float32, 0.5, 1.0),
        (np.float32, 200.0, 255.0),
        (np.int32, 200, 255.0),
        (np.int32, 1, 255.0),
        (np.int32, 40_000, 65_535.0),
        (np.uint16, 4095, 4095.0),
        (np.uint16, 3000, 4095.0),
        (np.uint16, 65_535, 65_535.0),
    ],
)
def test_deep_grey_levels_keep_their_contrast(kind, high, white):
    found = decoded(levels(0, high, kind))
    np.testing.assert_allclose(found[0, 0].ravel(), np.linspace(0, high, 36) * 255 / white, atol=1)


def test_all_deep_images_of_a_data_set_are_scaled_alike():
    dark, bright = levels(0, 2000, np.uint16), levels(0, 65_535, np.uint16)
    assert decoded(dark).max() == round(2000 * 255 / 4095)
    assert decoded(dark, bright)[0].max() == round(2000 * 255 / 65_535)
    assert decoded(bright, dark)[1].max() == round(2000 * 255 / 65_535)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1e6), (0.0, np.nan), (0.0, np.inf)])
def test_levels_that_no_rule_covers_are_refused(low, high):
    picture = np.full((6, 6), low, np.float32)
    picture[0, 0] = high
    with pytest.raises(UserError, match=r"image 0: grey levels from .* expected 0 to 1, 255, 4095 or 65535"):
        decoded(encoded(Image.fromarray(picture), "TIFF"))


def test_a_photograph_stands_upright():
    picture = Image.fromarray(pixels(0, (8, 8)))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(
        decoded(file.getvalue())[0], np.rot90(pixels(0, (8, 8)), -1).transpose(2, 0, 1)
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode):
    black = Image.new("RGBA", (6, 6), (0, 0, 0, 0))
    black.paste((0, 0, 0, 255), (0, 0, 3, 6))
    image = black.convert(mode) if mode != "P" else black.quantize(4)
    found = decoded(encoded(image))
    assert (found[..., :3] == 0).all()
    assert (found[..., 3:] == 255).all()


def test_all_unreadable_images_are_named_at_once(tmp_path):
    tree(tmp_path, [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(10)])
    for place in ("cat/3.png", "cat/7.png", "dog/0.png"):
        (tmp_path / place).write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        load(config(tmp_path, name="folder"), 0)
    assert str(caught.value).count("the image cannot be read") == 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_images_of_every_common_mode_are_read(mode):
    image = Image.fromarray(np.full((6, 6, 3), 255, np.uint8)).convert(mode)
    found = decoded(encoded(image, "TIFF"))
    np.testing.assert_array_equal(found, np.full((1, 1 if mode in ("1", "L", "LA") else 3, 6, 6), 255))


def test_a_size_shrinks_the_shorter_side_and_cuts_the_centre():
    bands = np.zeros((8, 24), np.uint8)
    bands[:, 8:16] = 200
    np.testing.assert_array_equal(
        decoded(encoded(Image.fromarray(bands)), size=8)[0, 0], np.full((8, 8), 200)
    )
    np.testing.assert_array_equal(
        decoded(encoded(Image.fromarray(bands.T)), size=8)[0, 0], np.full((8, 8), 200)
    )
    assert decoded(png(0, (50, 31)), png(1, (7, 90)), size=16).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("kind", ["EPS", "PCX", "ICO", "TGA", "PDF"])
def test_programs_documents_and_rare_formats_are_not_opened_whatever_they_are_called(kind, monkeypatch):
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: started.append(kind))
    record = Record(encoded(Image.new("RGB", (16, 16)), kind), 0, None, "cats/bad.png")
    with pytest.raises(
        UserError, match=r"cats/bad\.png: the image cannot be read: not one of AVIF, BMP, GIF, JPEG"
    ):
        decode([record], DataConfig())
    assert started == []


@pytest.mark.parametrize("kind", FORMATS)
def test_the_formats_of_cameras_and_data_sets_are_opened(kind):
    record = Record(encoded(Image.new("RGB", (16, 16), (200, 100, 50)), kind), 0, None, "cats/good")
    assert decode([record], DataConfig()).shape == (1, 3, 16, 16)


def test_an_image_that_would_fill_the_memory_is_refused(monkeypatch):
    assert Image.MAX_IMAGE_PIXELS < 10**8
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**4)
    bomb = encoded(Image.new("1", (200, 200)))
    with pytest.raises(UserError, match=r"bomb\.png: the image cannot be read: .*exceeds limit"):
        decode([Record(bomb, 0, None, "bomb.png")], DataConfig())


def test_whatever_a_decoder_raises_is_one_line(monkeypatch):
    def fail(*arguments, **options):
        raise IndexError("index out of range")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(UserError, match=r"^odd\.png: the image cannot be read: index out of range$"):
        decode([Record(png(0), 0, None, "odd.png")], DataConfig())


def test_images_of_several_sizes_need_a_size():
    with pytest.raises(UserError, match=r"image 1: 5x7 pixels where the first image has 6x6; set data\.size"):
        decoded(png(0), png(1, (5, 7)))


def test_images_that_are_not_square_need_a_size():
    with pytest.raises(UserError, match=r"images are 5x7 pixels; set data\.size"):
        decoded(png(0, (5, 7)))


def row(number, label, **changed):
    return {"img": {"bytes": png(number), "path": None}, "label": label, **changed}


def hub_config(**settings):
    return DataConfig(**{"name": "hub", "path": "someone/pets", **settings})


class TestHub(DataSetContract):
    """The Hub, with a module in place of its library."""

    @pytest.fixture
    def config(self, hub):
        self.splits = {
            "train": [row(number, number % 2) for number in range(14)],
            "test": [row(number, number % 2) for number in range(20, 26)],
        }
        hub(self.splits)
        return hub_config()

    def change(self, config):
        self.splits["test"][0] = row(99, 0)


def test_a_split_of_the_hub_whose_labels_are_withheld_is_left_out(hub):
    hub({"train": [row(number, number % 2) for number in range(20)], "test": [row(21, -1), row(22, -1)]})
    dataset = load(hub_config(), 0)
    assert sum(len(chosen) for chosen in dataset.splits.values()) == 20
    assert len(dataset.splits["test"])


def test_a_data_set_of_the_hub_is_read_at_its_revision(hub, tmp_path):
    (tmp_path / "x.png").write_bytes(png(9))
    kept = row(9, 1, img={"bytes": None, "path": str(tmp_path / "x.png")})
    asked = hub({"train": [row(number, number % 2) for number in range(9)], "test": [kept]})
    dataset = load(hub_config(revision="abc"), 0)
    assert asked == {"path": "someone/pets", "revision": "abc"}
    assert dataset.classes == ("cat", "dog")
    (test,) = dataset.splits["test"]
    np.testing.assert_array_equal(dataset.images[test], pixels(9).transpose(2, 0, 1))
    assert dataset.labels[test] == 1


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row(3, -1), "someone/pets, train, row 9: label -1 is not between 0 and 1"),
        (row(3, 5), "row 9: label 5 is not between 0 and 1"),
        (row(3, None), "row 9: label None is not between 0 and 1"),
        (row(3, 0, img=None), "row 9: the image cannot be read: it is null"),
        (row(3, 0, img={"bytes": None, "path": None}), "row 9: the image cannot be read: it is null"),
        (row(3, 0, img={"bytes": b"x", "path": None}), "row 9: the image cannot be read"),
        (row(3, 0, img={"bytes": None, "path": "/nowhere.png"}), "row 9: the image cannot be read"),
    ],
)
def test_a_bad_example_of_the_hub_is_refused_with_its_place(hub, bad, words):
    hub({"train": [*(row(number, number % 2) for number in range(9)), bad]})
    with pytest.raises(UserError) as caught:
        load(hub_config(), 0)
    assert words in str(caught.value)


def test_what_the_hub_does_not_have_is_one_line(hub):
    hub(FileNotFoundError("no such\ndata set"))
    with pytest.raises(
        UserError, match=r"data\.path someone/pets: cannot be loaded from the Hub: no such data set"
    ):
        load(hub_config(), 0)


def test_a_hub_that_cannot_be_reached_is_one_line_with_what_to_do(hub):
    hub(ConnectionError("Couldn't reach the Hugging Face Hub"))
    words = (
        r"data\.path someone/pets: not in the local cache, .*; go online once, or .*`hf download someone/pets"
    )
    with pytest.raises(UserError, match=words):
        load(hub_config(), 0)


def test_a_data_set_of_the_hub_without_labels_or_images_is_refused(hub):
    hub({"train": [row(0, 0)]}, names=None)
    with pytest.raises(UserError, match="column 'label' has no class names"):
        load(hub_config(), 0)
    hub({"train": [row(0, 0)]})
    with pytest.raises(UserError, match=r"set data\.image_column and data\.label_column; known: img, label"):
        load(hub_config(label_column="species"), 0)


def test_the_hub_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the extra hub: pip install 'harness\[hub\]'"):
        load(hub_config(), 0)


def test_the_hub_needs_an_id(hub):
    hub({})
    with pytest.raises(UserError, match=r"data\.path is missing"):
        load(hub_config(path=None), 0)
