"""Colours, tiles and photos that pictures are made of."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from permafrost.pipeline.looking.colours import colour, lay_over, spread_map
from permafrost.pipeline.looking.page import fit_size, measure, shorten
from permafrost.pipeline.looking.photos import Photos, show_photo
from permafrost.pipeline.options import FeatureOptions

PHOTO = load_sample_image("china.jpg")


def encode(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def find_lightness(colours: np.ndarray) -> np.ndarray:
    """Return CIE L* of sRGB colours."""
    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def test_the_ramp_gets_lighter_in_even_steps() -> None:
    steps = np.diff(find_lightness(colour(np.linspace(0, 1, 21)).astype(float)))
    assert steps.min() > 0
    assert steps.max() < 3 * np.median(steps)
    assert colour(np.array([-1.0, 2.0])).tolist() == colour(np.array([0.0, 1.0])).tolist()


def test_where_nothing_speaks_for_a_class_the_photo_stays_grey() -> None:
    photo = Image.fromarray(PHOTO).resize((64, 40))
    strength = np.zeros((40, 64))
    strength[:, 32:] = 1
    drawn = np.asarray(lay_over(photo, strength - 0.5 * (strength == 0)))
    grey = np.asarray(photo.convert("L"))
    np.testing.assert_array_equal(drawn[:, :32], np.repeat(grey[:, :32, None], 3, axis=2))
    assert np.ptp(drawn[:, 32:].astype(int), axis=2).min() > 20


def test_a_spread_map_keeps_its_places_and_its_mean() -> None:
    values = np.zeros((7, 5))
    values[2, 4] = 1.0
    spread = spread_map(values, (50, 70))
    assert spread.shape == (70, 50)
    y, x = np.unravel_index(spread.argmax(), spread.shape)
    assert (y // 10, x // 10) == (2, 4)
    assert spread.mean() == pytest.approx(values.mean(), rel=0.05)


def test_what_is_shown_is_what_the_network_saw() -> None:
    data = encode(PHOTO)
    options = {"backbone": "none", "layers": ("pixels",)}
    whole = show_photo(data, FeatureOptions(**options), size=(32, 32), side=160)
    assert whole.size == (160, 107)
    flipped = show_photo(data, FeatureOptions(**options, view="hflip"), size=(32, 32), side=160)
    np.testing.assert_array_equal(np.asarray(flipped), np.asarray(whole)[:, ::-1])
    cut = show_photo(data, FeatureOptions(**options, resize_mode="crop"), size=(32, 32), side=160)
    assert cut.size == (160, 160)
    middle = np.asarray(Image.fromarray(PHOTO[:, 106:533]).resize((160, 160)), float)
    assert np.abs(np.asarray(cut, float) - middle).mean() < 3
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(PHOTO, exif=exif.tobytes())
    for orient, size in (("ignore", (160, 107)), ("exif", (107, 160))):
        shown = show_photo(
            turned, FeatureOptions(**options, orient=orient), size=(32, 32), side=160
        )
        assert shown.size == size


def test_a_neighbour_that_cannot_be_had_is_a_grey_tile(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(encode(PHOTO))
    (tmp_path / "b.png").write_text("no image")
    there = Photos([str(tmp_path)])
    assert np.ptp(np.asarray(there.cut("a.png", 20))) > 100
    for root, path in ((tmp_path, "b.png"), (tmp_path, "c.png"), ("gone", "a")):
        assert np.ptp(np.asarray(Photos([str(root)]).cut(path, 20))) < 10
    assert Photos().open("a.png", 20) is None


def test_lines_are_cut_in_their_middle() -> None:
    path = "a-folder-with-a-long-name/and-a-file-with-another.jpg"
    cut = shorten(path, 160)
    assert measure(cut) <= 160
    assert cut.startswith("a-folder") and cut.endswith(".jpg")
    assert shorten("short", 160) == "short"
    assert fit_size((640, 427), 160) == (160, 107)
