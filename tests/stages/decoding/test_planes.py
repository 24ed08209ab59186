"""Images of other numbers of channels than 1 and 3, against Pillow's resize of each channel."""

import io

import keras
import numpy as np
import pytest
from PIL import Image

from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.errors import ImageError
from tests.helpers.pictures import encode, photo, with_alpha

SIZE = 32


def make_planes(n_channels):
    return [np.asarray(photo(which=n % 2).convert("L")) // (n + 1) for n in range(n_channels)]


def save_array(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def save_pages(planes):
    first, *others = map(Image.fromarray, planes)
    return encode(first, "TIFF", save_all=True, append_images=others)


def decode(data, n_channels, **options):
    color = {1: "grayscale", 3: "rgb"}.get(n_channels, f"{n_channels} channels")
    return decode_image(data, DecodeSpec(height=SIZE, width=SIZE, color=color, **options)).pixels


def resize(planes, box=None):
    pictures = [Image.fromarray(plane) for plane in planes]
    pictures = [one.crop(box) if box else one for one in pictures]
    bilinear = Image.Resampling.BILINEAR
    return np.stack([np.asarray(one.resize((SIZE, SIZE), bilinear)) for one in pictures], axis=-1)


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 6, 13])
def test_an_array_is_resized_channel_by_channel(n_channels):
    planes = make_planes(n_channels)
    data = save_array(np.stack(planes, axis=-1))
    np.testing.assert_array_equal(decode(data, n_channels), resize(planes))
    cut = decode(data, n_channels, box=(10, 5, 40, 50))
    np.testing.assert_array_equal(cut, resize(planes, (10, 5, 50, 55)))


def test_an_array_of_colours_is_decoded_as_the_picture_of_them():
    data = save_array(np.asarray(photo()))
    np.testing.assert_array_equal(decode(data, 3), decode(encode(photo(), "PNG"), 3))


@pytest.mark.parametrize("n_channels", [2, 4, 6])
def test_pages_of_a_tiff_are_channels_where_there_are_as_many(n_channels):
    planes = make_planes(n_channels)
    np.testing.assert_array_equal(decode(save_pages(planes), n_channels), resize(planes))


def test_of_three_pages_colours_are_those_of_the_first_as_keras_has_them(tmp_path):
    file = tmp_path / "a.tif"
    file.write_bytes(save_pages(make_planes(3)))
    loaded = keras.utils.load_img(file, target_size=(SIZE, SIZE), interpolation="bilinear")
    np.testing.assert_array_equal(decode(file.read_bytes(), 3), np.asarray(loaded))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", "RGBA"), ("TIFF", "RGBA"), ("WEBP", "RGBA"), ("PNG", "LA"), ("PNG", "RGB")),
        *(("JPEG", "RGB"), ("JPEG", "L"), ("GIF", "P"), ("PNG", "P"), ("TIFF", "CMYK")),
    ],
)
def test_four_channels_of_a_picture_are_as_keras_has_them(kind, mode, tmp_path):
    image = with_alpha(mode[:-1]) if mode.endswith("A") else photo().convert(mode)
    file = tmp_path / f"a.{kind}"
    file.write_bytes(encode(image, kind))
    loaded = keras.utils.load_img(
        file, color_mode="rgba", target_size=(SIZE, SIZE), interpolation="bilinear"
    )
    np.testing.assert_array_equal(decode(file.read_bytes(), 4), np.asarray(loaded))


ARRAY = np.stack(make_planes(6), axis=-1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode(photo(), "PNG"), "has not 6 channels"),
        (save_pages(make_planes(5)), "has not 6 channels"),
        (save_pages([*make_planes(5), np.zeros((3, 4), np.uint8)]), "page 5 is 4 x 3 L"),
        (save_pages([*make_planes(5), np.zeros((61, 97), np.float32)]), "page 5 is 97 x 61 F"),
        (
            save_array(ARRAY[..., :5]),
            r"shape \(61, 97, 5\); the backbone takes \(height, width, 6\)",
        ),
        (save_array(ARRAY[:0]), r"shape \(0, 97, 6\)"),
        (save_array(ARRAY.astype(np.uint16)), "an array of uint16"),
        (save_array(np.asfortranarray(ARRAY)), "column by column"),
        (save_array(np.array([object()])), "an array of object"),
        (save_array(ARRAY)[:-1], "truncated file: 35501 values of 35502"),
        (save_array(ARRAY)[:50], "header is damaged"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "header is damaged"),
        (save_array(ARRAY).replace(b"(61, 97, 6)", b"(6**9,97,6)"), "header is damaged"),
        (
            save_array(ARRAY).replace(b"(61, 97, 6)", b"(9999999,9,6)"),
            "too large|damaged|truncated",
        ),
    ],
)
def test_what_has_not_those_channels_is_refused_with_the_reason(data, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        decode(data, 6)
    assert "\n" not in str(caught.value)
