"""3x3 convolutions by Winograd's minimal filtering: a quarter to a half of the multiplications.

F(4, 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016,
arXiv:1509.09308): 4 neighbouring outputs of a filter of 3 taps come from 6 inputs with 6
multiplications instead of 12. On both axes of an image that is 36 a channel pair and 4x4 tile
instead of 144; on one axis 72. TensorFlow's CPU kernels do without it and run VGG16 at the
processor's peak of multiplications already, so here is the only time left to gain.

On both axes, 36/16 values are moved for each one; on one axis 6/4, and rounding is amplified far
less. So float32 uses both axes where there are channels enough to pay for that, and half precision
one. Against the direct convolution of one layer, float32 differs by 2e-6 of the largest value, and
bfloat16 by 1e-2, where the direct one is off by 4e-3 itself. On both axes that would be 2e-2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from permafrost.stages.shortcuts.choice import Hold
from permafrost.stages.shortcuts.half_precision import round_to

# The matrices of F(4, 3) on the points 0, 1, -1, 1/2, -2 and infinity. The usual 0, 1, -1, 2, -2
# round three times as badly, as Barabasz et al. found: "Error Analysis and Improving the Accuracy
# of Winograd Convolution for Deep Neural Networks" (ACM TOMS 46, 2020, arXiv:1803.10986).
_INPUT = np.array(
    [
        [1, -3 / 2, -2, 3 / 2, 1, 0],
        [0, -1, 1 / 2, 5 / 2, 1, 0],
        [0, 1, -5 / 2, 1 / 2, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 1 / 2, -1, -1 / 2, 1, 0],
        [0, 1, -3 / 2, -2, 3 / 2, 1],
    ]
)
_KERNEL = np.array(
    [
        [1, 0, 0],
        [1 / 3, 1 / 3, 1 / 3],
        [-1 / 3, 1 / 3, -1 / 3],
        [-16 / 15, -8 / 15, -4 / 15],
        [1 / 15, -2 / 15, 4 / 15],
        [0, 0, 1],
    ]
)
_OUTPUT = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 1 / 2, -2, 0],
        [0, 1, 1, 1 / 4, 4, 0],
        [0, 1, -1, 1 / 8, -8, 1],
    ]
)
# The row of the point 1, whose product every output takes once.
_POINT_1 = 1
_TAPS = 3
_TILE = 4
_PATCH = 6
# With fewer channels, moving the tiles about costs more than the multiplications it saves.
_MIN_CHANNELS = 64
_MIN_CHANNELS_OF_BOTH_AXES = 128


@contextmanager
def replacing_convolutions(
    layers: Iterable[Any],
    *,
    values: Mapping[int, np.ndarray],
    hold: Hold,
    n_axes: int,
    precision: str = "float32",
) -> Iterator[None]:
    """Make the Keras layers that gain from it convolve by Winograd while they are traced.

    Parameters
    ----------
    layers, values, hold, precision
        As for `stages.shortcuts.batchnorm.folding_normalizations`.
    n_axes : int
        1 or 2: on how many axes of the image, where there are channels enough.
    """
    # A layer that is used twice is listed twice.
    replaced = [layer for layer in dict.fromkeys(layers) if gains(layer, precision)]
    biased = [layer for layer in replaced if layer.use_bias]
    for layer in replaced:
        layer.convolution_op = _replace(layer, values=values, hold=hold, n_axes=n_axes)
    for layer in biased:
        layer.use_bias = False  # Now added within, where it costs less.
    try:
        yield
    finally:
        for layer in replaced:
            del layer.convolution_op
        for layer in biased:
            layer.use_bias = True


def gains(layer: Any, precision: str) -> bool:
    """Tell whether a Keras layer that computes in a precision is one to be replaced."""
    import keras

    if type(layer) is not keras.layers.Conv2D or not layer.built:
        return False
    return bool(
        layer.kernel_size == (_TAPS, _TAPS)
        and layer.strides == (1, 1)
        and layer.dilation_rate == (1, 1)
        and layer.groups == 1
        and layer.padding in ("same", "valid")
        and layer.data_format == "channels_last"
        and (layer.compute_dtype, layer.variable_dtype) == (precision, "float32")
        and min(layer.kernel.shape[2:]) >= _MIN_CHANNELS
    )


def _replace(
    layer: Any, *, values: Mapping[int, np.ndarray], hold: Hold, n_axes: int
) -> Callable[..., Any]:
    """Return what a layer calls instead of its ``convolution_op``."""
    import tensorflow as tf

    kernel, directly = values[id(layer.kernel)], layer.convolution_op

    def hold_rounded(array: np.ndarray) -> Any:
        return hold(round_to(array, layer.compute_dtype))

    bias = (
        hold_rounded(values[id(layer.bias)])
        if layer.use_bias
        else tf.zeros(layer.filters, layer.compute_dtype)
    )
    both_axes = n_axes > 1 and max(kernel.shape[2:]) >= _MIN_CHANNELS_OF_BOTH_AXES
    if both_axes:
        convolve_so, held = convolve, hold_rounded(transform_kernel(kernel))
    else:
        convolve_so = convolve_rows
        held = [hold_rounded(part) for part in transform_kernel_rows(kernel)]

    def convolution_op(inputs: Any, kernel: Any) -> Any:
        if None in tuple(inputs.shape[1:]):
            return tf.nn.bias_add(directly(inputs, kernel), bias)
        return convolve_so(inputs, held, bias, padding=layer.padding)

    return convolution_op


def convolve(inputs: Any, transformed: Any, bias: Any, *, padding: str = "same") -> Any:
    """Convolve with stride 1, as ``tf.nn.conv2d`` does, by F(4x4, 3x3).

    Parameters
    ----------
    inputs : tf.Tensor of float32, shape (n, height, width, channels)
        Height, width and channels are static.
    transformed : tf.Tensor of float32, shape (36, channels, filters)
        The kernel, as `transform_kernel` gave it.
    bias : tf.Tensor of float32, shape (filters,)
    padding : {"same", "valid"}

    Returns
    -------
    tf.Tensor of float32, shape (n, height, width, filters)
        Two rows and columns less with "valid" padding.
    """
    import tensorflow as tf

    (height, tall, down), (width, wide, across) = (
        _lay_tiles(int(size), padding) for size in inputs.shape[1:3]
    )
    padded = tf.pad(inputs, [[0, 0], tall, wide, [0, 0]])
    _, channels, filters = transformed.shape
    # Of each place in a patch, which pixel of the image it is in each tile.
    pixels = down[:, None, :, None] * padded.shape[2] + across[:, None, :]
    patches = _gather(padded, pixels.reshape(_PATCH**2, -1), row_values=channels)
    moved = tf.matmul(_both_axes(_INPUT), patches)
    products = tf.matmul(tf.reshape(moved, [_PATCH**2, -1, channels]), transformed)
    tiles = tf.matmul(_both_axes(_OUTPUT), tf.reshape(products, [_PATCH**2, -1]))
    n_tiles = (down.shape[1], across.shape[1])
    tiles = tf.reshape(tiles, [_TILE, _TILE, -1, *n_tiles, filters])
    image = tf.transpose(tiles, [2, 3, 0, 4, 1, 5])
    image = tf.reshape(image, [-1, *(_TILE * n for n in n_tiles), filters])
    return tf.nn.bias_add(image[:, :height, :width], bias)


def convolve_rows(inputs: Any, transformed: list[Any], bias: Any, *, padding: str = "same") -> Any:
    """Convolve with stride 1, as ``tf.nn.conv2d`` does, by F(4, 3) down the image.

    Across the image, each of the 6 transformed rows of a patch is convolved directly.

    Parameters
    ----------
    inputs, bias, padding
        As for `convolve`, which returns the same; here in half precision, too.
    transformed : list of 6 tf.Tensor, shape (1, 3, channels, filters)
        The kernel, as `transform_kernel_rows` gave it, of the dtype of the inputs.
    """
    import tensorflow as tf

    height, tall, down = _lay_tiles(int(inputs.shape[1]), padding)
    row_shape = tuple(inputs.shape[2:])
    padded = tf.pad(inputs, [[0, 0], tall, [0, 0], [0, 0]])
    patches = _gather(padded, down, row_values=int(np.prod(row_shape)))
    moved = tf.matmul(tf.constant(_INPUT, inputs.dtype), patches)
    moved = tf.reshape(moved, [_PATCH, -1, down.shape[1], *row_shape])
    products = [
        tf.nn.conv2d(rows, kernel, 1, padding.upper())
        for rows, kernel in zip(tf.unstack(moved), transformed, strict=True)
    ]
    # Each output has the product of the point 1 once: what is added there reaches all of them, and
    # TensorFlow adds it within the convolution.
    products[_POINT_1] = tf.nn.bias_add(products[_POINT_1], bias)
    width, filters = products[0].shape[2:]
    stacked = tf.reshape(tf.stack(products), [_PATCH, -1])
    rows = tf.matmul(tf.constant(_OUTPUT, inputs.dtype), stacked)
    image = tf.transpose(
        tf.reshape(rows, [_TILE, -1, down.shape[1], width, filters]), [1, 2, 0, 3, 4]
    )
    image = tf.reshape(image, [-1, _TILE * down.shape[1], width, filters])
    return image[:, :height]


def _lay_tiles(size: int, padding: str) -> tuple[int, tuple[int, int], np.ndarray]:
    """Lay tiles along an axis.

    Returns
    -------
    n_outputs : int
    padding : tuple of int
        Before and after.
    positions : ndarray of int, shape (6, n_tiles)
        Of each place in a patch, which padded position it is in each tile.
    """
    border = int(padding == "same")
    n_outputs = size + 2 * border - (_TAPS - 1)
    n_tiles = -(-n_outputs // _TILE)
    after = _TILE * n_tiles + _TAPS - 1 - size - border
    positions = np.arange(_PATCH)[:, None] + _TILE * np.arange(n_tiles)
    return n_outputs, (border, after), positions


def _gather(padded: Any, positions: np.ndarray, *, row_values: int) -> Any:
    """Copy overlapping patches, by one read and one write of each.

    Parameters
    ----------
    padded : tf.Tensor, shape (n, …)
    positions : ndarray of int, shape (n_places, n_tiles)
        In an image, in units of `row_values`.
    row_values : int

    Returns
    -------
    tf.Tensor, shape (n_places, n * n_tiles * row_values)
    """
    import tensorflow as tf

    n_rows = int(np.prod(padded.shape[1:])) // row_values
    image = tf.range(tf.shape(padded)[0]) * n_rows
    rows = tf.constant(positions[:, None], tf.int32) + tf.reshape(image, [-1, 1])
    patches = tf.gather(tf.reshape(padded, [-1, row_values]), tf.reshape(rows, [-1]))
    return tf.reshape(patches, [len(positions), -1])


def transform_kernel(kernel: np.ndarray) -> np.ndarray:
    """Transform a kernel, shape (3, 3, channels, filters), once for all images, for `convolve`.

    Returns
    -------
    ndarray of float32, shape (36, channels, filters)
    """
    transformed: np.ndarray = _both_axes(_KERNEL) @ kernel.reshape(_TAPS**2, -1)
    return transformed.reshape(_PATCH**2, *kernel.shape[2:])


def transform_kernel_rows(kernel: np.ndarray) -> np.ndarray:
    """Transform a kernel, as `transform_kernel`, but for `convolve_rows`.

    Returns
    -------
    ndarray of float32, shape (6, 1, 3, channels, filters)
    """
    transformed: np.ndarray = _KERNEL.astype(np.float32) @ kernel.reshape(_TAPS, -1)
    return transformed.reshape(_PATCH, 1, *kernel.shape[1:])


def _both_axes(matrix: np.ndarray) -> np.ndarray:
    return np.kron(matrix, matrix).astype(np.float32)
