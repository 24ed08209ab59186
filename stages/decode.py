"""The bytes of an image file to the pixels a backbone takes.

Pixels equal ``keras.utils.load_img`` bit for bit in every colour mode of 8 bits a channel and less,
and for 16-bit colour. What Keras clips to white is treated better, and never by guessing from the
pixels at hand, so that images of one dataset stay comparable:

- grey of 12 or 16 unsigned bits is scaled, its largest possible value becoming 255;
- floating point is scaled if it lies in 0..1, the one range with an agreed white, or else refused;
- signed and 32-bit integers have no agreed white and are refused.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from stages.errors import ImageError, InputError, UnknownNameError

# Pillow warns and logs about files that it reads all the same (odd EXIF, more pixels than it likes,
# transparent palettes): a million photos would bury the terminal. Both switches are process-wide
# and thread-unsafe to turn during the work, so they are set once, here.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

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
}

RESIZE_METHODS: Mapping[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
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
ORIENT_MODES = ("ignore", "exif")
COLOR_MODES = ("rgb", "grayscale")

TIFF_BITS_PER_SAMPLE = 258
TIFF_PHOTOMETRIC = 262
EXIF_ORIENTATION = 274


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSpec:
    """What an image is decoded to.

    Parameters
    ----------
    height, width : int
        Size of the result in pixels.
    resize : {"bilinear", "bicubic", "nearest", "lanczos", "area"}
        Interpolation; all but "nearest" average over the pixels that one output pixel covers.
    resize_mode : {"stretch", "crop", "pad"}
        "stretch" ignores the aspect ratio; "crop" keeps the centre that has the wanted aspect
        ratio, as Keras' ``keep_aspect_ratio=True``; "pad" fits all of the image inside, on black.
    orient : {"ignore", "exif"}
        Whether the orientation in the file's EXIF or XMP turns the image; Keras ignores it. A
        TIFF's own orientation is applied either way, because Pillow does, and so Keras.
    color : {"rgb", "grayscale"}
        Three channels, or one, as Keras' ``color_mode``.
    max_pixels : int
        Images of more pixels are refused. The default is where Pillow, and so Keras, refuses: it
        lets 150-megapixel cameras through and, at Pillow's 4 bytes a pixel, holds the largest
        image to 716 MB, twice that while colours are converted. More has an effect for JPEG, PNG
        and BMP only; Pillow refuses the others.

    Raises
    ------
    UnknownNameError
        If `resize`, `resize_mode`, `orient` or `color` is none of the above.
    InputError
        If a number is not positive.
    """

    height: int
    width: int
    resize: str = "bilinear"
    resize_mode: str = "stretch"
    orient: str = "ignore"
    color: str = "rgb"
    max_pixels: int = 178_956_970

    @property
    def channels(self) -> int:
        """Channels of the result: 3, or 1 for grey."""
        return 3 if self.color == "rgb" else 1

    def __post_init__(self) -> None:
        numbers = {"height": self.height, "width": self.width, "pixel limit": self.max_pixels}
        for name, number in numbers.items():
            if number < 1:
                raise InputError(f"image {name} {number}: must be at least 1")
        for kind, value, known in (
            ("resize method", self.resize, tuple(RESIZE_METHODS)),
            ("resize mode", self.resize_mode, tuple(RESIZE_MODES)),
            ("orientation mode", self.orient, ORIENT_MODES),
            ("colour mode", self.color, COLOR_MODES),
        ):
            if value not in known:
                raise UnknownNameError(kind, value, known)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoded:
    """One decoded image.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (height, width, channels)
        RGB or grey, C-contiguous, read-only.
    rotated : bool
        Whether the file's EXIF or XMP asks for the image to be turned or mirrored, heeded or not.
    """

    pixels: NDArray[np.uint8]
    rotated: bool


def decode_image(data: bytes, spec: DecodeSpec) -> Decoded:
    """Decode the first picture of an image file.

    May be called from many threads at once; decoding and resizing release the GIL. Says nothing on
    stderr, but for a line that libtiff itself writes about some damaged TIFF.

    Parameters
    ----------
    data : bytes
        A whole JPEG (or MPO), PNG, GIF, BMP, WebP or TIFF file.
    spec : DecodeSpec
        Size, interpolation and orientation of the result.

    Returns
    -------
    Decoded
        Pixels of shape (``spec.height``, ``spec.width``, ``spec.channels``), and whether the file
        asks for turning.

    Raises
    ------
    ImageError
        If the file cannot be read, whatever is wrong with it; the message is the reason.
    """
    image, turn = _read_image(data, max_pixels=spec.max_pixels)
    if turn is not None and spec.orient == "exif":
        image = image.transpose(turn)
    if spec.color == "grayscale":
        image = image.convert("L")
    fit = RESIZE_MODES[spec.resize_mode]
    image = fit(image, (spec.width, spec.height), RESIZE_METHODS[spec.resize])
    # Grey becomes RGB only now: the result is the same and the resize costs a third.
    pixels = np.asarray(image.convert("RGB") if spec.color == "rgb" else image)
    shape = (spec.height, spec.width, spec.channels)
    return Decoded(pixels=pixels.reshape(shape), rotated=turn is not None)


def _read_image(data: bytes, *, max_pixels: int) -> tuple[Image.Image, Image.Transpose | None]:
    name, open_file = _recognise(data)
    try:
        file = open_file(io.BytesIO(data))
        _check_size(file.size, max_pixels=max_pixels)
        file.load()
        return _to_eight_bits(file), _find_turn(file)
    except ImageError:
        raise
    # On garbage, Pillow's plugins raise anything from SyntaxError to struct.error.
    except Exception as error:
        raise ImageError(_explain(error, name)) from error


def _recognise(data: bytes) -> tuple[str, Callable[[io.BytesIO], ImageFile]]:
    if not data:
        raise ImageError("empty file")
    for name, (signature, open_file) in FORMATS.items():
        if re.match(signature, data, re.DOTALL):
            return name, open_file
    raise ImageError(f"not an image ({', '.join(FORMATS)})")


def _check_size(size: tuple[int, int], *, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(f"too large: {width} x {height} pixels, limit {max_pixels}")


def _explain(error: Exception, name: str) -> str:
    said = " ".join(str(error).split())[:120] or type(error).__name__
    if isinstance(error, MemoryError):
        return f"{name} file needs more memory than there is"
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


def _to_eight_bits(file: ImageFile) -> Image.Image:
    """Give the image in mode "L" or "RGB"."""
    if file.mode in ("L", "RGB"):
        return file
    if file.mode.startswith("I;16"):
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
    return file.convert("RGB")


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


def _stretch(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    return image.resize(size, resample)


def _crop(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    # Keras' integers, so that its pixels are met exactly. The box of a thin line may be empty:
    # Pillow then enlarges the one pixel that it stands on.
    crop_width = min(image.width, image.height * size[0] // size[1])
    crop_height = min(image.height, image.width * size[1] // size[0])
    left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
    return image.resize(size, resample, box=(left, top, left + crop_width, top + crop_height))


def _pad(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    scale = min(size[0] / image.width, size[1] / image.height)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = Image.new(image.mode, size)
    corner = (size[0] - width) // 2, (size[1] - height) // 2
    canvas.paste(image.resize((width, height), resample), corner)
    return canvas


RESIZE_MODES: Mapping[
    str, Callable[[Image.Image, tuple[int, int], Image.Resampling], Image.Image]
] = {"stretch": _stretch, "crop": _crop, "pad": _pad}
