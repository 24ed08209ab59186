"""From uint8 pixels to a network's input: the view, and the scaling of each family."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.numbers import parse_number

# Each way of turning an image: whether rows become columns, and which axes are reversed then.
_TURNS = {
    "identity": (False, ()),
    "hflip": (False, (2,)),
    "vflip": (False, (1,)),
    "rot90": (True, (1,)),
    "rot180": (False, (1, 2)),
    "rot270": (True, (2,)),
}
VIEWS = tuple(_TURNS)
PREPROCESS_MODES = ("caffe", "tf", "torch", "none")
# What stands for a mode where people bring their own figures.
OWN_MODE = "mean=R,G,B,std=R,G,B"

# Facts of keras.applications.imagenet_utils: the means and deviations of ImageNet's channels.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
TORCH_MEAN_RGB = (0.485, 0.456, 0.406)
TORCH_DEVIATION_RGB = (0.229, 0.224, 0.225)

_COLOUR_MODES = ("caffe", "torch")
_CHANNEL_AXIS = 3


def parse_mode(text: str) -> str:
    """Read a mode; figures of one's own are written in one way, whichever way they were typed.

    Parameters
    ----------
    text : str
        One of `PREPROCESS_MODES`, ``"auto"``, or as ``"mean=123.68,116.78,103.94,std=58,57,57"``:
        of each channel, in RGB from 0 to 255, what to subtract, and what to divide by then; that is
        1 by default. One figure each is for grey images.

    Raises
    ------
    UnknownNameError, InputError
        It is neither.
    """
    plain = text.strip()
    if not re.match(r"(mean|std)\s*=", plain):
        known = ("auto", *PREPROCESS_MODES)
        if plain not in known:
            raise UnknownNameError("preprocessing", text, known, remedy=f"or write {OWN_MODE}")
        return plain
    match = re.fullmatch(r"mean\s*=([^=]+?)(?:,\s*std\s*=([^=]+))?", plain)
    if match is None:
        raise InputError(f"cannot read --preprocess {text!r}; write it as {OWN_MODE}")
    mean = _parse_figures(match[1], text)
    std = _parse_figures(match[2], text) if match[2] else [1.0] * len(mean)
    if len(std) != len(mean):
        raise InputError(
            f"--preprocess {text!r} has {len(mean)} means and {len(std)} deviations; write one of"
            f" each for every channel, as {OWN_MODE}"
        )
    if np.float32(min(std)) <= 0:
        raise InputError(f"--preprocess {text!r}: std {min(std):g} must be above 0")
    return f"mean={_write_figures(mean)},std={_write_figures(std)}"


def _parse_figures(text: str, whole: str) -> list[float]:
    try:
        figures = [parse_number(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--preprocess {whole!r}: {error}; write it as {OWN_MODE}") from None
    return figures


def _write_figures(figures: list[float]) -> str:
    # So that 123.680 is 123.68, 124.0 is 124, and -0 is 0.
    return ",".join(repr(figure + 0.0).removesuffix(".0") for figure in figures)


def parse_views(views: str | Sequence[str]) -> str:
    """Read views, ``"identity,hflip"`` or a sequence of names; repeated ones count once.

    Raises
    ------
    UnknownNameError
        One that there is not; the nearest are proposed.
    """
    names = views.split(",") if isinstance(views, str) else views
    found = dict.fromkeys(name.strip() for name in names) or {"": None}
    for name in found:
        if name not in VIEWS:
            raise UnknownNameError("view", name, VIEWS)
    return ",".join(found)


def check_view(view: str, size: tuple[int, int]) -> None:
    """Raise InputError unless images of a height and width still have them in a view."""
    if _TURNS[view][0] and size[0] != size[1]:
        raise InputError(
            f"--view {view} needs square images, and these are {size[0]}x{size[1]}; give --size one"
            " number"
        )


def turn(xp: Any, images: Any, view: str) -> Any:
    """Return a view of images, the same pixels elsewhere.

    Parameters
    ----------
    xp : module
        NumPy, or `keras.ops`.
    images : array or tensor, shape (n, height, width, channels)
    view : str
        One of `VIEWS`: ``"hflip"`` is the mirror image, left and right exchanged, ``"vflip"`` has
        top and bottom exchanged, and the others are rotations, in degrees counterclockwise, as
        those of `numpy.rot90`.
    """
    if view not in _TURNS:
        raise UnknownNameError("view", view, VIEWS)
    transposes, axes = _TURNS[view]
    if transposes:
        images = xp.transpose(images, axes=(0, 2, 1, 3))
    for axis in axes:  # one after the other, since OpenVINO reverses no two at once
        images = xp.flip(images, axis=axis)
    return images


def check_mode(mode: str, n_channels: int | None) -> None:
    """Raise InputError unless a mode, as `parse_mode` gives it, is for so many channels."""
    if mode in _COLOUR_MODES and n_channels != 3:
        raise InputError(f"preprocessing {mode!r} needs 3 channels; use tf or none")
    n_figures = mode.partition(",std=")[0].count(",") + 1
    if mode.startswith("mean=") and n_figures != n_channels:
        raise InputError(
            f"preprocessing {mode!r} is for {n_figures} channels, and the images have {n_channels};"
            " give a mean and a deviation of each"
        )


def preprocess(images: Any, *, mode: str, view: str) -> Any:
    """Turn images and scale their pixels as the backbone's family was trained with.

    Of Keras' operations alone, so that it is the same in a graph of TensorFlow's, on each backend
    of Keras', and in an exported model.

    Parameters
    ----------
    images : tensor of uint8, shape (n, height, width, channels)
        RGB, or grey; of the backend, or symbolic.
    mode : str
        ``"caffe"``: BGR less the mean; ``"tf"``: -1 to 1; ``"torch"``: 0 to 1, standardised by
        channel; ``"none"``: 0 to 255; figures of one's own as `parse_mode` gives them.
    view : str
        As for `turn`.

    Returns
    -------
    tensor of float32, shape (n, height, width, channels)

    Raises
    ------
    UnknownNameError
        A mode or view that there is not.
    InputError
        A mode for other channels than the images have.
    """
    from keras import ops

    if mode == "auto" or parse_mode(mode) != mode:
        raise UnknownNameError("preprocessing", mode, PREPROCESS_MODES)
    check_mode(mode, images.shape[_CHANNEL_AXIS])
    # While they are bytes: 4 times as fast as turning what they become.
    images = turn(ops, images, view)
    if mode == "caffe":
        images = ops.flip(images, axis=_CHANNEL_AXIS)
    pixels = ops.cast(images, "float32")
    if mode == "caffe":
        return pixels - np.array(CAFFE_MEAN_BGR, np.float32)
    if mode == "tf":
        return pixels / 127.5 - 1.0
    if mode == "torch":
        mean, deviation = np.array((TORCH_MEAN_RGB, TORCH_DEVIATION_RGB), np.float32)
        return (pixels / 255.0 - mean) / deviation
    if mode.startswith("mean="):
        texts = mode.removeprefix("mean=").split(",std=")
        mean, deviation = np.array([text.split(",") for text in texts]).astype(np.float32)
        return (pixels - mean) / deviation
    return pixels
