"""The rows of a plan as files in the cache, so that a task need only name their numbers."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.disk.sharing import share
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.texts import Texts

_FILES = ("digests", "paths", "bounds")


def write_rows(folder: Path, *, digests: Digests, paths: Texts) -> None:
    """Write the digests and the paths of n rows into a folder, for `PlanRows`."""
    share(folder)  # first: files are shared as their folder is
    raw = [os.fsencode(path) for path in paths]
    bounds = np.cumsum([0, *map(len, raw)], dtype=np.int64)
    arrays: tuple[NDArray[Any], ...] = (
        digests.array,
        np.frombuffer(b"".join(raw), np.uint8),
        bounds,
    )
    for name, array in zip(_FILES, arrays, strict=True):
        file = folder / f"{name}.npy"
        np.save(file, array, allow_pickle=False)
        share(file)


@dataclass(frozen=True, slots=True)
class PlanRows:
    """Reads the rows that `write_rows` wrote, those that are asked for alone.

    Attributes
    ----------
    digests : ndarray of uint8, shape (n, 32)
    paths : ndarray of uint8
        All of them, one behind the other.
    bounds : ndarray of int64, shape (n + 1,)
        Where each begins, and the last ends.
    """

    digests: NDArray[np.uint8]
    paths: NDArray[np.uint8]
    bounds: NDArray[np.int64]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map the files into memory; `OSError` where they cannot be read."""
        return cls(*(_map(folder / f"{name}.npy") for name in _FILES))

    def __len__(self) -> int:
        """How many rows."""
        return len(self.digests)

    def pick(self, start: int, stop: int) -> tuple[Texts, Digests]:
        """Return the paths and the digests of rows `start` to `stop`."""
        bounds = self.bounds[start : stop + 1].tolist()
        paths = [os.fsdecode(self.paths[a:b].tobytes()) for a, b in itertools.pairwise(bounds)]
        return Texts.of(paths), Digests(np.array(self.digests[start:stop]))


def _map(file: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    return array
