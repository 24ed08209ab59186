"""Every byte of a shard, of a view and of the index changed; what is read is right, or refused."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

from tests.helpers.damage import (
    Change,
    Check,
    blank_all,
    blank_chunks,
    cut_all,
    flip_all,
    flip_some,
    sweep,
    write_features,
    write_index,
    write_shard,
)
from tests.resilience.report import Result

N_ROWS = 9
# Of the eight of each byte; which ones differs from byte to byte.
N_BITS = 4
_Job = tuple[Path, Check, list[Change]]


def run(seed: int) -> Result:
    """Change one thing after another in each file, in two processes at once."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as threads:
        jobs = list(_plan(Path(scratch), seed))
        found = list(threads.map(lambda job: sweep(*job), jobs))
    n_changes = sum(one.n_changes for one in found)
    failures = [failure for one in found for failure in one.failures]
    n_refused = sum(one.n_refused for one in found)
    return Result(
        what="bytes flipped, blanked and cut off, in shards (plain, lz4, zstd), views and the"
        f" index: {n_refused:,} refused, the others harmless",
        injected=n_changes,
        survived=n_changes - len(failures),
        failures=failures,
    )


def _plan(root: Path, seed: int) -> Iterator[_Job]:
    for compression, n_bits in (("none", N_BITS), ("lz4", 1), ("zstd", 1)):
        path, check = write_shard(root / compression, n_rows=N_ROWS, compression=compression)
        sound = path.read_bytes()
        yield path, check, [*flip_all(sound, n_bits=n_bits), *_list_others(path, sound)]
    for materialize in (False, True):
        path, check = write_features(root / f"view-{materialize}", materialize=materialize)
        sound = path.read_bytes()
        yield path, check, [*flip_all(sound, step=3), *_list_others(path, sound)]
    path, check = write_index(root / "index", n_rows=N_ROWS)
    sound = path.read_bytes()
    yield path, check, [*flip_some(sound, n=1000, seed=seed), *cut_all(sound)]
    # More than 1,024 chunks, which HDF5 lists on pages of their own.
    with patch("permafrost.cache.shards.format.CHUNK_BYTES", 100):
        path, check = write_shard(root / "many", n_rows=2100)
    yield path, check, flip_some(path.read_bytes(), n=200, seed=seed)
    # Chunks of their usual size.
    path, check = write_shard(root / "large", n_rows=40_000)
    yield path, check, flip_some(path.read_bytes(), n=200, seed=seed)


def _list_others(path: Path, sound: bytes) -> list[Change]:
    return [*cut_all(sound, step=64), *blank_all(sound, size=64), *blank_chunks(path)]
