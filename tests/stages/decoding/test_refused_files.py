"""Files that are truncated, damaged, foreign or too large: a reason, and nothing else."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from permafrost.stages.decoding.decode import Decoded, DecodeSpec, decode_image
from permafrost.stages.decoding.formats import FORMATS
from permafrost.stages.errors import ImageError, InputError
from tests.helpers.pictures import MAGIC, encode, files, grey_tiff, photo, png

# pytest puts its own warning filters in place of those that stages.decoding.decode sets once.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

SPEC = DecodeSpec(height=32, width=48)

FILES = files()


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
