"""JPEG at a reduced scale, against the same file decoded whole."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.decoding.resizing import RESIZE_MODES
from permafrost.stages.errors import ImageError
from tests.helpers.pictures import encode, exif, files, noise

# pytest puts its own warning filters in place of those that stages.decoding.decode sets once.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

SPEC = DecodeSpec(height=32, width=48)

FILES = files()

FAST = replace(SPEC, decoding="fast")


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
