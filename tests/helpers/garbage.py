"""Files that are no photos, or hardly: what lies in folders that people collected for years.

All are made on the spot, from scikit-learn's photographs and a seed. What is to become of each is
said here, or by Pillow as Keras calls it.
"""

from __future__ import annotations

import functools
import io
import random
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

import permafrost.stages.decoding.formats  # noqa: F401 - which has Pillow and libtiff be quiet
from tests.helpers.pictures import (
    MAGIC,
    encode,
    encode_two,
    exif,
    files,
    photo,
    png,
    png_chunk,
    write_ifd,
    write_jpeg,
    write_tiff,
)

# Formats that Pillow sees elsewhere are no concern of this.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
SIZE = (32, 32)
_LARGEST_MUTANT_PIXELS = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimen:
    """One file.

    Attributes
    ----------
    name : str
        Of the file, unique.
    data : bytes
    reason : str, optional
        A pattern of the reason with which it must be refused.
    is_own : bool
        Whether it must be read, though Keras makes something else of it; otherwise, and without a
        reason, what Keras reads must be read alike, and what it refuses refused.
    """

    name: str
    data: bytes
    reason: str | None = None
    is_own: bool = False


@functools.cache
def collect(seed: int = 0, *, n_mutants: int = 50) -> tuple[Specimen, ...]:
    """Make the whole collection; the same for the same seed."""
    draw = random.Random(seed)
    return (
        *_list_oddities(),
        *_cut_at_boundaries(),
        *_fill_with_noise(draw),
        *_lie_about_sizes(),
        *_list_bombs(),
        *_list_strangers(),
        *_mutate(draw, n=n_mutants),
    )


def read_as_keras(data: bytes) -> NDArray[np.uint8] | None:
    """Do with Pillow what ``keras.utils.load_img(…, target_size=(32, 32))`` does."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS).convert("RGB")
        return np.asarray(image.resize(SIZE, Image.Resampling.NEAREST))
    except Exception:  # noqa: BLE001 - it raises anything
        return None


def is_good(specimen: Specimen) -> bool:
    """Whether it must be read."""
    if specimen.reason is not None:
        return False
    return specimen.is_own or read_as_keras(specimen.data) is not None


def _list_oddities() -> Iterator[Specimen]:
    """Yield valid files of rare kinds."""
    for name, data in files().items():
        yield Specimen(name=_name_file(name), data=data)
    image, thin = photo(), photo(1, 30_000)
    yield Specimen(name="one pixel.png", data=encode(photo(1, 1), "PNG"))
    yield Specimen(name="1 x 30000.png", data=encode(thin, "PNG"))
    yield Specimen(name="1 x 30000.tif", data=encode(thin, "TIFF"))
    yield Specimen(name="30000 x 1.jpg", data=encode(photo(30_000, 1), "JPEG"))
    yield Specimen(name="actually a png.jpg", data=encode(image, "PNG"))
    yield Specimen(name="actually a jpeg.png", data=encode(image, "JPEG"))
    yield Specimen(name="actually a gif.webp", data=encode(image, "GIF"))
    yield Specimen(name="film behind.jpg", data=encode(image, "JPEG") + bytes(5000) + b"\xff\xda")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp")):
        yield Specimen(name=f"icc.{suffix}", data=encode(image, kind, icc_profile=profile))
        yield Specimen(name=f"turned.{suffix}", data=encode(image, kind, exif=exif(6)))
    cmyk = encode(image.convert("CMYK"), "JPEG")
    ycck = bytearray(cmyk)
    ycck[cmyk.index(b"Adobe") + 11] = 2
    yield Specimen(name="ycck.jpg", data=bytes(ycck))
    yield Specimen(name="arithmetic.jpg", data=write_jpeg(0xC9, 64, 64, bytes(range(200))))
    yield Specimen(name="moving.webp", data=encode_two("WEBP"))
    yield Specimen(name="lab.tif", data=encode(_convert_to_lab(image), "TIFF"))
    grey = np.linspace(0, 65535, 64 * 64).reshape(64, 64)
    yield Specimen(name="16 bits.png", data=_save_array(grey.astype("uint16"), "PNG"), is_own=True)
    yield Specimen(name="16 bits.tif", data=_save_array(grey.astype("uint16"), "TIFF"), is_own=True)
    floats = (grey / 65535).astype("float32")
    yield Specimen(name="float.tif", data=_save_array(floats, "TIFF"), is_own=True)
    yield Specimen(
        name="float beyond.tif", data=_save_array(floats * 9, "TIFF"), reason="floating-point"
    )
    yield Specimen(
        name="32 bits.tif", data=_save_array(grey.astype("int32"), "TIFF"), reason="no agreed white"
    )


def _name_file(name: str) -> str:
    kind = name.replace(",", " ").partition(" ")[0]
    return f"{name.replace(',', '')}.{'jpg' if kind == 'jpeg' else kind}"


def _convert_to_lab(image: Image.Image) -> Image.Image:
    profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
    lab = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    assert lab is not None
    return lab


def _save_array(values: NDArray[np.generic], kind: str) -> bytes:
    return encode(Image.fromarray(values), kind)


def _cut_at_boundaries() -> Iterator[Specimen]:
    """Cut files where a part of their headers ends, and a byte before and behind it."""
    image = photo()
    whole = {
        "jpg": encode(image, "JPEG", exif=exif(3), comment=b"hello"),
        "progressive.jpg": encode(image, "JPEG", progressive=True),
        "png": encode(image, "PNG", exif=exif(3)),
        "gif": encode_two("GIF"),
        "bmp": encode(image.quantize(16), "BMP"),
        "webp": encode(image, "WEBP", exif=exif(3)),
        "tif": encode(image, "TIFF", compression="tiff_lzw"),
    }
    for suffix, data in whole.items():
        cuts = {
            cut + by
            for cut in BOUNDARIES[suffix.split(".")[-1]](data)
            for by in (-1, 0, 1)
            if 0 <= cut + by < len(data)
        }
        for cut in sorted(cuts):
            yield Specimen(name=f"cut at {cut}.{suffix}", data=data[:cut])


def _find_jpeg_markers(data: bytes) -> Iterator[int]:
    for marker in re.finditer(rb"\xff[\x01-\xfe]", data):
        yield from (marker.start(), marker.end(), marker.end() + 2)


def _find_png_chunks(data: bytes) -> Iterator[int]:
    position = 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        yield from (position, position + 4, position + 8, position + 8 + length)
        position += 12 + length


def _find_riff_chunks(data: bytes) -> Iterator[int]:
    yield from (4, 8)
    position = 12
    while position < len(data):
        (length,) = struct.unpack_from("<I", data, position + 4)
        yield from (position, position + 4, position + 8, position + 8 + length // 2)
        position += 8 + length + length % 2


def _find_gif_blocks(data: bytes) -> Iterator[int]:
    yield from (6, 13)
    for block in re.finditer(rb"\x00[!,]", data):
        yield from (block.start() + 1, block.end(), block.end() + 5)


def _find_tiff_parts(data: bytes) -> Iterator[int]:
    (start,) = struct.unpack_from("<I", data, 4)
    (n_tags,) = struct.unpack_from("<H", data, start)
    yield from (4, 8, start, start + 2, len(data) - 1)
    yield from (start + 2 + 12 * number for number in range(n_tags + 1))


BOUNDARIES = {
    "jpg": _find_jpeg_markers,
    "png": _find_png_chunks,
    "webp": _find_riff_chunks,
    "gif": _find_gif_blocks,
    "tif": _find_tiff_parts,
    "bmp": lambda _data: iter((0, 2, 14, 18, 54, 54 + 64, 500)),
}


def _fill_with_noise(draw: random.Random) -> Iterator[Specimen]:
    for kind, magic in MAGIC.items():
        for n_bytes in (0, 1, 20, 100, 3000):
            name = f"noise of {n_bytes} as {kind.replace(',', '')}.jpg"
            yield Specimen(name=name, data=magic + draw.randbytes(n_bytes), reason="")


def _lie_about_sizes() -> Iterator[Specimen]:
    """Promise billions of pixels, or as many as are let through, and bring 100 bytes."""
    pixels = bytes(range(100))
    for side, reason in ((65_500, "too large"), (9_000, "truncated|unreadable")):
        data = {
            "jpg": write_jpeg(0xC0, side, side, pixels),
            "png": png(side, side, bits=8, colour=2, rows=pixels),
            "gif": b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0)
            + b"," + struct.pack("<HHHHBB", 0, 0, side, side, 0, 8) + b"d" + pixels + b"\0;",
            "bmp": b"BM" + struct.pack("<IHHI", 154, 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0) + pixels,
            "tif": write_tiff({256: [side], 257: [side], 273: [8], 279: [100]}, pixels),
        }  # fmt: skip
        for suffix, one in data.items():
            # A JPEG that says where it ends is whole to libjpeg, however little it holds.
            is_whole = suffix == "jpg" and side == 9_000
            why = None if is_whole else reason
            yield Specimen(name=f"{side} pixels wide.{suffix}", data=one, reason=why)


def _list_bombs() -> Iterator[Specimen]:
    """Yield small files that are a lot of work."""
    plain = encode(photo(), "PNG")
    text = zlib.compress(bytes(20_000_000), 9)
    for name, body in (("zTXt", b"a\0\0" + text), ("iCCP", b"a\0\0" + text)):
        data = plain[:33] + png_chunk(name.encode(), body) + plain[33:]
        yield Specimen(name=f"{name} bomb.png", data=data, reason="too large")
    yield Specimen(
        name="huge IDAT.png",
        data=png(60_000, 60_000, bits=1, colour=0, rows=bytes(10_000_000)),
        reason="too large",
    )
    # More rows than the header says are left alone.
    behind = png(8, 8, bits=8, colour=0, rows=bytes(20_000_000))
    yield Specimen(name="IDAT beyond the picture.png", data=behind)
    many = write_jpeg(0xC2, 6400, 6400, bytes(160_000), n_scans=4000)
    yield Specimen(name="4000 scans.jpg", data=many, reason="too much work: .*scans of 41 megapix")
    fair = write_jpeg(0xC2, 640, 640, bytes(1600), n_scans=4000)
    yield Specimen(name="4000 small scans.jpg", data=fair)
    jpeg = encode(photo(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 10) + b"Exif\0\0ab"
    data = jpeg[:2] + segment * 300_000 + jpeg[2:]
    yield Specimen(name="300000 segments of exif.jpg", data=data, reason="too much work: .*EXIF")
    strip = zlib.compress(bytes(64))
    common = {256: [64], 257: [64], 259: [8]}
    tile = common | {322: [32_000], 323: [32_000], 324: [8], 325: [len(strip)]}
    yield Specimen(name="huge tile.tif", data=write_tiff(tile, strip), reason="too large: 32000 x")
    overlapping = common | {273: [8] * 64, 278: [1], 279: [len(strip)] * 64}
    yield Specimen(name="one strip 64 times.tif", data=write_tiff(overlapping, strip))
    absurd = common | {273: [8], 278: [2**31], 279: [2**31 - 1]}
    yield Specimen(name="absurd strips.tif", data=write_tiff(absurd, strip), reason="")
    many_samples = write_tiff(common | {277: [65_535], 273: [8], 279: [64]}, strip)
    yield Specimen(name="65535 samples.tif", data=many_samples, reason="")
    loop = write_tiff({256: [8], 257: [8], 273: [8], 279: [64]}, bytes(64), next_at=8 + 64)
    yield Specimen(name="ifd loop.tif", data=loop)
    all_one = {tag: [0] * 20_000 for tag in range(40_000, 40_050)}
    tags = {256: [8], 257: [8], 273: [8], 279: [64]} | all_one
    shared = write_tiff(tags, bytes(64))
    yield Specimen(name="tags that share their bytes.tif", data=shared)
    exif_bomb = b"II*\0\x08\0\0\0" + write_ifd({tag: [0] * 9000 for tag in range(4000)}, 8)
    data = plain[:33] + png_chunk(b"eXIf", exif_bomb) + plain[33:]
    yield Specimen(name="exif bomb.png", data=data)


def flood() -> Iterator[Specimen]:
    """Yield headers of megabytes, which would take Pillow minutes were they ten times as long."""
    jpeg, png_ = encode(photo(), "JPEG"), encode(photo(), "PNG")
    gif = encode(photo(), "GIF")
    behind_palette = 13 + 3 * (2 << (gif[10] & 7))
    empty = png_chunk(b"teSt", b"")
    data = {
        "comments.jpg": jpeg[:2] + b"\xff\xfe\0\2" * 3_000_000 + jpeg[2:],
        "padding.jpg": jpeg[:2] + b"\xff" * 12_000_000 + jpeg[2:],
        "chunks before.png": png_[:33] + empty * 1_000_000 + png_[33:],
        "chunks behind.png": png_[:-12] + empty * 1_000_000 + png_[-12:],
        "blocks.gif": gif[:behind_palette]
        + b"!\xfe" + b"\1a" * 6_000_000 + b"\0" + gif[behind_palette:],
    }  # fmt: skip
    for name, one in data.items():
        yield Specimen(name=f"flood of {name}", data=one, reason="too much work: .* pieces")


def _list_strangers() -> Iterator[Specimen]:
    texts: Mapping[str, bytes] = {
        "empty.jpg": b"",
        "one byte.jpg": b"\xff",
        "page.jpg": b"<!DOCTYPE html><html><body>404</body></html>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "photoshop.jpg": b"8BPS\0\1" + bytes(100),
        "heic.jpg": b"\0\0\0\x18ftypheic" + bytes(100),
        "zeros.jpg": bytes(100_000),
        "lfs.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
    }
    for name, data in texts.items():
        yield Specimen(name=name, data=data, reason="not an image" if data else "empty file")


def _mutate(draw: random.Random, *, n: int) -> Iterator[Specimen]:
    """Change some bytes of valid files, most of them in the headers."""
    whole = list(files().items())
    for number in range(n):
        name, data = draw.choice(whole)
        changed = bytearray(data)
        for _ in range(draw.choice((1, 4, 16))):
            reach = draw.choice((100, len(data)))
            changed[draw.randrange(min(reach, len(data)))] = draw.randrange(256)
        if _is_comparable(bytes(changed)):
            yield Specimen(name=f"mutant {number} of {_name_file(name)}", data=bytes(changed))


def _is_comparable(data: bytes) -> bool:
    """Whether it is small, and of no depth that Keras reads otherwise."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # noqa: BLE001 - it raises anything
        return True
    depth = image.mode[0] not in "IF"
    return depth and image.width * image.height <= _LARGEST_MUTANT_PIXELS
