"""The bytes of an image file to one picture of 8 bits, whole or at a reduced scale.

What Keras clips to white is treated better, and never by guessing from the pixels at hand, so that
images of one dataset stay comparable:

- grey of 12 or 16 unsigned bits is scaled, its largest possible value becoming 255;
- floating point is scaled if it lies in 0..1, the one range with an agreed white, or else refused;
- signed and 32-bit integers have no agreed white and are refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, _imaging
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile, jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from permafrost.stages.decoding.limits import MeteredFile, check_scans, check_tiles
from permafrost.stages.errors import ImageError

# Pillow warns and logs about files that it reads all the same (odd EXIF, more pixels than it likes,
# transparent palettes), and its libtiff writes lines of its own: a million photos would bury the
# terminal. The switches are process-wide and thread-unsafe to turn during the work, so they are
# set once, here.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
with contextlib.suppress(OSError, AttributeError):  # where it is linked in without its names
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _open_ppm(stream: io.BytesIO) -> PpmImageFile:
    file = PpmImageFile(stream)
    # Pillow reads other depths pixel by pixel, in Python: minutes for a photo.
    if file.tile[0][0] != "raw":
        raise ImageError("PPM file of other than 256 levels: save it with 8 bits")
    return file


# The plugins are called by themselves instead of through Image.open, which imports all of Pillow's
# forty formats at the first bad file, knows "damaged" only as "not an image", and refuses large
# images before their width and height can be told.
FORMATS: Mapping[str, tuple[bytes, Callable[[io.BytesIO], ImageFile]]] = {
    "JPEG": (rb"\xff\xd8\xff", jpeg_factory),
    "PNG": (rb"\x89PNG\r\n\x1a\n", PngImageFile),
    "WebP": (rb"RIFF....WEBP", WebPImageFile),
    "GIF": (rb"GIF8[79]a", GifImageFile),
    "BMP": (rb"BM", BmpImageFile),
    "TIFF": (rb"II[*+]\x00|MM\x00[*+]|II\x00\*|MM\*\x00", TiffImageFile),
    "PPM": (rb"P[456]\s", _open_ppm),
}

# How an image is stored when EXIF says that it must be shown turned → how to turn it.
ORIENTATIONS: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

TIFF_BITS_PER_SAMPLE = 258
TIFF_PHOTOMETRIC = 262
EXIF_ORIENTATION = 274

# Pillow gives the memory of a picture back as soon as it is done, and pays for fresh pages at the
# next: a third of the time that a photo of 12 megapixels takes. Where it keeps this much (128 MB,
# the blocks of two such photos and more) it need not; small pictures are better off without.
_BLOCK_BYTES = 1 << 24
_KEPT_BLOCKS = 8
_STORED_BYTES_PER_PIXEL = 4

# Width and height in the file, and how it asks to be turned → 1, 2, 4 or 8.
ChooseScale = Callable[[tuple[int, int], Image.Transpose | None], int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """What an image file holds.

    Attributes
    ----------
    image : Image.Image
        In mode "L", "RGB" or "RGBA", as it is stored. At a reduced scale its width and height are
        rounded up: beyond ``size / scale`` lies a last row or column that is picture only in part.
    turn : Image.Transpose, optional
        How the file's EXIF or XMP asks for it to be turned.
    size : tuple of int
        Width and height in the file, in pixels.
    scale : int
        1, 2, 4 or 8 pixels of the file to one of the image's, in both directions.
    """

    image: Image.Image
    turn: Image.Transpose | None
    size: tuple[int, int]
    scale: int


def read_picture(
    data: bytes, *, max_pixels: int, choose_scale: ChooseScale | None = None, mode: str = "RGB"
) -> Picture:
    """Read the first picture of an image file.

    Parameters
    ----------
    data : bytes
    max_pixels : int
        Pictures of more pixels in the file are refused.
    choose_scale : callable, optional
        Is asked for the scale that is enough: 1, 2, 4 or 8, given the size in the file and the
        turn. JPEG files are decoded at that scale, which skips most of the work after the entropy
        decoding; everything else is read whole.
    mode : {"RGB", "RGBA"}
        Of a picture with colours or alpha; "RGBA" keeps the latter.

    Raises
    ------
    ImageError
        If the file cannot be read, whatever is wrong with it; the message is the reason.
    MemoryError
    """
    try:
        return _read_picture(data, max_pixels=max_pixels, choose_scale=choose_scale, mode=mode)
    except ImageError:
        if choose_scale is None:
            raise
    # Pillow reads JPEGs that it cannot reduce, lossless ones for example.
    return _read_picture(data, max_pixels=max_pixels, choose_scale=None, mode=mode)


def _read_picture(
    data: bytes, *, max_pixels: int, choose_scale: ChooseScale | None, mode: str
) -> Picture:
    name = _recognise(data)
    try:
        file = _open(data, name, max_pixels=max_pixels)
        size, scale = file.size, 1
        if choose_scale and isinstance(file, JpegImageFile):
            scale = choose_scale(size, _find_turn(file))
        if scale > 1:
            # Pillow takes the largest scale that leaves this many pixels, which is the one wanted.
            file.draft(None, (size[0] // scale, size[1] // scale))
        if file.width * file.height * _STORED_BYTES_PER_PIXEL > _BLOCK_BYTES:
            _keep_blocks()
        file.load()
        return Picture(
            image=_to_eight_bits(file, mode), turn=_find_turn(file), size=size, scale=scale
        )
    except (ImageError, MemoryError):
        raise
    # On garbage, Pillow's plugins raise anything from SyntaxError to struct.error.
    except Exception as error:
        raise ImageError(_explain(error, name)) from error


def _open(data: bytes, name: str, *, max_pixels: int) -> ImageFile:
    """Read the header, and refuse what would take too long from there on."""
    metered = MeteredFile(data)
    file = FORMATS[name][1](metered)
    width, height = file.size
    if width * height > max_pixels:
        raise ImageError(f"too large: {width} x {height} pixels, limit {max_pixels}")
    if name == "JPEG":
        check_scans(data, file.size)
    elif name == "BMP":
        # Pillow reads the length of a run and its value each by itself.
        metered.allow(2 * width * height)
    elif isinstance(file, TiffImageFile):
        check_tiles(file, max_pixels=max_pixels)
    return file


@functools.cache
def _keep_blocks() -> None:
    _imaging.set_blocks_max(_KEPT_BLOCKS)


def open_tiff(data: bytes, *, max_pixels: int) -> TiffImageFile | None:
    """Read the header of a TIFF; None where it is none, or too damaged or large to be read."""
    try:
        file = _open(data, "TIFF", max_pixels=max_pixels) if _recognise(data) == "TIFF" else None
    except MemoryError:
        raise
    # Whoever reads its first picture then says what is wrong with it.
    except Exception:  # noqa: BLE001
        return None
    return file if isinstance(file, TiffImageFile) else None


def _recognise(data: bytes) -> str:
    if not data:
        raise ImageError("empty file")
    for name, (signature, _) in FORMATS.items():
        if re.match(signature, data, re.DOTALL):
            return name
    raise ImageError(f"not an image ({', '.join(FORMATS)})")


def _explain(error: Exception, name: str) -> str:
    said = " ".join(str(error).split())[:120] or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return f"too large (Pillow: {said})"
    # Pillow wraps what a reader raised on running out of bytes in a SyntaxError.
    ran_out = isinstance(error.__cause__ or error, EOFError | struct.error | IndexError)
    if ran_out or "truncated" in said.lower():
        return f"truncated file (Pillow: {said})"
    return f"unreadable {name} file (Pillow: {said})"


def _find_turn(file: ImageFile) -> Image.Transpose | None:
    try:
        return ORIENTATIONS.get(file.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  damaged EXIF, under an image that Keras reads
        return None


def _to_eight_bits(file: ImageFile, mode: str) -> Image.Image:
    """Give the image in mode "L" or "RGB", or "RGBA" if that is asked for."""
    if file.mode in ("L", "RGB"):
        return file
    # What Pillow reads of a PGM file into 32 bits are 16.
    if file.mode.startswith("I;16") or (file.mode == "I" and isinstance(file, PpmImageFile)):
        return _scale_grey(file, np.asarray(file), white=_find_white(file))
    if file.mode == "I":
        raise ImageError(
            "signed or 32-bit integer pixels have no agreed white: save them as unsigned 16 bits"
        )
    if file.mode == "F":
        values = np.asarray(file)
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 1):  # NaN fails both
            raise ImageError(
                f"floating-point pixels from {low:g} to {high:g}: scale them to 0..1 or to 8 bits"
            )
        return _scale_grey(file, values, white=1)
    return file.convert(mode)


def _find_white(file: ImageFile) -> int:
    # Only TIFF has other depths than 16 in a 16-bit mode: 12.
    bits = file.tag_v2[TIFF_BITS_PER_SAMPLE][0] if isinstance(file, TiffImageFile) else 16
    return int((1 << bits) - 1)


def _scale_grey(file: ImageFile, values: NDArray[np.generic], *, white: int) -> Image.Image:
    # One float32 buffer, rounded in place: at the pixel limit each copy is hundreds of megabytes.
    scaled = np.multiply(values, np.float32(255 / white), dtype=np.float32)
    if isinstance(file, TiffImageFile) and file.tag_v2.get(TIFF_PHOTOMETRIC) == 0:
        np.subtract(255, scaled, out=scaled)  # white is zero; Pillow inverts 8 bits only
    return Image.fromarray(np.rint(scaled, out=scaled).astype(np.uint8))
