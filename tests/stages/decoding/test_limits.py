"""Files that are more work than their pixels say, and honest ones that only look like it."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
from PIL import Image

from permafrost.stages.decoding.decode import DecodeSpec, decode_image
from permafrost.stages.decoding.limits import check_scans
from permafrost.stages.errors import ImageError
from tests.helpers.garbage import collect, flood
from tests.helpers.pictures import encode, photo, write_jpeg, write_tiff

# pytest puts its own warning filters in place of those that stages.decoding.decode sets once.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

SPEC = DecodeSpec(height=32, width=32)
N_MOST = 3 * 10**10 // 6400**2
"""Scans of 6400 x 6400 pixels that are let through."""


def write_scans(n_scans: int) -> bytes:
    return write_jpeg(0xC2, 6400, 6400, bytes(6400 * 6400 // 512), n_scans=n_scans)


def test_as_many_scans_as_take_some_seconds_are_let_through_and_no_more() -> None:
    check_scans(write_scans(N_MOST), (6400, 6400))
    with pytest.raises(ImageError, match=r"^too much work: more than 732 scans of 41 megapixels$"):
        check_scans(write_scans(N_MOST + 1), (6400, 6400))


def test_scans_of_a_thin_picture_count_as_those_of_its_blocks() -> None:
    check_scans(write_scans(N_MOST), (1, 65_500))
    many = write_jpeg(0xC2, 1, 65_500, bytes(2000), n_scans=100_000)
    with pytest.raises(ImageError, match=r"^too much work: more than 28\d+ scans of 0.0655 mega"):
        check_scans(many, (1, 65_500))


@pytest.mark.parametrize("place", ["behind", "metadata"])
def test_what_only_looks_like_scans_is_not_counted(place: str) -> None:
    """A film behind a photo, or a picture in its metadata, may hold any bytes."""
    noise = b"\xff\xda\x00\x00" * (N_MOST + 1)
    photo_ = write_scans(1)
    if place == "behind":
        data = photo_ + noise
    else:
        pieces = [noise[at : at + 60_000] for at in range(0, len(noise), 60_000)]
        segments = (b"\xff\xe5" + struct.pack(">H", len(one) + 2) + one for one in pieces)
        data = photo_[:2] + b"".join(segments) + photo_[2:]
    check_scans(data, (6400, 6400))


def test_refusing_a_long_run_of_ff_takes_no_time() -> None:
    """A search that starts again at each byte of the run would take minutes."""
    check_scans(write_scans(1)[:-2] + b"\xff" * 10**6 + b"\xff\xda" * (N_MOST + 1), (6400, 6400))


def test_progressive_photos_of_100_megapixels_pass() -> None:
    data = encode(Image.new("L", (12_000, 8400), 77), "JPEG", progressive=True)
    assert (decode_image(data, SPEC).pixels == 77).all()


def test_run_lengths_are_read_however_many_they_are() -> None:
    """Pillow reads a BMP's runs byte by byte: more often than anything else may be read."""
    pixels = np.random.default_rng(0).integers(0, 256, (500, 500), np.uint8)
    runs = b"".join(b"".join(b"\1" + bytes([one]) for one in row) + b"\0\0" for row in pixels[::-1])
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in range(256))
    at = 14 + 40 + len(palette)
    header = b"BM" + struct.pack("<IHHI", at + len(runs), 0, 0, at)
    info = struct.pack("<IiiHHIIiiII", 40, 500, 500, 1, 8, 1, len(runs), 0, 0, 256, 0)
    decoded = decode_image(header + info + palette + runs, DecodeSpec(height=500, width=500))
    assert np.array_equal(decoded.pixels[:, :, 0], pixels)


def test_floods_of_empty_pieces_are_refused() -> None:
    for specimen in flood():
        with pytest.raises(ImageError, match=str(specimen.reason)):
            decode_image(specimen.data, SPEC)


def test_tiles_may_reach_over_the_edge_but_not_far() -> None:
    tile = {256: [60], 257: [60], 322: [64], 323: [64], 324: [8], 325: [64 * 64]}
    data = write_tiff(tile, bytes(64 * 64))
    assert not decode_image(data, DecodeSpec(height=9, width=9, max_pixels=3600)).pixels.any()
    with pytest.raises(ImageError, match=r"^too large: 64 x 64 pixels of whole tiles$"):
        decode_image(write_tiff(tile | {256: [30], 257: [30]}, bytes(64 * 64)),
                     DecodeSpec(height=9, width=9, max_pixels=1000))  # fmt: skip


def test_a_photo_is_told_its_metadata_from_a_bomb() -> None:
    profile = bytes(1_000_000)
    assert decode_image(encode(photo(), "JPEG", icc_profile=profile), SPEC).pixels.any()
    bombs = [one for one in collect() if "bomb" in one.name and one.reason]
    assert len(bombs) == 2
    for bomb in bombs:
        with pytest.raises(ImageError) as told:
            decode_image(bomb.data, SPEC)
        assert re.search(str(bomb.reason), str(told.value))
