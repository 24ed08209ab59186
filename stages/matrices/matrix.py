"""Matrices of features, one row an image, that may be larger than memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from permafrost.stages.errors import InputError

Rows = NDArray[np.int64]

_MAP_AXES = 3
# Bytes of rows that are read at a time; larger blocks are no faster.
BLOCK_BYTES = 32 * 2**20


def find_dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
    """Return what `read_stored` makes of values of a dtype."""
    return stored if stored.kind == "f" else np.dtype(np.float32)


def read_stored(values: NDArray[Any]) -> NDArray[Any]:
    """Return stored values as what heads learn from: the bytes of images as 0 to 1."""
    if values.dtype.kind == "f":
        return values
    scaled: NDArray[np.float32] = np.divide(values, np.float32(255), dtype=np.float32)
    return scaled


class TextEmbeddings(Protocol):
    """Texts as a backbone's text tower understands them."""

    @property
    def vectors(self) -> NDArray[np.float32]:
        """In the space of the image embeddings, of any length: shape (n_texts, n_features)."""

    @property
    def scale(self) -> float:
        """What the backbone multiplies the cosine of an image and a text by."""

    @property
    def bias(self) -> float | None:
        """What it adds, for the log odds that the two belong together; none where it does not."""


class LayersAbove(Protocol):
    """What a backbone has besides the layer that rows are of, for heads that are made of it.

    Of an image embedding that may be a text tower.
    """

    @property
    def has_texts(self) -> bool:
        """Whether texts can be compared with the rows."""

    def digest_texts(self) -> str:
        """Return a digest of all that `embed_texts` depends on, besides the texts."""

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Run texts through the text tower.

        Raises
        ------
        StageError
            The backbone has none, or cannot be had any more.
        """

    def digest(self, *, until: str) -> str:
        """Return a digest of all that `build` would be made of."""

    def build(self, *, until: str) -> Any:
        """Return a Keras model with the backbone's weights, from the layer's output on.

        Parameters
        ----------
        until : str
            The last layer of it; ``""`` is the one before the backbone's own pooling.

        Raises
        ------
        StageError
            The layer is none that everything passes, or the backbone cannot be had any more.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOrigin:
    """What a row of a matrix was before it was flattened.

    Attributes
    ----------
    shape : tuple of int
        Of the activation: ``(height, width, channels)`` of a map.
    above : LayersAbove, optional
        Where rows are the output of one layer, as it is.
    is_image : bool
        Whether they are the images themselves, from 0 to 1.
    """

    shape: tuple[int, ...]
    above: LayersAbove | None = None
    is_image: bool = False

    @property
    def is_map(self) -> bool:
        """Whether it has height, width and channels."""
        return len(self.shape) == _MAP_AXES


def require_texts(origin: RowOrigin, what: str) -> LayersAbove:
    """Return what compares texts with rows.

    Parameters
    ----------
    what : str
        What needs it, for the message.

    Raises
    ------
    InputError
        The rows are no image embeddings of a backbone with a text tower.
    """
    if origin.above is None or not origin.above.has_texts:
        raise InputError(
            f"{what} compares images with texts, for which it needs one layer image_embedding, of a"
            " backbone with a text tower; extract it with a preset of CLIP or SigLIP, as with"
            " --backbone hub:clip_vit_base_patch32 --layers image_embedding"
        )
    return origin.above


class Matrix(Protocol):
    """Features of n rows; only what is asked for is read."""

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and of features in each."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """What is stored: float32 or float16."""

    @property
    def origin(self) -> RowOrigin:
        """What a row was before it was flattened."""

    @property
    def key(self) -> str:
        """Digest of what determines the values, in hex: equal keys, equal matrices."""

    @property
    def widths(self) -> tuple[int, ...]:
        """How many features each of the layers has that stand side by side."""

    def read(self, rows: Rows) -> NDArray[Any]:
        """Read rows in the given order.

        Parameters
        ----------
        rows : ndarray of int64, shape (m,)

        Returns
        -------
        ndarray of `dtype`, shape (m, n_features)
            The caller's own, to change at will.
        """

    def iterate_columns(self, rows: Rows, *, n_bytes: int) -> Iterator[NDArray[Any]]:
        """Yield the columns from left to right, some of them at a time, for all of `rows`.

        Parameters
        ----------
        rows : ndarray of int64, shape (m,)
        n_bytes : int
            What one block may take; at least one column comes each time.

        Yields
        ------
        ndarray of `dtype`, shape (m, k)
        """


class Store(Protocol):
    """Where arrays that were made of a matrix are kept for the next run."""

    def load(self, name: str, /) -> NDArray[Any] | None:
        """Return what was saved as `name`, a hex digest, to change at will; None if nothing."""

    def save(self, name: str, array: NDArray[Any], /) -> None:
        """Keep `array`."""


@dataclass(frozen=True)
class ArrayMatrix:
    """An array in memory or mapped from a file.

    Parameters
    ----------
    values : ndarray of float32 or float16, shape (n_rows, n_features)
    layers : tuple of int, optional
        Its `widths`, where it holds several layers.
    """

    values: NDArray[Any]
    known_origin: RowOrigin | None = None
    layers: tuple[int, ...] = ()

    @property
    def widths(self) -> tuple[int, ...]:
        """How many features each layer has."""
        return self.layers or self.shape[1:]

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, and of features in each."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """What is stored."""
        return self.values.dtype

    @property
    def origin(self) -> RowOrigin:
        """What a row was before it was flattened."""
        return self.known_origin or RowOrigin(shape=self.shape[1:])

    @cached_property
    def key(self) -> str:
        """SHA-256 of shape, dtype and values."""
        digest = hashlib.sha256(f"{self.shape} {self.dtype}".encode())
        digest.update(np.ascontiguousarray(self.values).data)
        return digest.hexdigest()

    def read(self, rows: Rows) -> NDArray[Any]:
        """Read rows in the given order."""
        taken: NDArray[Any] = np.take(self.values, rows, axis=0)
        return taken

    def iterate_columns(self, rows: Rows, *, n_bytes: int) -> Iterator[NDArray[Any]]:
        """Yield the columns from left to right, some of them at a time, for all of `rows`."""
        step = max(1, n_bytes // max(1, len(rows) * self.dtype.itemsize))
        for start in range(0, self.shape[1], step):
            yield self.values[:, start : start + step][rows]


def read_rows(
    matrix: Matrix, rows: Rows, *, dtype: DTypeLike, n_bytes: int = BLOCK_BYTES
) -> NDArray[Any]:
    """Read all of `rows` at once, block by block, since a matrix may copy what it reads."""
    values = np.empty((len(rows), matrix.shape[1]), dtype)
    for positions, block in iterate_rows(matrix, rows, n_bytes=n_bytes):
        values[positions] = block
    return values


def iterate_rows(
    matrix: Matrix, rows: Rows, *, n_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Read rows block by block.

    Yields
    ------
    positions : slice
        Which of `rows` the block holds.
    block : ndarray, shape (m, n_features)
        About `n_bytes`, one row at least.
    """
    step = max(1, n_bytes // max(1, matrix.shape[1] * matrix.dtype.itemsize))
    for start in range(0, len(rows), step):
        positions = slice(start, min(len(rows), start + step))
        yield positions, matrix.read(rows[positions])
