"""Open features.h5, and read which images it is about, checking all that is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from permafrost.cache.errors import CacheError, DamagedError, NotAViewError
from permafrost.cache.hdf5.opening import check_kind, has_node, open_node
from permafrost.cache.hdf5.sealed import read_array, read_text
from permafrost.cache.hdf5.strings import unescape_name
from permafrost.cache.views.pointers import read_texts
from permafrost.refusals import raise_refusal

_OWN_COLUMNS = ("path", "label", "split")


class ImageTable:
    """The images of an open ``features.h5``.

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
            raise_refusal(error, path)
            raise NotAViewError(
                f"{str(path)!r} is not a readable HDF5 file ({error}); name what extract wrote"
            ) from error
        with self._naming_damage():
            if has_node(self._file, "images/digest"):
                check_kind(self._open("images/digest"), ("uint8",), row_shape=(32,))
                return
        self._file.close()
        raise NotAViewError(f"{str(path)!r} is no features file: it has no /images/digest")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        """How many images."""
        with self._naming_damage():
            return len(self._open("images/digest"))

    @property
    def root(self) -> str:
        """Where the images' paths start from, as it was named when they were read."""
        with self._naming_damage():
            return read_text(self._open("images"), "root")

    @property
    def place(self) -> str:
        """Where the images' paths start from, as seen from here.

        A relative `root` starts from the folder where extract ran. Where it is not there, or not
        known, as in files of the first versions, it may lie here, beside the file or above it.
        """
        root = self.root
        if "://" in root or Path(root).is_absolute():
            return root
        with self._naming_damage():
            images = self._open("images")
            base = read_text(images, "base") if "base" in images.attrs else None
        folders = [] if base is None else [folder / base for folder in self._list_folders()]
        folders += [Path(), *self.path.absolute().parents]
        places = [os.path.normpath(folder / root) for folder in folders]
        found = next(filter(os.path.exists, places), places[0])
        is_here = os.path.abspath(found) == os.path.abspath(root)  # noqa: PTH100 - folds ".."
        return root if is_here else found

    @property
    def origin(self) -> str:
        """How the features were asked for, as `write_view` was told."""
        with self._naming_damage():
            return read_text(self._file, "origin") if "origin" in self._file.attrs else ""

    @cached_property
    def paths(self) -> list[str]:
        """POSIX paths, relative to `root`."""
        return self._column("images/path")

    @cached_property
    def labels(self) -> list[str]:
        """Labels; ``""`` where there is none."""
        return self._column("images/label")

    @cached_property
    def splits(self) -> list[str]:
        """``"train"``, ``"val"``, ``"test"`` or ``""``."""
        return self._column("images/split")

    @property
    def columns(self) -> list[str]:
        """The names of the further columns of the dataset's table, sorted."""
        return sorted(self._column_nodes)

    def column(self, name: str) -> list[str]:
        """Return a column of the dataset's table.

        Parameters
        ----------
        name : str
            One of `columns`, or ``"path"``, ``"label"`` or ``"split"``.

        Returns
        -------
        list of str, length n
            ``""`` where the table has nothing.

        Raises
        ------
        NotAViewError
            There is no such column.
        """
        if name in _OWN_COLUMNS:
            return self._column(f"images/{name}")
        if name not in self._column_nodes:
            there = ", ".join(map(repr, (*_OWN_COLUMNS, *self.columns)))
            raise NotAViewError(f"{str(self.path)!r} has no column {name!r}; it has: {there}")
        return self._column(f"images/columns/{self._column_nodes[name]}")

    @cached_property
    def _column_nodes(self) -> dict[str, str]:
        """The name of each further column's dataset."""
        with self._naming_damage():
            if not has_node(self._file, "images/columns"):
                return {}
            return {unescape_name(node): node for node in self._open("images/columns")}

    @cached_property
    def digests(self) -> np.ndarray:
        """SHA-256 of each image file: ndarray of uint8, shape (n, 32)."""
        with self._naming_damage():
            return read_array(self._open("images/digest"))

    def _list_folders(self) -> tuple[Path, Path]:
        """List the folders that the file's relative paths may start from.

        A link leads to the file where it was written; or, as DVC's do, into a store, from the place
        where it was written.
        """
        return self.path.resolve().parent, self.path.parent.resolve()

    def _open(self, name: str) -> h5py.Dataset | h5py.Group:
        return open_node(self._file, name)

    def _column(self, name: str) -> list[str]:
        with self._naming_damage():
            return read_texts(self._file, name, n_rows=len(self))

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except CacheError:
            raise
        except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
            raise_refusal(error, self.path)
            raise DamagedError(f"{str(self.path)!r} is damaged: {error}") from error
