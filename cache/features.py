"""Read features.h5, following its pointers into the shards and checking all that is read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from cache.errors import CacheError, DamagedError, MissingShardError, NotAViewError
from cache.gather import gather_rows
from cache.key import Recipe
from cache.store import RowLocations
from cache.view import split_rows


class Features:
    """An open ``features.h5``.

    Parameters
    ----------
    path : Path

    Raises
    ------
    NotAViewError
        There is no such file, or it is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = h5py.File(path, "r", locking=False)
        except FileNotFoundError as error:
            raise NotAViewError(f"there is no {str(path)!r}; make it with: extract") from error
        except OSError as error:
            raise NotAViewError(f"{str(path)!r} is not a readable HDF5 file ({error})") from error
        if "images/digest" not in self._file:
            self._file.close()
            raise NotAViewError(f"{str(path)!r} is no features file: it has no /images/digest")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        """How many images."""
        return len(self._file["images/digest"])

    @property
    def root(self) -> str:
        """Where the images' paths start from."""
        return _decode(self._file["images"].attrs["root"])

    @property
    def origin(self) -> str:
        """How the features were asked for, as `write_view` was told."""
        return _decode(self._file.attrs.get("origin", ""))

    @cached_property
    def paths(self) -> list[str]:
        """POSIX paths, relative to `root`."""
        return self._strings("images/path")

    @cached_property
    def labels(self) -> list[str]:
        """Labels; ``""`` where there is none."""
        return self._strings("images/label")

    @cached_property
    def splits(self) -> list[str]:
        """``"train"``, ``"val"``, ``"test"`` or ``""``."""
        return self._strings("images/split")

    @cached_property
    def digests(self) -> np.ndarray:
        """SHA-256 of each image file: ndarray of uint8, shape (n, 32)."""
        with self._naming_damage():
            digests: np.ndarray = self._file["images/digest"][()]
            return digests

    @cached_property
    def layers(self) -> list[str]:
        """The layer specs, sorted."""
        found: set[str] = set()
        for top, holds in (("features", h5py.Dataset), ("rows", h5py.Group)):
            if top in self._file:
                _collect_nodes(self._file[top], "", holds, found)
        return sorted(found)

    def recipe(self, layer: str) -> Recipe:
        """Return what the layer's numbers were computed with."""
        recipe: Recipe = json.loads(self._node(layer).attrs["recipe"])
        return recipe

    def shape(self, layer: str) -> tuple[int, ...]:
        """Return the shape of one row."""
        node = self._node(layer)
        if isinstance(node, h5py.Dataset):
            return tuple(node.shape[1:])
        return tuple(int(n) for n in node.attrs["shape"])

    def dtype(self, layer: str) -> np.dtype[Any]:
        """Return the dtype of the stored values."""
        node = self._node(layer)
        dtype = node.dtype if isinstance(node, h5py.Dataset) else node.attrs["dtype"]
        return np.dtype(str(dtype))

    def row_bytes(self, layer: str) -> int:
        """Return the bytes of one row."""
        return math.prod(self.shape(layer)) * self.dtype(layer).itemsize

    def read(self, layer: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Read rows of a layer into memory.

        Parameters
        ----------
        layer : str
            As in `layers`.
        rows : ndarray of int, shape (m,), optional
            Which rows, in which order; all of them by default.

        Returns
        -------
        ndarray, shape (m, *shape)

        Raises
        ------
        MissingShardError, DamagedError
            A value could not be read as it was written.
        """
        wanted = np.arange(len(self)) if rows is None else np.asarray(rows)
        out = np.empty((len(wanted), *self.shape(layer)), self.dtype(layer))
        node = self._node(layer)
        if isinstance(node, h5py.Dataset):
            with self._naming_damage():
                _read_values(node, wanted, out)
        else:
            self._follow(layer, node, wanted, out)
        return out

    def iterate(self, layer: str) -> Iterator[np.ndarray]:
        """Yield the layer's rows in order, in blocks of a bounded size."""
        for start, stop in split_rows(len(self), self.row_bytes(layer)):
            yield self.read(layer, np.arange(start, stop))

    def _follow(self, layer: str, node: h5py.Group, rows: np.ndarray, out: np.ndarray) -> None:
        folder = self.path.resolve().parent / _decode(node.attrs["folder"])
        try:
            gather_rows(
                folder,
                key=node.attrs["key"],
                locations=self._locations(layer).select(rows),
                digests=self.digests[rows],
                out=out,
            )
        except MissingShardError as error:
            raise MissingShardError(
                f"{error}; repeat the extract that wrote {str(self.path)!r}:"
                " it computes only what is missing"
            ) from error

    def _locations(self, layer: str) -> RowLocations:
        node = self._node(layer)
        with self._naming_damage():
            return RowLocations(
                shards=self._strings(f"rows/{layer}/shards"),
                shard=node["shard"][()],
                row=node["row"][()],
            )

    def _node(self, layer: str) -> h5py.Dataset | h5py.Group:
        """Return the pointers of a layer, or the dataset with its values."""
        if layer not in self.layers:
            raise NotAViewError(
                f"{str(self.path)!r} has no layer {layer!r}; it has: {', '.join(self.layers)}"
            )
        with self._naming_damage():
            name = f"rows/{layer}" if f"rows/{layer}" in self._file else f"features/{layer}"
            return self._file[name]

    def _strings(self, name: str) -> list[str]:
        with self._naming_damage():
            return [_decode(text) for text in self._file[name][()].tolist()]

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except CacheError:
            raise
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise DamagedError(f"{str(self.path)!r} is damaged: {error}") from error


def _decode(text: bytes | str) -> str:
    return text if isinstance(text, str) else bytes(text).decode(errors="surrogateescape")


def _collect_nodes(group: h5py.Group, prefix: str, holds: Any, found: set[str]) -> None:
    """Collect the layers below a group; a nested layer's name has slashes and so subgroups."""
    for name in group:
        node = group[name]
        if isinstance(node, holds) and "recipe" in node.attrs:
            found.add(prefix + name)
        elif isinstance(node, h5py.Group):
            _collect_nodes(node, f"{prefix}{name}/", holds, found)


def _read_values(dataset: h5py.Dataset, rows: np.ndarray, out: np.ndarray) -> None:
    if len(rows) == 0:
        return
    if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        dataset.read_direct(out, np.s_[int(rows[0]) : int(rows[-1]) + 1])
        return
    unique, inverse = np.unique(rows, return_inverse=True)
    out[...] = dataset[unique][inverse]
