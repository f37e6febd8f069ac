"""How images become pixels: grey levels, colours, transparency, orientation, and what is refused."""

import io

import numpy as np
import pytest
from images import encoded, pixels, png
from PIL import Image

from harness.core.errors import UserError
from harness.data.config import DataConfig
from harness.data.decoding import FORMATS
from harness.data.source import Record
from harness.testing.datasets import decoded as of_records


def decoded(*images, **settings):
    """Returns the pixels of encoded images, as those of a data set."""
    return of_records(
        [Record(image, 0, None, f"image {n}") for n, image in enumerate(images)], DataConfig(**settings)
    )


def test_images_are_in_colour_if_any_is_unless_grey_is_asked_for():
    grey, colour = png(0, channels=1), png(1)
    assert decoded(grey, grey).shape == (2, 1, 6, 6)
    assert decoded(grey, colour, channels=1).shape == (2, 1, 6, 6)
    assert decoded(grey, colour).shape == (2, 3, 6, 6)
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
        of_records([record], DataConfig())
    assert started == []


@pytest.mark.parametrize("kind", FORMATS)
def test_the_formats_of_cameras_and_data_sets_are_opened(kind):
    record = Record(encoded(Image.new("RGB", (16, 16), (200, 100, 50)), kind), 0, None, "cats/good")
    assert of_records([record], DataConfig()).shape == (1, 3, 16, 16)


def test_an_image_that_would_fill_the_memory_is_refused(monkeypatch):
    assert Image.MAX_IMAGE_PIXELS < 10**8
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**4)
    bomb = encoded(Image.new("1", (200, 200)))
    with pytest.raises(UserError, match=r"bomb\.png: the image cannot be read: .*exceeds limit"):
        of_records([Record(bomb, 0, None, "bomb.png")], DataConfig())


def test_whatever_a_decoder_raises_is_one_line(monkeypatch):
    def fail(*arguments, **options):
        raise IndexError("index out of range")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(UserError, match=r"^odd\.png: the image cannot be read: index out of range$"):
        of_records([Record(png(0), 0, None, "odd.png")], DataConfig())


def test_images_of_several_sizes_need_a_size():
    with pytest.raises(UserError, match=r"image 1: 5x7 pixels where the first image has 6x6; set data\.size"):
        decoded(png(0), png(1, (5, 7)))


def test_images_that_are_not_square_need_a_size():
    with pytest.raises(UserError, match=r"images are 5x7 pixels; set data\.size"):
        decoded(png(0, (5, 7)))
