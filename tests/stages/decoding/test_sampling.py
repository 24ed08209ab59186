"""Pixels as Keras' own Resizing makes them."""

from __future__ import annotations

import io

import keras
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.decoding.sampling import ANTIALIAS, INTERPOLATIONS, resample
from permafrost.stages.errors import ImageError
from tests.helpers.pictures import encode, photo

PHOTO = load_sample_images().images[0]


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Float32 sums in another order round another way where a level is a half."""
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 2e-3


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_pixels_are_those_of_keras_resizing(interpolation: str, *, antialias: bool) -> None:
    for pixels in (PHOTO, PHOTO[:60, :40]):
        for size in ((96, 128), (61, 31)):
            layer = keras.layers.Resizing(*size, interpolation=interpolation, antialias=antialias)
            found = resample(pixels, size, interpolation + ANTIALIAS * antialias)
            assert_same(found, np.asarray(layer(pixels)))


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("size", [(64, 64), (50, 31)])
def test_images_are_cropped_and_padded_as_keras_does(mode: str, size: tuple[int, int]) -> None:
    layer = keras.layers.Resizing(*size, **{f"{mode}_to_aspect_ratio": True})
    for width, height in ((97, 61), (60, 91)):
        image = photo(width, height)
        spec = DecodeSpec(height=size[0], width=size[1], resize="keras-bilinear", resize_mode=mode)
        found = decode_image(encode(image, "PNG"), spec).pixels
        # Padding, Keras' layer takes fractions alone.
        expected = np.round(np.asarray(layer(np.asarray(image, np.float32))))
        assert_same(found, np.clip(expected, 0, 255))


def test_grey_images_get_as_many_channels_as_asked_for() -> None:
    data = encode(photo().convert("L"), "PNG")
    rgb = DecodeSpec(height=9, width=9, resize="keras-bicubic")
    grey = DecodeSpec(height=9, width=9, resize="keras-bicubic", color="grayscale")
    pixels = decode_image(data, rgb).pixels
    assert pixels.shape == (9, 9, 3)
    np.testing.assert_array_equal(pixels[..., :1], decode_image(data, grey).pixels)


def test_a_line_is_not_padded_to_gigabytes() -> None:
    spec = DecodeSpec(height=8, width=8, resize="keras-bilinear", resize_mode="pad")
    file = io.BytesIO()
    photo(60_000, 1).save(file, "PNG")
    with pytest.raises(ImageError, match="60000x1 pixels are too long and narrow"):
        decode_image(file.getvalue(), spec)
