"""Pixels against plain Keras and Pillow: sizes, orientation, depths."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.decoding.resizing import RESIZE_METHODS
from permafrost.stages.errors import ImageError, InputError, UnknownNameError
from tests.helpers.pictures import encode, exif, files, grey_tiff, noise, photo, png

# pytest puts its own warning filters in place of those that stages.decoding.decode sets once.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

SPEC = DecodeSpec(height=32, width=48)
KERAS_NAMES = {name: name for name in RESIZE_METHODS} | {"area": "box"}


def keras_pixels(data: bytes, spec: DecodeSpec) -> NDArray[Any]:
    import keras

    image = keras.utils.load_img(
        io.BytesIO(data),
        target_size=(spec.height, spec.width),
        interpolation=KERAS_NAMES[spec.resize],
        keep_aspect_ratio=spec.resize_mode == "crop",
    )
    return np.asarray(keras.utils.img_to_array(image))


FILES = files()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("resize_mode", ["stretch", "crop"])
def test_pixels_equal_keras_bit_for_bit(name: str, resize_mode: str) -> None:
    data = FILES[name]
    for resize in RESIZE_METHODS:
        for height, width in ((32, 48), (150, 31)):
            spec = DecodeSpec(height=height, width=width, resize=resize, resize_mode=resize_mode)
            decoded = decode_image(data, spec).pixels
            assert np.array_equal(decoded, keras_pixels(data, spec)), (resize, height, width)


def test_an_image_of_the_wanted_size_is_left_as_it_is() -> None:
    image = photo(48, 32)
    decoded = decode_image(encode(image, "PNG"), SPEC).pixels
    assert np.array_equal(decoded, np.asarray(image))


def test_pixels_are_contiguous_uint8_rows_of_rgb() -> None:
    for name, data in FILES.items():
        pixels = decode_image(data, SPEC).pixels
        assert pixels.dtype == np.uint8, name
        assert pixels.shape == (32, 48, 3), name
        assert pixels.flags.c_contiguous, name


def test_a_line_one_pixel_wide_can_be_cropped_to_any_shape() -> None:
    line = encode(Image.new("RGB", (1, 500), (9, 8, 7)), "PNG")
    for resize in RESIZE_METHODS:
        spec = DecodeSpec(height=5, width=900, resize=resize, resize_mode="crop")
        assert (decode_image(line, spec).pixels == (9, 8, 7)).all(), resize


def test_pad_shows_all_of_the_image_between_equal_black_bars() -> None:
    image = photo(100, 50)
    spec = DecodeSpec(height=64, width=64, resize_mode="pad")
    pixels = decode_image(encode(image, "PNG"), spec).pixels
    inside = np.asarray(image.resize((64, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels[16:48], inside)
    assert not pixels[:16].any()
    assert not pixels[48:].any()


def test_pad_equals_pillow_s_own_and_keeps_the_thinnest_line() -> None:
    for size in ((97, 61), (61, 97), (48, 32), (200, 10)):
        image = photo(*size)
        expected = ImageOps.pad(image, (48, 32), Image.Resampling.BILINEAR)
        decoded = decode_image(encode(image, "PNG"), replace(SPEC, resize_mode="pad"))
        assert np.array_equal(decoded.pixels, np.asarray(expected))
    thin = encode(Image.new("L", (1, 1000), 200), "PNG")
    pixels = decode_image(thin, DecodeSpec(height=32, width=32, resize_mode="pad")).pixels
    assert (pixels[:, 15] == 200).all()
    assert np.count_nonzero(pixels[0, :, 0]) == 1  # of the 31 black columns, the odd one is right


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_turns_only_when_asked_and_is_noticed_either_way(kind: str, orientation: int) -> None:
    data = encode(photo(), kind, exif=exif(orientation))
    ignored = decode_image(data, SPEC)
    applied = decode_image(data, replace(SPEC, orient="exif"))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(ignored.pixels, keras_pixels(data, SPEC))
    assert np.array_equal(applied.pixels, np.asarray(upright.resize((48, 32), 2)))
    # Pillow, and so Keras, turns a TIFF by itself: nothing is left to ask for.
    expected = orientation in range(2, 9) and kind != "TIFF"
    assert (ignored.rotated, applied.rotated) == (expected, expected)


def test_damaged_exif_does_not_cost_the_image() -> None:
    # Without a resolution in the file, Pillow looks for one in the EXIF and swallows the damage.
    whole = encode(photo(), "JPEG", exif=exif(6), dpi=(72, 72))
    at = whole.index(b"Exif\x00\x00") + 6
    for damage in (b"\xff" * 8, b"II*\x00\xff\xff\xff\x7f", b"MM\x00*\x00\x00\x00\x02"):
        data = whole[:at] + damage + whole[at + 8 :]
        decoded = decode_image(data, replace(SPEC, orient="exif"))
        assert np.array_equal(decoded.pixels, keras_pixels(data, SPEC))
        assert not decoded.rotated


RAMP = np.arange(0, 65536, 16, dtype=np.uint16)


@pytest.mark.parametrize(
    "data",
    [
        png(4096, 1, bits=16, colour=0, rows=bytes(1) + RAMP.astype(">u2").tobytes()),
        b"P5 4096 1 65535\n" + RAMP.astype(">u2").tobytes(),
        grey_tiff(RAMP.tobytes(), width=4096, bits=16),
        encode(Image.fromarray(RAMP[None]), "TIFF", compression="tiff_lzw"),
        encode(Image.fromarray(RAMP[None]), "TIFF", big_endian=True),
    ],
    ids=["png", "pgm", "tiff", "tiff lzw", "tiff motorola"],
)
def test_sixteen_bit_grey_is_scaled_to_the_nearest_of_256_levels(data: bytes) -> None:
    pixels = decode_image(data, DecodeSpec(height=1, width=4096)).pixels
    expected = [round(int(value) * 255 / 65535) for value in RAMP]
    assert pixels[0, :, 0].tolist() == expected
    assert (pixels == pixels[:, :, :1]).all()


def test_twelve_bit_grey_reaches_white_at_its_own_maximum() -> None:
    packed = bytes.fromhex("000" + "800" + "fff" + "001")
    pixels = decode_image(grey_tiff(packed, width=4, bits=12), DecodeSpec(height=1, width=4)).pixels
    assert pixels[0, :, 0].tolist() == [0, round(0x800 * 255 / 4095), 255, 0]


def test_grey_whose_white_is_zero_is_inverted_at_every_depth() -> None:
    spec = DecodeSpec(height=1, width=3)
    for bits, dtype, white in ((8, "<u1", 255), (16, "<u2", 65535), (32, "<f4", 1)):
        values = np.array([0, white / 5, white]).astype(dtype)
        data = grey_tiff(
            values.tobytes(),
            width=3,
            bits=bits,
            photometric=0,
            sample_format=3 if bits == 32 else 1,
        )
        assert decode_image(data, spec).pixels[0, :, 0].tolist() == [255, 204, 0], bits


def test_floats_in_0_to_1_are_scaled_and_others_refused() -> None:
    def decode(*values: float) -> NDArray[np.uint8]:
        data = encode(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
        return decode_image(data, DecodeSpec(height=1, width=len(values))).pixels[0, :, 0]

    assert decode(0, 0.2, 0.5019, 1).tolist() == [0, 51, 128, 255]
    assert decode(0.2, 0.2).tolist() == [51, 51]  # not stretched to what the image holds
    for bad in (-0.1, 1.1, float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ImageError, match=r"floating-point pixels from .*: scale them"):
            decode(0.5, bad)


def test_eight_threads_give_what_one_gives() -> None:
    data = [*FILES.values(), b"", b"junk", *(d[:99] for d in FILES.values())]
    work = [data[i % len(data)] for i in range(200)]

    def outcome(item: bytes) -> tuple[bytes, bool] | str:
        try:
            decoded = decode_image(item, SPEC)
        except ImageError as error:
            return str(error)
        return decoded.pixels.tobytes(), decoded.rotated

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, work)) == [outcome(item) for item in work]


def test_a_spec_travels_to_workers_unchanged() -> None:
    spec = DecodeSpec(height=3, width=5, resize="area", resize_mode="pad", orient="exif")
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "biliner"}, "unknown resize method 'biliner'; did you mean 'bilinear'"),
        ({"resize_mode": "stretched"}, "unknown resize mode 'stretched'; did you mean 'stretch'"),
        ({"orient": "exiff"}, "unknown orientation mode 'exiff'; did you mean 'exif'"),
        ({"decoding": "fsat"}, "unknown decoding 'fsat'; did you mean 'fast'"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnknownNameError, match=message):
        replace(SPEC, **options)


@pytest.mark.parametrize("options", [{"height": 0}, {"width": -3}, {"max_pixels": 0}])
def test_sizes_below_one_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        replace(SPEC, **options)


def test_large_pictures_one_after_another_are_each_their_own() -> None:
    images = [noise(2401, 1803), Image.new("L", (5000, 3400), 9), noise(2200, 2100)]
    for image in images * 2:
        decoded = decode_image(encode(image, "BMP"), SPEC).pixels
        expected = image.resize((48, 32), Image.Resampling.BILINEAR).convert("RGB")
        assert np.array_equal(decoded, np.asarray(expected))
