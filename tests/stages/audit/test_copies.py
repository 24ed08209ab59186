"""Copies, near-copies and outliers among patches of real photos."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from permafrost.stages.audit.copies import (
    ALIKE,
    compare_thumbnails,
    find_duplicates,
    find_near_pairs,
    score_outliers,
)
from permafrost.stages.audit.pictures import NAMES, THUMBNAIL, measure_picture
from permafrost.stages.evaluation.neighbours import find_nearest
from permafrost.stages.matrices.matrix import ArrayMatrix
from tests.helpers.pictures import encode
from tests.helpers.views import number_digests


def cut_patches(n=40):
    """Return patches of both photographs that do not overlap."""
    photos = [Image.fromarray(one) for one in load_sample_images().images]
    corners = [(x, y) for y in range(0, 400, 80) for x in range(0, 600, 120)]
    return [photo.crop((x, y, x + 120, y + 80)) for photo in photos for x, y in corners][:n]


def shrink(image: Image.Image) -> np.ndarray:
    """Return the thumbnail of a picture."""
    return measure_picture(encode(image, "PNG"))[4 * len(NAMES) :].reshape(THUMBNAIL, THUMBNAIL)


def recompress(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(encode(image, "JPEG", quality=30)))


CHANGES = {
    "resized": lambda image: image.resize((72, 48), Image.Resampling.LANCZOS),
    "recompressed": recompress,
    "cropped": lambda image: image.crop((3, 2, 117, 78)),
    "cropped on one side": lambda image: image.crop((6, 0, 120, 76)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_copies_that_were_changed_are_alike_and_other_patches_are_not(change):
    patches = cut_patches()
    plain = np.stack([shrink(one) for one in patches])
    changed = np.stack([shrink(change(one)) for one in patches])
    assert (compare_thumbnails(plain, changed) >= ALIKE).mean() > 0.95
    others = compare_thumbnails(plain, np.roll(plain, 1, axis=0))
    assert (others < ALIKE).mean() > 0.95


def test_pictures_of_one_level_are_not_known_to_be_one():
    flat = np.full((2, THUMBNAIL, THUMBNAIL), 7, np.uint8)
    assert compare_thumbnails(flat, flat).tolist() == [0, 0]


def find_pairs(values, compare, numbers=None):
    rows = np.arange(len(values))
    nearest = find_nearest(ArrayMatrix(values), rows, n_best=5, memory_bytes=2**28, is_centred=True)
    digests = number_digests(rows if numbers is None else numbers)
    return find_near_pairs(nearest, digests, compare)


def test_rows_that_are_nearly_one_are_found_once_if_their_pixels_agree():
    values = load_digits().data[:300].astype(np.float32)
    values[:10] = values[290:] + np.random.default_rng(0).normal(size=(10, 64)) * 0.5

    def agree(rows, others):
        return np.where(rows == 3, 0.5, 0.99)

    pairs = {(one.other, one.row) for one in find_pairs(values, agree)}
    assert {(n, n + 290) for n in range(10) if n != 3} <= pairs
    assert (3, 293) not in pairs
    assert len(pairs) < 30
    unknown = find_pairs(values, lambda rows, _: np.full(len(rows), np.nan))
    assert {(n, n + 290) for n in range(10)} <= {(one.other, one.row) for one in unknown}


def test_equal_digests_are_no_near_duplicates():
    values = load_digits().data[:100].astype(np.float32)
    values[:10] = values[90:]
    numbers = np.arange(100)
    numbers[:10] = numbers[90:]
    pairs = find_pairs(values, lambda rows, _: np.ones(len(rows)), numbers)
    assert not {(n, n + 90) for n in range(10)} & {(one.other, one.row) for one in pairs}
    assert sorted(find_duplicates(number_digests(numbers)))[:2] == [(0, 90), (1, 91)]


def test_a_negative_among_digits_is_an_outlier():
    values = load_digits().data[:300].astype(np.float32)
    values[5] = 16 - values[5]
    nearest = find_nearest(
        ArrayMatrix(values), np.arange(300), n_best=10, memory_bytes=2**28, is_centred=True
    )
    scores = score_outliers(nearest)
    assert scores.argmax() == 5
    assert (scores > 0).sum() < 15
