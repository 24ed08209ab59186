"""Images of any number of channels of 8 bits: NumPy's arrays, and TIFF files of a page each."""

from __future__ import annotations

import io
from math import prod

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from permafrost.stages.decoding.formats import open_tiff
from permafrost.stages.errors import ImageError

_ARRAY_MAGIC = b"\x93NUMPY"
# What Pillow holds of a picture.
_BYTES_PER_PIXEL = 4


def read_planes(data: bytes, n_channels: int, *, max_pixels: int) -> list[Image.Image]:
    """Read an image's channels, each as a picture in mode "L", all of one size.

    Parameters
    ----------
    data : bytes
    n_channels : int
    max_pixels : int
        All channels together may have four times as many values.

    Returns
    -------
    list of Image.Image
        None where the file is neither an array nor a TIFF of so many pages.

    Raises
    ------
    ImageError
        It is one, and cannot be read or has other values or channels; the message is the reason.
    """
    if data.startswith(_ARRAY_MAGIC):
        array = _read_array(data, n_channels, max_pixels)
        return [Image.fromarray(array[..., channel]) for channel in range(n_channels)]
    if n_channels in (1, 3):
        return []  # as Keras, of the first page
    file = open_tiff(data, max_pixels=max_pixels * _BYTES_PER_PIXEL // n_channels)
    if file is None:
        return []
    try:
        return _read_pages(file, n_channels)
    except (ImageError, MemoryError):
        raise
    # On garbage, Pillow raises anything from SyntaxError to struct.error.
    except Exception as error:
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise ImageError(f"unreadable TIFF file (Pillow: {said})") from error


def _read_pages(file: TiffImageFile, n_pages: int) -> list[Image.Image]:
    if file.n_frames != n_pages:
        return []
    pages = []
    for page in range(n_pages):
        size = file.size
        file.seek(page)
        if file.mode != "L" or (page and file.size != size):
            raise ImageError(
                f"page {page} is {file.width} x {file.height} {file.mode}; pages that are channels"
                " are grey, of 8 bits, and of one size"
            )
        pages.append(file.copy())
    return pages


def _read_array(data: bytes, n_channels: int, max_pixels: int) -> NDArray[np.uint8]:
    """Read an array of shape (height, width, n_channels), or (height, width) if that is one."""
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, column_major, dtype = read(stream)
    # On garbage, NumPy raises anything from ValueError to SyntaxError.
    except Exception as error:
        raise ImageError("unreadable array of NumPy: its header is damaged") from error
    if dtype != np.uint8 or column_major:
        order = "column by column" if column_major else str(dtype)
        raise ImageError(f"an array of {order}; images are uint8, row by row (C order)")
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3 or shape[2] != n_channels or min(shape) < 1:
        raise ImageError(
            f"an array of shape {shape}; the backbone takes (height, width, {n_channels})"
        )
    if prod(shape) > max_pixels * _BYTES_PER_PIXEL:
        raise ImageError(f"too large: {prod(shape)} values, limit {max_pixels * _BYTES_PER_PIXEL}")
    values = np.frombuffer(data, np.uint8, offset=stream.tell())
    if len(values) != prod(shape):
        raise ImageError(f"truncated file: {len(values)} values of {prod(shape)}")
    return values.reshape(shape)
