"""Chunks that are read past HDF5, against plain h5py, plain xxhash and the arrays that went in."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash
from numpy.typing import NDArray

from permafrost.cache.errors import DamagedError
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.gather import StoredRows, gather_rows
from permafrost.cache.shards.locations import RowLocations
from permafrost.cache.shards.reader import find_chunks
from permafrost.cache.shards.writer import ShardWriter

KEY = "ab12"
N_ROWS = 23
# With chunks of at most 64 bytes: several rows, one row, or a piece of a row in each.
SHAPES = [(), (3,), (2, 3), (16,), (40,), (3, 7, 2), (2, 2, 3, 5), (3, 1, 40)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a shard of a few kilobytes have many chunks, which several threads read."""
    monkeypatch.setattr("permafrost.cache.shards.format.CHUNK_BYTES", 64)
    monkeypatch.setattr("permafrost.cache.shards.format.LARGEST_CHUNK_BYTES", 64)
    monkeypatch.setattr("permafrost.cache.hdf5.direct._THREAD_BYTES", 100)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))


def make_rows(shape: Sequence[int], dtype: str = "float32", n: int = N_ROWS) -> NDArray[np.float32]:
    return np.random.default_rng(n).standard_normal((n, *shape)).astype(dtype)


def make_digests(n: int = N_ROWS) -> NDArray[np.uint8]:
    digests = [hashlib.sha256(str(number).encode()).digest() for number in range(n)]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def write_shard(
    folder: Path,
    rows: NDArray[np.float32],
    *,
    step: int = 5,
    compression: str = "none",
) -> Path:
    row = RowFormat(shape=rows.shape[1:], dtype=rows.dtype.name, compression=compression)
    writer = ShardWriter(folder, key=KEY, row=row, n_rows=len(rows) + 2)
    digests = make_digests(len(rows))
    for start in range(0, len(rows), step):
        writer.append(digests[start : start + step], rows[start : start + step])
    return writer.publish()


def read_shard(
    path: Path,
    wanted: NDArray[np.int64],
    shape: Sequence[int],
    *,
    dtype: str = "float32",
    block: tuple[slice, ...] = (),
) -> NDArray[np.float32]:
    """Read rows of one shard, into memory that says so where nothing was read."""
    locations = RowLocations(
        shards=[path.name], shard=np.zeros(len(wanted), np.int32), row=np.asarray(wanted)
    )
    out = np.full((len(wanted), *np.empty(shape)[block].shape), -77, dtype)
    source = StoredRows(
        folder=path.parent, key=KEY, locations=locations, digests=make_digests()[wanted]
    )
    gather_rows(source, out, block=block)
    return out


def has_chunks(path: Path) -> bool:
    with h5py.File(path, locking=False) as file:
        return find_chunks(file) is not None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shard_holds_the_xxh3_of_each_chunk(
    tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    path = write_shard(tmp_path, make_rows(shape, dtype))
    with h5py.File(path) as file:
        chunks = [file["features"][cut] for cut in file["features"].iter_chunks()]
        assert len(chunks) > 1 or not shape
        expected = [xxhash.xxh3_64(np.ascontiguousarray(chunk)).intdigest() for chunk in chunks]
        assert file["xxh3"].dtype == np.uint64
        assert file["xxh3"][()].tolist() == expected


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_rows_come_as_they_were_written(
    tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    rows = make_rows(shape, dtype)
    path = write_shard(tmp_path, rows)
    assert has_chunks(path)
    random = np.random.default_rng(3)
    for wanted in (
        np.arange(N_ROWS),
        np.arange(N_ROWS)[::-1],
        np.arange(7, 15),
        np.array([22]),
        np.array([0, 0, 2, 1, 22, 22]),
        random.permutation(N_ROWS),
        random.integers(N_ROWS, size=60),
    ):
        found = read_shard(path, wanted, shape, dtype=dtype)
        np.testing.assert_array_equal(found, rows[wanted])


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((16,), np.s_[3:9]),
        ((40,), np.s_[10:40]),
        ((40,), np.s_[14:15]),
        ((3, 7, 2), np.s_[1:2]),
        ((3, 7, 2), np.s_[1:2, 2:7]),
        ((3, 7, 2), np.s_[2:3, 6:7, :1]),
        ((2, 2, 3, 5), np.s_[:, :, :, :]),
        ((2, 2, 3, 5), np.s_[1:2, :1, 1:3]),
    ],
)
def test_any_part_of_a_row_comes_as_it_was_written(
    tmp_path: Path, shape: tuple[int, ...], block: tuple[slice, ...] | slice
) -> None:
    rows = make_rows(shape)
    path = write_shard(tmp_path, rows)
    block = block if isinstance(block, tuple) else (block,)
    for wanted in (np.arange(N_ROWS), np.array([22, 3, 3, 4, 5, 0])):
        found = read_shard(path, wanted, shape, block=block)
        np.testing.assert_array_equal(found, rows[wanted][:, *block])


def test_rows_appended_in_other_portions_give_the_same_bytes(tmp_path: Path) -> None:
    rows = make_rows((2, 3))
    contents = [write_shard(tmp_path, rows, step=step).read_bytes() for step in (1, 5, 23)]
    assert contents[0] == contents[1] == contents[2]


def remove_sums(file: h5py.File) -> None:
    del file["xxh3"]


def repack(**options: object) -> Callable[[h5py.File], None]:
    def write_anew(file: h5py.File) -> None:
        values = file["features"][()]
        del file["features"]
        file.create_dataset("features", data=values, **options)

    return write_anew


@pytest.mark.parametrize(
    "change",
    [
        remove_sums,
        repack(),
        repack(chunks=(1, 4, 3)),
        repack(chunks=(1, 4, 3), fletcher32=True, dtype=">f4"),
        repack(chunks=(2, 2, 3), fletcher32=True),
        repack(chunks=(4, 4, 3), fletcher32=True),
        repack(chunks=(1, 4, 3), fletcher32=True, compression="gzip"),
    ],
)
def test_what_lies_otherwise_in_the_file_is_left_to_hdf5(
    tmp_path: Path, change: Callable[[h5py.File], None]
) -> None:
    rows = make_rows((4, 3))
    path = write_shard(tmp_path, rows)
    assert has_chunks(path)
    with h5py.File(path, "r+") as file:
        change(file)
    assert not has_chunks(path)
    wanted = np.random.default_rng(0).permutation(N_ROWS)
    np.testing.assert_array_equal(read_shard(path, wanted, (4, 3)), rows[wanted])


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_chunks_are_left_to_hdf5(tmp_path: Path, compression: str) -> None:
    rows = make_rows((4, 3))
    path = write_shard(tmp_path, rows, compression=compression)
    assert not has_chunks(path)
    with h5py.File(path) as file:
        assert set(file) == {"digest", "features"}
    np.testing.assert_array_equal(read_shard(path, np.arange(N_ROWS), (4, 3)), rows)


def flip(path: Path, sound: bytes, position: int) -> None:
    """Flip one bit, and make sure that the file is seen to be another."""
    damaged = bytearray(sound)
    damaged[position] ^= 1 << (position % 8)
    path.write_bytes(damaged)
    os.utime(path, ns=(0, position))


def find_bytes(path: Path, name: str) -> list[range]:
    """Return where the chunks of a dataset lie, without the checksums behind them."""
    with h5py.File(path) as file:
        dataset = file[name]
        places: list[range] = []
        dataset.id.chunk_iter(
            lambda one: places.append(range(one.byte_offset, one.byte_offset + one.size - 4))
        )
    return places


@pytest.mark.parametrize("shape", [(2, 3), (3, 7, 2)])
def test_no_flipped_bit_of_a_shard_gives_a_wrong_value(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    rows = make_rows(shape, n=9)
    path = write_shard(tmp_path, rows)
    sound = path.read_bytes()
    n_refused = 0
    for position in range(0, len(sound), 7):
        flip(path, sound, position)
        try:
            found = read_shard(path, np.arange(9), shape)
        except DamagedError as error:
            assert str(path) in str(error)
            n_refused += 1
        else:
            np.testing.assert_array_equal(found, rows)
    assert n_refused > 100


@pytest.mark.parametrize("name", ["features", "xxh3", "digest"])
def test_every_flipped_bit_of_values_and_checksums_is_refused(tmp_path: Path, name: str) -> None:
    # Chunks without padding, whose bits are nobody's.
    rows = make_rows((16,), n=9)
    path = write_shard(tmp_path, rows)
    sound = path.read_bytes()
    places = find_bytes(path, name)
    positions = [position for place in places for position in place]
    for position in positions[:: max(1, len(positions) // 150)]:
        flip(path, sound, position)
        with pytest.raises(DamagedError, match=path.name):
            read_shard(path, np.arange(9), (16,))


@pytest.mark.parametrize("wanted", [np.arange(N_ROWS), np.array([20, 3]), np.array([11])])
def test_damage_after_the_first_read_is_refused(tmp_path: Path, wanted: NDArray[np.int64]) -> None:
    rows = make_rows((2, 3))
    path = write_shard(tmp_path, rows)
    status = path.stat()
    np.testing.assert_array_equal(read_shard(path, wanted, (2, 3)), rows[wanted])
    # Another value in a chunk from which something is wanted, though not this row itself.
    position = path.read_bytes().index(rows[wanted[0] - wanted[0] % 2].tobytes())
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 16]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DamagedError, match=rf"{path.name}.*checksum"):
        read_shard(path, wanted, (2, 3))


def test_a_truncated_shard_is_refused_before_and_after_the_first_read(tmp_path: Path) -> None:
    path = write_shard(tmp_path, make_rows((40,)))
    sound = path.read_bytes()
    for n_bytes in (0, 100, len(sound) // 2, len(sound) - 1):
        path.write_bytes(sound[:n_bytes])
        with pytest.raises(DamagedError, match=path.name):
            read_shard(path, np.arange(N_ROWS), (40,))
        path.write_bytes(sound)
        read_shard(path, np.arange(N_ROWS), (40,))


def test_a_shard_replaced_by_one_stored_otherwise_gives_the_same_rows(tmp_path: Path) -> None:
    rows = make_rows((2, 3))
    for compression in ("none", "lz4", "none"):
        path = write_shard(tmp_path, rows, compression=compression)
        assert has_chunks(path) == (compression == "none")
        np.testing.assert_array_equal(read_shard(path, np.arange(N_ROWS), (2, 3)), rows)


def test_a_shard_replaced_by_another_is_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path, make_rows((2, 3)))
    read_shard(path, np.array([20]), (2, 3))
    write_shard(tmp_path, make_rows((2, 3), n=12)).replace(path)
    with pytest.raises(DamagedError, match=f"{path.name}.*other rows"):
        read_shard(path, np.array([20]), (2, 3))


def test_reads_that_come_in_parts_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows((40,))
    path = write_shard(tmp_path, rows)
    read = os.preadv

    def read_some(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return read(descriptor, [buffers[0][:7]], offset)

    monkeypatch.setattr(os, "preadv", read_some)
    np.testing.assert_array_equal(read_shard(path, np.arange(N_ROWS), (40,)), rows)
