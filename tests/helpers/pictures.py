"""Pictures in every format and colour mode that Pillow writes, and some that are put together here.

All are made on the spot from scikit-learn's photographs.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

MAGIC = {
    "JPEG": b"\xff\xd8\xff\xe0",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "GIF": b"GIF89a",
    "BMP": b"BM",
    "WebP": b"RIFF\x00\x10\x00\x00WEBPVP8 ",
    "TIFF": b"II*\x00\x08\x00\x00\x00",
    "TIFF, Motorola": b"MM\x00*\x00\x00\x00\x08",
}


def photo(width: int = 97, height: int = 61, *, which: int = 0) -> Image.Image:
    return Image.fromarray(load_sample_images().images[which]).resize((width, height))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def encode_two(kind: str) -> bytes:
    return encode(photo(), kind, save_all=True, append_images=[photo(which=1)])


def with_alpha(mode: str) -> Image.Image:
    image = photo().convert(mode)
    image.putalpha(photo(which=1).convert("L"))
    return image


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *, bits: int, colour: int, rows: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IEND", b"")


def grey_tiff(
    pixels: bytes, *, width: int, bits: int, photometric: int = 1, sample_format: int = 1
) -> bytes:
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 134, 277: 1, 278: 1}
    tags |= {279: len(pixels), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + pixels


def write_jpeg(frame: int, width: int, height: int, entropy: bytes, *, n_scans: int = 1) -> bytes:
    """Write a grey JPEG of any process, with scans behind the first that say nothing."""

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    is_progressive = frame == 0xC2
    tables = segment(0xDB, bytes([0]) + bytes([1] * 64))
    size = segment(frame, struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0]))
    codes = b"".join(segment(0xC4, bytes([which, 1, *[0] * 15, 0])) for which in (0, 0x10))
    first = bytes([1, 1, 0, 0, 0 if is_progressive else 63, 0])
    more = segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) * (n_scans - 1)
    head = b"\xff\xd8" + tables + size + codes + segment(0xDA, first)
    return head + entropy.replace(b"\xff", b"\xff\0") + more + b"\xff\xd9"


def write_ifd(tags: Mapping[int, list[int]], at: int, *, next_at: int = 0) -> bytes:
    """Write a directory of 32-bit numbers for an offset in the file; long values share bytes."""
    entries, values = b"", b""
    values_at = at + 2 + 12 * len(tags) + 4
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(packed) <= 4:
            place = packed
        else:
            found = values.find(packed)
            if found < 0:
                found, values = len(values), values + packed
            place = struct.pack("<I", values_at + found)
        entries += struct.pack("<HHI", tag, 4, len(numbers)) + place
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_at) + values


def write_tiff(tags: Mapping[int, list[int]], pixels: bytes, *, next_at: int = 0) -> bytes:
    """Write a grey TIFF whose pixels begin at byte 8."""
    defaults = {258: [8], 259: [1], 262: [1], 277: [1]}
    ifd = write_ifd({**defaults, **tags}, 8 + len(pixels), next_at=next_at)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + ifd


def files() -> dict[str, bytes]:
    """Write every format in every colour mode that Pillow writes, and that Keras reads right."""
    image, grey = photo(), photo().convert("L")
    palette = image.quantize(64)
    digit = Image.fromarray(np.uint8(load_digits().images[3] * 15))
    return {
        "jpeg": encode(image, "JPEG"),
        "jpeg progressive": encode(image, "JPEG", progressive=True, subsampling=0),
        "jpeg grey": encode(grey, "JPEG"),
        "jpeg cmyk": encode(image.convert("CMYK"), "JPEG"),
        "jpeg turned": encode(image, "JPEG", exif=exif(6)),
        "jpeg of two pictures": encode_two("MPO"),
        "png": encode(image, "PNG"),
        "png digit": encode(digit, "PNG"),
        "png bilevel": encode(grey.convert("1"), "PNG"),
        "png palette": encode(palette, "PNG"),
        "png palette, one clear": encode(palette, "PNG", transparency=3),
        "png palette, alpha each": encode(palette, "PNG", transparency=bytes(range(64))),
        "png grey, one clear": encode(grey, "PNG", transparency=100),
        "png grey alpha": encode(with_alpha("L"), "PNG"),
        "png alpha": encode(with_alpha("RGB"), "PNG"),
        "png 16-bit colour": png(40, 1, bits=16, colour=2, rows=bytes(1) + bytes(range(240))),
        "png 16-bit grey alpha": png(60, 1, bits=16, colour=4, rows=bytes(1) + bytes(range(240))),
        "png moving": encode_two("PNG"),
        "gif": encode(image, "GIF"),
        "gif grey": encode(grey, "GIF"),
        "gif, one clear": encode(palette, "GIF", transparency=3),
        "gif moving": encode_two("GIF"),
        "ppm": encode(image, "PPM"),
        "ppm grey": encode(grey, "PPM"),
        "ppm bilevel": encode(grey.convert("1"), "PPM"),
        "bmp": encode(image, "BMP"),
        "bmp grey": encode(grey, "BMP"),
        "bmp palette": encode(palette, "BMP"),
        "bmp bilevel": encode(grey.convert("1"), "BMP"),
        "bmp alpha": encode(with_alpha("RGB"), "BMP"),
        "webp": encode(image, "WEBP"),
        "webp lossless alpha": encode(with_alpha("RGB"), "WEBP", lossless=True),
        "webp moving": encode_two("WEBP"),
        "tiff": encode(image, "TIFF"),
        "tiff grey": encode(grey, "TIFF"),
        "tiff bilevel": encode(grey.convert("1"), "TIFF", compression="group4"),
        "tiff palette": encode(palette, "TIFF", compression="packbits"),
        "tiff alpha": encode(with_alpha("RGB"), "TIFF", compression="tiff_lzw"),
        "tiff grey alpha": encode(with_alpha("L"), "TIFF"),
        "tiff cmyk": encode(image.convert("CMYK"), "TIFF", compression="tiff_adobe_deflate"),
        "tiff ycbcr": encode(image.convert("YCbCr"), "TIFF"),
        "tiff jpeg": encode(image, "TIFF", compression="jpeg"),
        "tiff turned": encode(image, "TIFF", exif=exif(6)),
        "tiff pages": encode_two("TIFF"),
    }


def noise(width: int, height: int) -> Image.Image:
    """Make a picture with detail at every scale, so that a shift of a pixel shows."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (1 + height // 16, 1 + width // 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
