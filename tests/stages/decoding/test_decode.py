from __future__ import annotations

import io
import pickle
import random
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from permafrost.stages.decoding.decode import Decoded, DecodeSpec, decode_image
from permafrost.stages.decoding.formats import FORMATS
from permafrost.stages.decoding.resizing import RESIZE_METHODS, RESIZE_MODES
from permafrost.stages.errors import ImageError, InputError, UnknownNameError
from tests.helpers.pictures import (
    MAGIC,
    encode,
    exif,
    files,
    grey_tiff,
    photo,
    png,
)

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


def test_text_and_odd_depths_of_ppm_are_refused_as_they_take_minutes() -> None:
    for data in (b"P5 1 1 100\n0", b"P6 1 1 65535\n012345"):
        with pytest.raises(ImageError, match="save it with 8 bits"):
            decode_image(data, SPEC)
    with pytest.raises(ImageError, match="not an image"):
        decode_image(b"P3 1 1 255\n1 2 3", SPEC)


@pytest.mark.parametrize(("bits", "sample_format"), [(16, 2), (32, 1), (32, 2)])
def test_integers_without_an_agreed_white_are_refused(bits: int, sample_format: int) -> None:
    data = grey_tiff(bytes(bits // 8), width=1, bits=bits, sample_format=sample_format)
    with pytest.raises(ImageError, match="no agreed white"):
        decode_image(data, SPEC)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_anywhere_is_refused_or_loses_nothing(name: str) -> None:
    data = FILES[name]
    whole = decode_image(data, SPEC).pixels
    draw = random.Random(name)
    cuts = {*range(min(len(data), 64)), *(draw.randrange(len(data)) for _ in range(40))}
    refused = 0
    for cut in cuts:
        try:
            pixels = decode_image(data[:cut], SPEC).pixels
        except ImageError as error:
            refused += 1
            assert "\n" not in str(error)
            assert 0 < len(str(error)) < 200
        else:
            assert np.array_equal(pixels, whole), cut
    assert refused >= 64


@pytest.mark.parametrize("name", ["jpeg", "png", "gif", "bmp"])
@pytest.mark.parametrize("kept", [0.02, 0.5])
def test_a_file_cut_in_its_header_or_pixels_is_called_truncated(name: str, kept: float) -> None:
    data = FILES[name]
    with pytest.raises(ImageError, match=r"^truncated file \(Pillow: .*\)$"):
        decode_image(data[: int(len(data) * kept)], SPEC)


@pytest.mark.parametrize("kind", MAGIC)
def test_garbage_behind_a_magic_number_is_refused(kind: str) -> None:
    draw = random.Random(kind)
    for length in [*range(40), *[200] * 60, *[5000] * 20]:
        with pytest.raises(ImageError):
            decode_image(MAGIC[kind] + draw.randbytes(length), SPEC)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes_give_pixels_or_a_reason_and_nothing_else(name: str) -> None:
    draw = random.Random(name)
    spec = replace(SPEC, max_pixels=10_000_000)  # sizes are flipped too, and large ones are slow
    for reach in [120] * 60 + [len(FILES[name])] * 20:
        data = bytearray(FILES[name])
        for _ in range(draw.choice((1, 4))):
            data[draw.randrange(min(reach, len(data)))] = draw.randrange(256)
        try:
            outcome: Decoded | ImageError = decode_image(bytes(data), spec)
        except ImageError as error:
            outcome = error
        assert isinstance(outcome, ImageError) or outcome.pixels.shape == (32, 48, 3)


def test_truncated_files_are_not_filled_with_grey_whatever_pillow_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(InputError, match=r"LOAD_TRUNCATED_IMAGES is set.*; set it to False$"):
        decode_image(FILES["jpeg"], SPEC)


def test_empty_and_foreign_files_are_told_apart() -> None:
    with pytest.raises(ImageError, match=r"^empty file$"):
        decode_image(b"", SPEC)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"
    for data in (
        postscript,
        b"path,label\na.jpg,cat\n",
        b"8BPS\x00\x01",
        b"RIFF....WAVEfmt ",
        b"P",
    ):
        with pytest.raises(ImageError, match=f"^not an image .{', '.join(FORMATS)}.$"):
            decode_image(data, SPEC)
    with pytest.raises(ImageError, match=r"^unreadable BMP file"):
        decode_image(FILES["bmp"][:14] + bytes([99]) + FILES["bmp"][15:], SPEC)


def test_absurd_dimensions_are_refused_from_the_header_alone() -> None:
    bomb = png(65535, 65535, bits=8, colour=2)
    with pytest.raises(ImageError, match=r"^too large: 65535 x 65535 pixels, limit 178956970$"):
        decode_image(bomb, SPEC)
    huge_gif = b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x00;"
    with pytest.raises(ImageError, match=r"^too large"):
        decode_image(huge_gif, SPEC)


def test_pillow_s_own_limit_is_told_as_such() -> None:
    tiff = grey_tiff(b"", width=200_000_000, bits=8)
    with pytest.raises(ImageError, match=r"^too large \(Pillow: Image size \(200000000 pixels\)"):
        decode_image(tiff, replace(SPEC, max_pixels=10**9))


def test_the_pixel_limit_is_the_largest_size_that_passes() -> None:
    data = encode(photo(10, 10), "PNG")
    assert decode_image(data, DecodeSpec(height=4, width=4, max_pixels=100)).pixels.any()
    with pytest.raises(ImageError, match=r"^too large: 10 x 10 pixels, limit 99$"):
        decode_image(data, DecodeSpec(height=4, width=4, max_pixels=99))


def test_a_photo_of_100_megapixels_passes() -> None:
    data = encode(Image.new("L", (12000, 8400), 77), "JPEG")
    assert (decode_image(data, SPEC).pixels == 77).all()


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


def test_nothing_is_written_to_stderr_and_no_other_format_is_imported() -> None:
    script = """
import sys
from permafrost.stages.decoding.decode import *
from permafrost.stages.errors import ImageError
for data in eval(sys.stdin.read()):
    try:
        decode_image(data, DecodeSpec(height=8, width=8))
    except ImageError:
        pass
assert not {"PIL.EpsImagePlugin", "PIL.PsdImagePlugin", "keras", "tensorflow"} & set(sys.modules)
"""
    many_samples = grey_tiff(b"\0", width=1, bits=8).replace(
        struct.pack("<HHII", 277, 4, 1, 1), struct.pack("<HHII", 277, 4, 1, 99)
    )
    above_pillow_s_warning = encode(Image.new("L", (10000, 9000)), "JPEG")
    palette = photo().quantize(64)
    clear = encode(palette, "PNG", transparency=bytes(64))
    plain, deflated = (struct.pack("<HHII", 259, 4, 1, kind) for kind in (1, 8))
    damaged = grey_tiff(b"\x80", width=1, bits=8).replace(plain, deflated)
    exif_cut = FILES["jpeg turned"].replace(b"Exif\0\0MM", b"Exif\0\0II")
    data = [many_samples, damaged, above_pillow_s_warning, clear, exif_cut, b"", b"junk"]
    # The filters of this test session are not inherited: any warning would be shown.
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", script],
        input=repr(data),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


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


FAST = replace(SPEC, decoding="fast")


def noise(width: int, height: int) -> Image.Image:
    """Make a picture with detail at every scale, so that a shift of a pixel shows."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (1 + height // 16, 1 + width // 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def difference(data: bytes, spec: DecodeSpec) -> float:
    exact = decode_image(data, replace(spec, decoding="exact")).pixels
    fast = decode_image(data, replace(spec, decoding="fast")).pixels
    return float(np.abs(fast.astype(int) - exact.astype(int)).mean())


def count_decoded_pixels(data: bytes, spec: DecodeSpec, monkeypatch: pytest.MonkeyPatch) -> int:
    sizes = []
    resize = Image.Image.resize

    def watch(image: Image.Image, *arguments: Any, **options: Any) -> Image.Image:
        sizes.append(image.width * image.height)
        return resize(image, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", watch)
    decode_image(data, spec)
    return sizes[0]


@pytest.mark.parametrize("name", FILES)
def test_fast_gives_the_bytes_of_exact_where_nothing_can_be_reduced(name: str) -> None:
    for size in ((32, 48), (61, 24), (150, 31)):  # of 61 x 97: half is less than twice as much
        spec = DecodeSpec(height=size[0], width=size[1])
        fast = decode_image(FILES[name], replace(spec, decoding="fast")).pixels
        assert np.array_equal(fast, decode_image(FILES[name], spec).pixels), size


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_fast_is_exact_for_every_format_but_jpeg(kind: str) -> None:
    assert difference(encode(noise(301, 205), kind), SPEC) == 0


@pytest.mark.parametrize(
    ("size", "target", "resize_mode", "scale"),
    [
        ((1600, 1600), (100, 100), "stretch", 8),
        ((1599, 1600), (100, 100), "stretch", 4),  # an eighth would be 199.9 pixels wide
        ((400, 400), (100, 100), "stretch", 2),
        ((399, 400), (100, 100), "stretch", 1),
        ((1600, 400), (100, 100), "stretch", 2),  # the direction that needs more decides
        ((1600, 400), (50, 100), "stretch", 4),
        ((1600, 400), (100, 100), "crop", 2),
        ((1600, 400), (100, 100), "pad", 8),  # 100 x 25 between black bars
        ((800, 1600), (100, 200), "crop", 2),
        ((400, 800), (100, 50), "crop", 4),
        ((400, 800), (100, 50), "pad", 4),
    ],
)
def test_fast_decodes_the_smallest_scale_that_leaves_twice_the_target(
    size: tuple[int, int],
    target: tuple[int, int],
    resize_mode: str,
    scale: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encode(Image.new("RGB", size), "JPEG")
    spec = DecodeSpec(height=target[0], width=target[1], resize_mode=resize_mode, decoding="fast")
    reduced = -(-size[0] // scale) * -(-size[1] // scale)
    assert count_decoded_pixels(data, spec, monkeypatch) == reduced


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
def test_a_reduced_picture_lies_where_the_whole_one_does(
    resize_mode: str, orientation: int
) -> None:
    # Sizes that no scale divides: what libjpeg pads must not stretch or shift the picture.
    data = encode(noise(673, 1037), "JPEG", quality=95, exif=exif(orientation))
    for height, width in ((64, 64), (80, 30)):
        spec = DecodeSpec(height=height, width=width, resize_mode=resize_mode, orient="exif")
        assert 0 < difference(data, spec) < 2  # 9 where the padding is not heeded


@pytest.mark.parametrize(
    ("resize", "limit"), [("bilinear", 0.4), ("bicubic", 0.4), ("lanczos", 0.4), ("area", 1.5)]
)
def test_fast_differs_by_fractions_of_a_grey_level_on_a_photo(resize: str, limit: float) -> None:
    data = encode(Image.fromarray(load_sample_images().images[1]), "JPEG", quality=95)
    assert 0 < difference(data, DecodeSpec(height=96, width=96, resize=resize)) < limit


def test_fast_takes_the_same_pixels_as_exact_where_the_nearest_are_asked_for() -> None:
    assert difference(encode(noise(801, 605), "JPEG"), replace(SPEC, resize="nearest")) == 0


def test_grey_four_coloured_progressive_and_double_jpegs_are_reduced_too() -> None:
    image = noise(801, 605)
    for data in (
        encode(image.convert("L"), "JPEG"),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image, "JPEG", progressive=True),
        encode(image, "MPO", save_all=True, append_images=[image]),
    ):
        for color in ("rgb", "grayscale"):
            assert 0 < difference(data, replace(SPEC, color=color)) < 2


def lossless_jpeg(width: int, height: int) -> bytes:
    """Write a grey picture in the one process of JPEG that has no scales."""

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    frame = segment(0xC3, struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0]))
    table = segment(0xC4, bytes([0, 1, *[0] * 15, 0]))  # one code of one bit: no difference
    scan = segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
    return b"\xff\xd8" + frame + table + scan + bytes(width * height // 8) + b"\xff\xd9"


def test_a_jpeg_that_cannot_be_reduced_is_decoded_whole() -> None:
    assert (decode_image(lossless_jpeg(800, 600), FAST).pixels == 128).all()


def test_fast_refuses_what_exact_refuses_for_the_same_reason() -> None:
    whole = encode(noise(801, 605), "JPEG")
    for data in (whole[: len(whole) // 2], whole[:100], b"", b"junk", FILES["gif"][:50]):
        with pytest.raises(ImageError) as exact:
            decode_image(data, SPEC)
        with pytest.raises(ImageError) as fast:
            decode_image(data, FAST)
        assert str(fast.value) == str(exact.value)
    with pytest.raises(ImageError, match=r"^too large: 801 x 605 pixels, limit 400000$"):
        decode_image(whole, replace(FAST, max_pixels=400_000))


def test_large_pictures_one_after_another_are_each_their_own() -> None:
    images = [noise(2401, 1803), Image.new("L", (5000, 3400), 9), noise(2200, 2100)]
    for image in images * 2:
        decoded = decode_image(encode(image, "BMP"), SPEC).pixels
        expected = image.resize((48, 32), Image.Resampling.BILINEAR).convert("RGB")
        assert np.array_equal(decoded, np.asarray(expected))
