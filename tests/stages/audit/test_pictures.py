"""Odd pictures among patches of real photos."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images

from permafrost.stages.audit.pictures import (
    RECORD_BYTES,
    PictureFigures,
    judge_pictures,
    measure_picture,
)
from permafrost.stages.decoding.decode import decode_grey
from permafrost.stages.errors import ImageError
from tests.helpers.pictures import encode, exif, photo


def cut_patches():
    temple = Image.fromarray(load_sample_images().images[0])
    corners = [(x, y) for y in range(150, 270, 12) for x in range(0, 440, 40)]
    return [temple.crop((x, y, x + 200, y + 150)) for x, y in corners]


CHANGES = {
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(6)),
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.08),
    "bright": lambda image: Image.blend(image, Image.new("RGB", image.size, "white"), 0.93),
    "tiny": lambda image: image.resize((40, 30)),
    "odd_shape": lambda image: image.resize((600, 80)),
}


def judge(images):
    records = np.stack([measure_picture(encode(one, "PNG")) for one in images])
    known = np.ones(len(records), bool)
    return judge_pictures(PictureFigures(records=records, known=known))


@pytest.mark.parametrize("kind", CHANGES)
def test_what_was_changed_is_told_of_and_hardly_anything_else(kind):
    images = cut_patches()
    images[11] = CHANGES[kind](images[11])
    found = judge(images)
    assert max((one for one in found if one.kind == kind), key=lambda one: one.score).row == 11
    assert len([one for one in found if one.row != 11]) <= 3
    assert all(0.5 <= one.score <= 1 for one in found)


def test_a_dataset_that_is_dark_or_tiny_throughout_has_none_that_stand_out():
    dark = [ImageEnhance.Brightness(one).enhance(0.1).resize((20, 15)) for one in cut_patches()]
    assert not [one for one in judge(dark) if one.kind in ("tiny", "odd_shape")]
    assert len([one for one in judge(dark) if one.kind == "dark"]) <= 3


def test_pictures_that_were_not_seen_are_not_judged():
    records = np.zeros((5, RECORD_BYTES), np.uint8)
    assert judge_pictures(PictureFigures(records=records, known=np.zeros(5, bool))) == []


def test_a_picture_is_reduced_and_never_enlarged():
    size, grey = decode_grey(encode(photo(640, 427), "JPEG"), longest=256)
    assert (size, grey.shape) == ((640, 427), (171, 256))
    size, grey = decode_grey(encode(photo(40, 61), "PNG"), longest=256)
    assert (size, grey.shape) == ((40, 61), (61, 40))
    np.testing.assert_array_equal(grey, np.asarray(photo(40, 61).convert("L")))


@pytest.mark.parametrize("orient", ["ignore", "exif"])
def test_a_box_is_cut_out_of_the_picture_as_it_is_turned(orient):
    data = encode(photo(640, 427), "PNG", exif=exif(6))
    whole = Image.open(io.BytesIO(data))
    whole = ImageOps.exif_transpose(whole) if orient == "exif" else whole
    size, grey = decode_grey(data, longest=256, box=(20, 30, 120, 90), orient=orient)
    assert size == (120, 90)
    expected = whole.crop((20, 30, 140, 120)).convert("L")
    np.testing.assert_array_equal(grey, np.asarray(expected))
    with pytest.raises(ImageError, match="reaches out"):
        measure_picture(data, box=(600, 0, 120, 90))


def test_garbage_is_no_picture():
    with pytest.raises(ImageError):
        measure_picture(b"no picture")
