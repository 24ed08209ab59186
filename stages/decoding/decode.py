"""The bytes of an image file to the pixels a backbone takes.

Pixels equal ``keras.utils.load_img`` bit for bit in every colour mode of 8 bits a channel and less,
and for 16-bit colour, unless decoding is asked to be fast; `stages.decoding.formats` says what
becomes of the others.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.Image import Transpose

from permafrost.stages.decoding.choices import (
    COLOR_MODES,
    DECODE_MODES,
    ORIENT_MODES,
    count_channels,
)
from permafrost.stages.decoding.formats import ChooseScale, Picture, read_picture
from permafrost.stages.decoding.planes import read_planes
from permafrost.stages.decoding.resizing import KERAS, RESIZE_METHODS, RESIZE_MODES, Box, Size
from permafrost.stages.decoding.sampling import ANTIALIAS, INTERPOLATIONS, crop, pad, resample
from permafrost.stages.errors import DecoderError, ImageError, InputError, UnknownNameError

# Turns that exchange width and height.
_ON_SIDE = {Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90}
# Turns that bring what was the right or lower edge to the left, and to the top.
_FROM_RIGHT = {
    Transpose.FLIP_LEFT_RIGHT,
    Transpose.ROTATE_180,
    Transpose.ROTATE_270,
    Transpose.TRANSVERSE,
}
_FROM_BELOW = {
    Transpose.ROTATE_180,
    Transpose.FLIP_TOP_BOTTOM,
    Transpose.TRANSVERSE,
    Transpose.ROTATE_90,
}
# What Pillow calls what it can make of any picture.
_OF_PILLOW = {"rgb": "RGB", "grayscale": "L", "4 channels": "RGBA"}
MAX_PIXELS = 178_956_970
# Raised when our own code begins to read, or to refuse, other files than before.
_READER = 2
# How many times larger than the result a reduced picture is at least. For photos of 9 to 16
# megapixels at 224 pixels, a margin of 1 would take a quarter less time and differ by 0.70 grey
# levels from "exact"; 2 differs by 0.24.
_MARGIN = 2
_SCALES = (8, 4, 2)
_OF_KERAS = tuple(KERAS + name + end for name in INTERPOLATIONS for end in ("", ANTIALIAS))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSpec:
    """What an image is decoded to.

    Parameters
    ----------
    height, width : int
        Size of the result in pixels.
    resize : {"bilinear", "bicubic", "nearest", "lanczos", "area"}
        Interpolation; all but "nearest" average over the pixels that one output pixel covers. Or
        what `resample` takes, with `KERAS` before it: as Keras' own layers resize.
    resize_mode : {"stretch", "crop", "pad"}
        "stretch" ignores the aspect ratio; "crop" keeps the centre that has the wanted aspect
        ratio, as Keras' ``keep_aspect_ratio=True``; "pad" fits all of the image inside, on black.
    orient : {"ignore", "exif"}
        Whether the orientation in the file's EXIF or XMP turns the image; Keras ignores it. A
        TIFF's own orientation is applied either way, because Pillow does, and so Keras.
    color : str
        One of `COLOR_MODES`: "rgb" or "grayscale", as Keras' ``color_mode``; "4 channels", which is
        Keras' "rgba"; or another number of channels, which only an array or a TIFF with as many
        pages has.
    decoding : {"exact", "fast"}
        "fast" decodes a JPEG that is much larger than the result at a half, a quarter or an eighth
        of its size, whichever is the smallest that leaves twice the wanted size in both directions.
        Everything else, and what "nearest" is to resize, it decodes as "exact" does.
    box : tuple of int, optional
        Left, top, width and height in pixels of the part that is the image, turned as `orient`
        says. It is cut out of the whole picture, so that "fast" decodes it as "exact" does.
    max_pixels : int
        Images of more pixels are refused. The default is where Pillow, and so Keras, refuses: it
        lets 150-megapixel cameras through and, at Pillow's 4 bytes a pixel, holds the largest
        image to 0.8 GB in most JPEG and PNG files, 2.1 GB in progressive ones, 2.9 GB in WebP and
        3.1 GB in floating point. More has an effect for JPEG, PNG and BMP only; Pillow refuses the
        others.

    Raises
    ------
    UnknownNameError
        If `resize`, `resize_mode`, `orient`, `color` or `decoding` is none of the above.
    InputError
        If a number is not positive.
    """

    height: int
    width: int
    resize: str = "bilinear"
    resize_mode: str = "stretch"
    orient: str = "ignore"
    color: str = "rgb"
    decoding: str = "exact"
    # Not what is remembered of an image's failure is told by: its row's id has the box.
    box: tuple[int, int, int, int] | None = field(default=None, repr=False)
    max_pixels: int = MAX_PIXELS

    @property
    def channels(self) -> int:
        """Channels of the result: 3, 1 for grey, or what the colour says."""
        return count_channels(self.color)

    def __post_init__(self) -> None:
        numbers = {"height": self.height, "width": self.width, "pixel limit": self.max_pixels}
        for name, number in numbers.items():
            if number < 1:
                raise InputError(f"image {name} {number}: must be at least 1")
        for kind, value, known in (
            ("resize method", self.resize, (*RESIZE_METHODS, *_OF_KERAS)),
            ("resize mode", self.resize_mode, tuple(RESIZE_MODES)),
            ("orientation mode", self.orient, ORIENT_MODES),
            ("colour mode", self.color, COLOR_MODES),
            ("decoding", self.decoding, DECODE_MODES),
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
    stderr.

    Parameters
    ----------
    data : bytes
        A whole JPEG (or MPO), PNG, GIF, BMP, WebP, TIFF, PPM or PGM file, or a ``.npy`` of uint8,
        shape (height, width, channels).
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
    DecoderError
        If there is not enough memory.
    InputError
        If Pillow has been told, anywhere in this process, to fill up truncated files with grey.
    """
    with _refusing():
        return _decode(data, spec)


def count_levels(
    data: bytes, box: tuple[int, int, int, int] | None = None
) -> tuple[Size, NDArray[np.int64]]:
    """Count how often each level occurs in an image of its own size.

    Parameters
    ----------
    data : bytes
        As `decode_image` takes it; what is raised is the same.
    box : tuple of int, optional
        See `DecodeSpec`.

    Returns
    -------
    size : tuple of int
        Width and height, in pixels.
    counts : ndarray of int64, shape (3, 256)
        Of red, green and blue.
    """
    with _refusing():
        picture = read_picture(data, max_pixels=MAX_PIXELS)
        if box is not None:
            picture = _cut(picture, box)
        counts = picture.image.convert("RGB").histogram()
    return picture.size, np.array(counts, np.int64).reshape(3, 256)


def decode_grey(
    data: bytes,
    *,
    longest: int,
    box: tuple[int, int, int, int] | None = None,
    orient: str = "ignore",
) -> tuple[Size, NDArray[np.uint8]]:
    """Decode an image to grey, and reduce it so that its longer side is at most `longest` pixels.

    Parameters
    ----------
    data : bytes
        As `decode_image` takes it; what is raised is the same.
    longest : int
    box, orient : optional
        See `DecodeSpec`; without a box no image is turned.

    Returns
    -------
    size : tuple of int
        Width and height in the file, or of the box, in pixels.
    levels : ndarray of uint8, shape (height, width)
        Never enlarged.
    """

    def choose_scale(size: Size, _: Transpose | None) -> int:
        return next((scale for scale in _SCALES if max(size) // scale >= longest), 1)

    with _refusing():
        if box is None:
            picture = read_picture(data, max_pixels=MAX_PIXELS, choose_scale=choose_scale)
        else:
            spec = DecodeSpec(height=1, width=1, orient=orient)
            picture = _cut(_turn(_read_near(data, spec), spec), box)
        image = picture.image.convert("L")
        image.thumbnail((longest, longest), Image.Resampling.BILINEAR)
        return picture.size, np.asarray(image)


def decode_whole(
    data: bytes,
    *,
    orient: str,
    box: tuple[int, int, int, int] | None = None,
    side: int | None = None,
) -> Image.Image:
    """Decode an image to RGB at its own size, or a smaller one, to be looked at.

    Parameters
    ----------
    data : bytes
        As `decode_image` takes it, but no array; what is raised is the same.
    orient, box
        See `DecodeSpec`.
    side : int, optional
        Width and height beyond twice of which an image without a box need not be.
    """

    def choose_scale(size: Size, _: Transpose | None) -> int:
        return next((scale for scale in _SCALES if min(size) >= 2 * scale * (side or 0)), 1)

    spec = DecodeSpec(height=1, width=1, orient=orient)
    with _refusing():
        picture = _read(data, spec, choose_scale if side and box is None else None)
        picture = _turn(picture, spec)
        return (picture if box is None else _cut(picture, box)).image.convert("RGB")


@contextmanager
def _refusing() -> Iterator[None]:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise InputError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, and what is missing of a file would be"
            " grey in its features; set it to False"
        )
    try:
        yield
    except MemoryError as error:
        raise DecoderError("needs more memory than there is") from error


def describe_decoder() -> str:
    """Return a text that changes when files that were refused may be read, and the other way."""
    return f"Pillow {PIL.__version__}, reader {_READER}"


def _decode(data: bytes, spec: DecodeSpec) -> Decoded:
    planes = read_planes(data, spec.channels, max_pixels=spec.max_pixels)
    if planes:
        pixels = np.stack([_decode_plane(plane, spec) for plane in planes], axis=-1)
        pixels.flags.writeable = False
        return Decoded(pixels=pixels, rotated=False)
    if spec.color not in _OF_PILLOW:
        raise ImageError(f"has not {spec.color}: save a uint8 array, or a TIFF of as many pages")
    if spec.box is None:
        fast = partial(_choose_scale, spec=spec) if spec.decoding == "fast" else None
        picture = _read(data, spec, choose_scale=fast)
        image = _resize(picture, spec)
    else:
        picture = _read_near(data, spec)
        image = _resize(_cut(_turn(picture, spec), spec.box), spec)
    # Grey becomes RGB only now: the result is the same and the resize costs a third.
    pixels = np.asarray(image.convert(_OF_PILLOW[spec.color]))
    shape = (spec.height, spec.width, spec.channels)
    return Decoded(pixels=pixels.reshape(shape), rotated=picture.turn is not None)


def _read(data: bytes, spec: DecodeSpec, choose_scale: ChooseScale | None = None) -> Picture:
    mode = "RGBA" if spec.channels == 4 else "RGB"
    return read_picture(data, max_pixels=spec.max_pixels, choose_scale=choose_scale, mode=mode)


def _decode_plane(plane: Image.Image, spec: DecodeSpec) -> NDArray[np.uint8]:
    picture = Picture(image=plane, turn=None, size=plane.size, scale=1)
    return np.asarray(_resize(_cut(picture, spec.box) if spec.box else picture, spec))


_near = threading.local()


def _read_near(data: bytes, spec: DecodeSpec) -> Picture:
    """Read a picture, or return the last one of this thread where that is of the same bytes."""
    last: tuple[bytes, Picture] | None = getattr(_near, "last", None)
    if last is None or last[0] is not data:
        _near.last = last = None  # two at once would take twice the memory
        _near.last = last = data, _read(data, spec)
    return last[1]


def _turn(picture: Picture, spec: DecodeSpec) -> Picture:
    """Turn a picture as its file asks, if that is to be heeded."""
    if picture.turn is None or spec.orient != "exif":
        return picture
    image = picture.image.transpose(picture.turn)
    size = _turn_size(picture.size, picture.turn)
    return replace(picture, image=image, size=size, turn=None)


def _cut(picture: Picture, box: tuple[int, int, int, int]) -> Picture:
    """Cut a box out of a whole picture; ImageError where it does not lie inside."""
    (x, y, width, height), size = box, picture.size
    if min(width, height) < 1:
        raise ImageError(f"box {x},{y},{width},{height} is empty or reversed")
    if min(x, y) < 0 or x + width > size[0] or y + height > size[1]:
        where = f"{size[0]} x {size[1]} pixels"
        raise ImageError(f"box {x},{y},{width},{height} reaches out of the image of {where}")
    image = picture.image.crop((x, y, x + width, y + height))
    return replace(picture, image=image, size=image.size, turn=None)


def _center(image: Image.Image, size: Size) -> Image.Image:
    """Put a picture in the middle of a black canvas."""
    if image.size == size:
        return image
    canvas = Image.new(image.mode, size)
    canvas.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return canvas


def _turn_size(size: Size, turn: Transpose | None) -> Size:
    """Return the size of a picture after a turn."""
    return size[::-1] if turn in _ON_SIDE else size


def _choose_scale(size: Size, turn: Image.Transpose | None, *, spec: DecodeSpec) -> int:
    if spec.resize == "nearest" or spec.resize.startswith(KERAS):
        return 1  # they take single pixels, which a reduced picture no longer has
    if spec.orient == "exif":
        size = _turn_size(size, turn)
    (left, top, right, bottom), (width, height) = _place(size, spec)
    room = min((right - left) // (_MARGIN * width), (bottom - top) // (_MARGIN * height))
    return next((scale for scale in _SCALES if scale <= room), 1)


def _resize(picture: Picture, spec: DecodeSpec) -> Image.Image:
    image, size, turn = picture.image, picture.size, None
    if picture.turn is not None and spec.orient == "exif":
        turn = picture.turn
        image, size = image.transpose(turn), _turn_size(size, turn)
    if spec.color == "grayscale":
        image = image.convert("L")
    if spec.resize.startswith(KERAS):
        return _resize_as_keras(image, spec)
    in_file, placed = _place(size, spec)
    # In pixels of the reduced image, to the fraction of one.
    left = image.width - size[0] / picture.scale if turn in _FROM_RIGHT else 0
    top = image.height - size[1] / picture.scale if turn in _FROM_BELOW else 0
    x, y, right, bottom = (edge / picture.scale for edge in in_file)
    box = (left + x, top + y, left + right, top + bottom)
    image = image.resize(placed, Image.Resampling[RESIZE_METHODS[spec.resize]], box=box)
    return _center(image, (spec.width, spec.height))


def _resize_as_keras(image: Image.Image, spec: DecodeSpec) -> Image.Image:
    pixels, size = np.asarray(image), (spec.height, spec.width)
    if spec.resize_mode == "crop":
        pixels = crop(pixels, size)
    if spec.resize_mode == "pad":
        pixels = pad(pixels, size, most=spec.max_pixels)
    return Image.fromarray(resample(pixels, size, spec.resize.removeprefix(KERAS)))


def _place(size: Size, spec: DecodeSpec) -> tuple[Box, Size]:
    """Say which part of a picture is resized to which size."""
    return RESIZE_MODES[spec.resize_mode](size, (spec.width, spec.height))
