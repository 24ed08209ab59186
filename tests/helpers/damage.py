"""Files with one change after another, each read in another process: what hangs or crashes counts.

What is read must be what was written, or an error that names the file.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from permafrost.cache.errors import CacheError
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.gather import StoredRows, gather_rows
from permafrost.cache.shards.locations import RowLocations, split_digests
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.index import Index, IndexedFile
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.upkeep.examine import examine_shard
from permafrost.cache.views.features import Features
from permafrost.cache.views.writer import ViewImages, ViewLayer, write_view
from tests.helpers.shards import KEY, RECIPE, SHAPE, make_digests, make_rows, write_set

# A read takes milliseconds; on a busy machine, a second.
LIMIT_S = 30.0
_REFUSED, _RIGHT = "refused", "right"
Check = Callable[[Path], bool]


@dataclass(frozen=True, slots=True)
class Change:
    """Other bytes from a position on, or with None the end of the file there."""

    start: int
    content: bytes | None

    def describe(self) -> str:
        if self.content is None:
            return f"cut at byte {self.start}"
        return f"bytes {self.start} to {self.start + len(self.content)} changed"


@dataclass(slots=True, kw_only=True)
class Sweep:
    """How many changes were refused, how many were harmless, and the failures."""

    n_refused: int = 0
    n_harmless: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def n_changes(self) -> int:
        return self.n_refused + self.n_harmless + len(self.failures)


def flip(sound: bytes, position: int, bit: int) -> Change:
    return Change(position, bytes([sound[position] ^ (1 << bit % 8)]))


def flip_all(sound: bytes, *, step: int = 1, n_bits: int = 1) -> list[Change]:
    """Flip some of the bits of every byte, or of one in `step`."""
    return [
        flip(sound, position, position // step + bit)
        for position in range(0, len(sound), step)
        for bit in range(n_bits)
    ]


def flip_some(sound: bytes, *, n: int, seed: int) -> list[Change]:
    """Flip bits here and there."""
    chance = random.Random(seed)
    return [flip(sound, chance.randrange(len(sound)), chance.randrange(8)) for _ in range(n)]


def cut_all(sound: bytes, *, step: int = 512) -> list[Change]:
    """Cut a file every so many bytes, to nothing and of its last byte."""
    return [Change(stop, None) for stop in (*range(0, len(sound), step), len(sound) - 1)]


def blank_chunks(path: Path) -> list[Change]:
    """Make whole chunks, with HDF5's checksums, zeros or ones: as a disk may return them."""
    places: list[Any] = []

    def visit(_name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.chunks and not node.is_virtual:
            node.id.chunk_iter(places.append)

    with h5py.File(path) as file:
        file.visititems(visit)
    return [
        Change(place.byte_offset, bytes([value]) * place.size)
        for place in places
        for value in (0, 255)
    ]


def blank_all(sound: bytes, *, size: int) -> list[Change]:
    """Make each so many bytes zeros."""
    return [
        Change(start, bytes(min(size, len(sound) - start))) for start in range(0, len(sound), size)
    ]


def sweep(path: Path, check: Check, changes: Sequence[Change]) -> Sweep:
    """Make one change after another, and call a check each time; afterwards the file is sound.

    Parameters
    ----------
    path : Path
    check : callable
        Tells whether the file was refused; raises `AssertionError` for a wrong value. It travels
        to another process.
    changes : sequence of Change
        Those that change nothing are passed over.
    """
    sound = path.read_bytes()
    real = [one for one in changes if _apply(sound, one) != sound]
    found = Sweep()
    while found.n_changes < len(real):
        _try_changes(path, sound, check, real[found.n_changes :], found)
    path.write_bytes(sound)
    return found


def _apply(sound: bytes, change: Change) -> bytes:
    if change.content is None:
        return sound[: change.start]
    return sound[: change.start] + change.content + sound[change.start + len(change.content) :]


def _try_changes(
    path: Path, sound: bytes, check: Check, changes: Sequence[Change], found: Sweep
) -> None:
    """Count what comes of changes, until the last or until one that takes the process with it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, path, sound, check, changes))
    process.start()
    theirs.close()
    try:
        for change in changes:
            outcome = "the process hangs"
            if ours.poll(LIMIT_S):
                try:
                    outcome = ours.recv()
                except EOFError:
                    process.join()
                    outcome = f"the process ended with {process.exitcode}"
            if outcome == _REFUSED:
                found.n_refused += 1
            elif outcome == _RIGHT:
                found.n_harmless += 1
            else:
                found.failures.append(f"{path.name}, {change.describe()}: {outcome}")
                if outcome.startswith("the process"):
                    return
    finally:
        process.kill()
        process.join()
        ours.close()


def _run(
    answers: Connection, path: Path, sound: bytes, check: Check, changes: Sequence[Change]
) -> None:
    for number, change in enumerate(changes):
        path.write_bytes(_apply(sound, change))
        # So that no reader takes it for the file that it was.
        os.utime(path, ns=(0, number))
        try:
            answers.send(_REFUSED if check(path) else _RIGHT)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is a failure with a name
            answers.send(f"{type(error).__name__}: {error}")


@functools.lru_cache(maxsize=1)
def _expect(n_rows: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    return make_digests(range(n_rows)), make_rows(range(n_rows))


def check_shard(n_rows: int, path: Path) -> bool:
    """Read a shard of the rows 0 to n, and compare what an examination says of it."""
    digests, expected = _expect(n_rows)
    exam = examine_shard(path, KEY)
    if exam.digests is not None and exam.intact.any():
        assert np.array_equal(exam.digests, digests), "verify takes other rows for intact"
        rows = np.flatnonzero(exam.intact)
        assert np.array_equal(_read_rows(path, rows, digests), expected[rows]), "not intact at all"
    try:
        found = _read_rows(path, np.arange(n_rows), digests)
    except CacheError as error:
        assert path.name in str(error), f"an error that does not name the file: {error}"
        assert exam.damage is not None, "verify does not find it"
        return True
    assert np.array_equal(found, expected), "wrong values"
    return False


def _read_rows(path: Path, rows: NDArray[np.int64], digests: NDArray[np.uint8]) -> NDArray[Any]:
    locations = RowLocations(shards=[path.name], shard=np.zeros(len(rows), np.int32), row=rows)
    stored = StoredRows(folder=path.parent, key=KEY, locations=locations, digests=digests[rows])
    values = np.full((len(rows), *SHAPE), np.nan, np.float32)
    gather_rows(stored, values)
    return values


def write_shard(root: Path, *, n_rows: int, compression: str = "none") -> tuple[Path, Check]:
    """Write a shard, and return what checks it."""
    _, folder = write_set(root, [range(n_rows)], compression=compression)
    (path,) = folder.glob("shard-*.h5")
    return path, functools.partial(check_shard, n_rows)


def write_index(root: Path, *, n_rows: int) -> tuple[Path, Check]:
    """Write a cache with its index, and return what checks that."""
    layout, _ = write_set(root, [range(n_rows // 2), range(n_rows // 2, n_rows)])
    with Index(layout.index_file) as index:
        assert len(FeatureSet(layout, RECIPE, index)) == n_rows
        files = [IndexedFile(f"/{n}.jpg", "1:2", digest) for n, digest in _number(n_rows)]
        index.add_files(files)
        index.add_memo("card", "what was remembered")
    return layout.index_file, functools.partial(check_index, n_rows)


def _number(n_rows: int) -> list[tuple[int, bytes]]:
    return list(enumerate(split_digests(make_digests(range(n_rows)))))


def check_index(n_rows: int, path: Path) -> bool:
    """Find and read rows by what an index says: those that it no longer knows are missing."""
    digests, expected = _expect(n_rows)
    layout = CacheLayout(path.parent)
    with Index(path) as index:
        for _, digest in _number(n_rows)[:2]:
            index.files_of([digest])
        index.digests_of([f"/{number}.jpg" for number in range(n_rows)], ["1:2"] * n_rows)
        assert index.memo("card") in (None, "what was remembered"), "a wrong memo"
        features = FeatureSet(layout, RECIPE, index)
        locations = features.locate(split_digests(digests))
    there = np.flatnonzero(~locations.missing)
    values = np.full((len(there), *SHAPE), np.nan, np.float32)
    stored = StoredRows(
        folder=features.folder, key=KEY, locations=locations.select(there), digests=digests[there]
    )
    try:
        gather_rows(stored, values)
    except CacheError as error:
        assert "shard-" in str(error), f"of no file: {error}"
        return True
    assert np.array_equal(values, expected[there]), "wrong values"
    return len(there) < n_rows


def write_features(root: Path, *, materialize: bool) -> tuple[Path, Check]:
    """Write a features.h5 of nine images, and return what checks it."""
    n_rows = 9
    layout, folder = write_set(root / "cache", [range(n_rows)])
    digests = make_digests(range(n_rows))
    with Index() as index:
        locations = FeatureSet(layout, RECIPE, index).locate(split_digests(digests))
    row = RowFormat(shape=SHAPE, dtype="float32")
    layer = ViewLayer(spec="conv", recipe=RECIPE, folder=folder, row=row, locations=locations)
    images = ViewImages(
        root="/photos",
        paths=[f"cat/{number}.jpg" for number in range(n_rows)],
        labels=["cat"] * 5 + ["dog"] * 4,
        splits=["train"] * 6 + ["test"] * 3,
        digests=digests,
        columns={"age": [str(number) for number in range(n_rows)]},
    )
    path = root / "features.h5"
    write_view(path, images, [layer], origin='{"backbone": "tiny"}', materialize=materialize)
    return path, functools.partial(check_features, read_features(path))


def check_features(expected: dict[str, Any], path: Path) -> bool:
    """Read all there is in a view."""
    try:
        found = read_features(path)
    except CacheError as error:
        # A pointer that leads elsewhere shows in the shard; its name is as good.
        assert "features.h5" in str(error) or "shard-" in str(error), f"of no file: {error}"
        return True
    wrong = [name for name in expected if found.get(name) != expected[name]]
    assert found == expected, f"wrong: {wrong}"
    return False


def read_features(path: Path) -> dict[str, Any]:
    with Features(path) as features:
        found: dict[str, Any] = {
            "root": features.root,
            "origin": features.origin,
            "digests": features.digests.tobytes(),
            **{name: features.column(name) for name in ("path", "label", "split")},
            **{f"column {name}": features.column(name) for name in features.columns},
        }
        for layer in features.layers:
            found[f"layer {layer}"] = (
                dict(features.recipe(layer)),
                features.shape(layer),
                features.dtype(layer).name,
                features.read(layer).tobytes(),
            )
    return found
