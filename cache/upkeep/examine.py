"""Look at everything a feature set holds, without changing it, and say what is damaged and why.

A reader stops at the first thing that is wrong; here all of it is found. Nothing that is looked at
is believed: a row counts as intact when HDF5's checksums and ours both say so, when the reader that
goes past HDF5 finds the very same bytes, and when its values are finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from permafrost.cache.errors import DamagedError
from permafrost.cache.hdf5.checksum import SUM_NAME, sum_values
from permafrost.cache.hdf5.chunks import CAN_LIST
from permafrost.cache.hdf5.compression import load_filters
from permafrost.cache.hdf5.direct import RawFile, read_chunks
from permafrost.cache.hdf5.opening import check_storage
from permafrost.cache.hdf5.sealed import decode, read_array
from permafrost.cache.shards.format import STORED_DTYPES, shard_name
from permafrost.cache.shards.reader import find_chunks, list_shards
from permafrost.cache.store.folders import read_recipe
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.refusals import raise_refusal

_MEMBERS = {"digest", "features", SUM_NAME}
# What a garbled file makes h5py raise.
READ_FAILURES = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError)
# Read and compared at once, twice: what fits a processor's cache.
_PIECE_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardExam:
    """What one shard holds, whose file has `n_bytes`.

    Attributes
    ----------
    key : str or None
        The feature set that the shard says it belongs to; None where it does not say.
    digests : ndarray of uint8, shape (n, 32), or None
        Its rows; None where they cannot be read.
    intact : ndarray of bool, shape (n,)
        The rows whose values are as they were written; of no length without `digests`.
    damage : str or None
        What is wrong, in one line without the path.
    """

    path: Path
    n_bytes: int = 0
    key: str | None = None
    digests: NDArray[np.uint8] | None = None
    intact: NDArray[np.bool_]
    damage: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetExam:
    """What the folder of a feature set holds.

    `recipe` and its `key` are None where recipe.json is missing or damaged; `damage` then says in
    one line what is wrong, without the path. The shards are sorted by name.
    """

    folder: Path
    recipe: Recipe | None
    key: str | None
    damage: str | None
    shards: list[ShardExam]


def examine_set(
    layout: CacheLayout, folder: Path, *, advance: Callable[[ShardExam], None] = lambda _: None
) -> SetExam:
    """Examine a feature set: its recipe, and every chunk of every shard.

    Shards that another run puts in the place of others meanwhile are examined too. `advance` is
    told of each shard when it is done.
    """
    recipe, damage = None, None
    try:
        recipe = read_recipe(layout, folder)
    except FileNotFoundError:
        # A run that is killed before its first shard leaves an empty folder, and nothing is lost.
        damage = "it is missing" if any(list_shards(folder)) else None
    except (OSError, DamagedError) as error:
        damage = describe_damage(error, folder / "recipe.json")
    key = None if recipe is None else recipe_key(recipe)
    shards: dict[Path, ShardExam] = {}
    while unknown := sorted({path for path, _ in list_shards(folder)} - shards.keys()):
        for path in unknown:
            shards[path] = examine_shard(path, key)
            advance(shards[path])
    there = sorted(path for path, _ in list_shards(folder))
    exams = [shards[path] for path in there if path in shards]
    return SetExam(folder=folder, recipe=recipe, key=key, damage=damage, shards=exams)


def examine_shard(path: Path, key: str | None) -> ShardExam:
    """Read all of a shard, with every check there is; memory is bounded.

    `key` is the feature set's that it must belong to; None where that is not known. Nothing is
    raised but what the system refuses: an `OSError`.
    """
    exam = ShardExam(path=path, intact=np.zeros(0, np.bool_))
    if not path.is_file():
        return replace(exam, damage="it is no file" if path.exists() else "it is gone")
    try:
        exam = replace(exam, n_bytes=path.stat().st_size)
        with path.open("rb") as raw, h5py.File(path, "r", locking=False) as file:
            exam = replace(exam, key=decode(file.attrs["key"]))
            digests = _read_digests(file)
            exam = replace(exam, digests=digests, intact=np.zeros(len(digests), np.bool_))
            intact, damage = _examine_rows(file, raw.fileno())
    except FileNotFoundError:
        return replace(exam, damage="it is gone")
    except READ_FAILURES as error:
        return replace(exam, damage=describe_damage(error, path))
    if path.name != shard_name(digests):
        damage = "its name is not that of its rows"
    if key not in (None, exam.key):
        damage = f"it holds rows of another feature set ({exam.key})"
    return replace(exam, intact=intact, damage=damage)


def _read_digests(file: h5py.File) -> NDArray[np.uint8]:
    strange = set(file) - _MEMBERS
    if strange:
        raise ValueError(f"it holds {sorted(strange)[0]!r}, which no shard has")
    for name in file:
        check_storage(file, name)
    dataset = file["digest"]
    if dataset.dtype != np.uint8 or dataset.shape[1:] != (32,):
        raise ValueError(f"its digests are {dataset.dtype} {dataset.shape}")
    return read_array(dataset)


def _examine_rows(file: h5py.File, descriptor: int) -> tuple[NDArray[np.bool_], str | None]:
    """Find out which rows of a shard are intact, and why others are not."""
    dataset = file["features"]
    n_rows = len(file["digest"])
    if dataset.dtype.name not in STORED_DTYPES or len(dataset) != n_rows:
        raise ValueError(f"its features are {dataset.dtype} {dataset.shape} for {n_rows} rows")
    load_filters(dataset)
    chunks = find_chunks(file)
    if chunks is None and SUM_NAME in file and CAN_LIST:
        raise ValueError("its checksums are not those of its chunks")
    raw = None if chunks is None else RawFile(descriptor=descriptor, chunks=chunks)
    row_bytes = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    # Several lines of chunks at a time, as each read costs a call.
    step = dataset.chunks[0]
    stride = step * max(1, _PIECE_BYTES // max(1, step * row_bytes))
    buffers = np.empty((2, min(stride, n_rows), *dataset.shape[1:]), dataset.dtype)
    rows = _DoubleReading(dataset=dataset, raw=raw, buffers=buffers)
    intact = np.ones(n_rows, np.bool_)
    reason = None
    pieces = _cut(0, n_rows, stride)
    while pieces:
        start, stop = pieces.pop()
        try:
            rows.check(start, stop)
        except READ_FAILURES as error:
            if stop - start > step:
                pieces += _cut(start, stop, step)
                continue
            intact[start:stop] = False
            reason = describe_damage(error, file.filename)
    if reason is None:
        return intact, None
    return intact, f"{int((~intact).sum())} of its {n_rows} rows are damaged: {reason}"


def _cut(start: int, stop: int, step: int) -> list[tuple[int, int]]:
    """Cut rows into pieces, in reverse order: the last one of the list is to be read first."""
    return [(first, min(first + step, stop)) for first in reversed(range(start, stop, step))]


@dataclass(frozen=True, slots=True, kw_only=True)
class _DoubleReading:
    """The features of a shard, and two buffers: for what HDF5 reads, and for what we read."""

    dataset: h5py.Dataset
    raw: RawFile | None
    buffers: NDArray[Any]

    def check(self, start: int, stop: int) -> None:
        values = self.buffers[0, : stop - start]
        self.dataset.read_direct(values, np.s_[start:stop])
        if self.raw is not None:
            found = self.buffers[1, : stop - start].reshape(stop - start, -1)
            rows = np.arange(start, stop)
            columns = (0, found.shape[1])
            # Checks our own sums on the way.
            read_chunks(self.raw, rows, positions=rows - start, columns=columns, out=found)
            if sum_values(found) != sum_values(values):
                raise ValueError("its values are others when read past HDF5")
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")


def describe_damage(error: Exception, file: object) -> str:
    """Return what an error says of a file, as part of a line.

    Raises
    ------
    OSError
        The system does not let it be read, which is no damage.
    """
    raise_refusal(error, file)
    # A KeyError puts its text in quotes.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__
