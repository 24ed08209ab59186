"""From uint8 pixels to a network's input: the view, and the scaling of each family."""

from __future__ import annotations

from typing import Any

import numpy as np

from permafrost.stages.errors import InputError, UnknownNameError

VIEWS = ("identity", "hflip")
PREPROCESS_MODES = ("caffe", "tf", "torch", "none")

# Facts of keras.applications.imagenet_utils: the means and deviations of ImageNet's channels.
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
TORCH_MEAN_RGB = (0.485, 0.456, 0.406)
TORCH_DEVIATION_RGB = (0.229, 0.224, 0.225)

_COLOUR_MODES = ("caffe", "torch")
_WIDTH_AXIS, _CHANNEL_AXIS = 2, 3


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
        channel; ``"none"``: 0 to 255.
    view : str
        ``"identity"``, or ``"hflip"`` for the mirror image.

    Returns
    -------
    tensor of float32, shape (n, height, width, channels)

    Raises
    ------
    UnknownNameError
        A mode or view that there is not.
    InputError
        A mode for colours, and grey images.
    """
    from keras import ops

    if view not in VIEWS:
        raise UnknownNameError("view", view, VIEWS)
    if mode not in PREPROCESS_MODES:
        raise UnknownNameError("preprocessing", mode, PREPROCESS_MODES)
    if mode in _COLOUR_MODES and images.shape[_CHANNEL_AXIS] != 3:
        raise InputError(f"preprocessing {mode!r} needs 3 channels; use tf or none")
    # While they are bytes: 4 times as fast as turning what they become. One axis after the other,
    # since OpenVINO reverses no two at once.
    if view == "hflip":
        images = ops.flip(images, axis=_WIDTH_AXIS)
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
    return pixels
