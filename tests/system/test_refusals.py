"""What the system refuses is no damage: one line names it, and nothing is moved or computed."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.cache.errors import DamagedError
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.gather import StoredRows, gather_rows
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.index import Index
from permafrost.cache.views.features import Features
from permafrost.refusals import find_refusal
from tests.helpers import ROOT
from tests.helpers.folders import list_content
from tests.helpers.shards import KEY, RECIPE, make_digests, write_set, write_whole_view

_DROP_CAPABILITY = 24
# Reading and searching what the mode of a file forbids.
_OVERRIDES = (1, 2)


def drop_overrides() -> None:
    """Have the program that is run next obey the modes of files, root's too."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in _OVERRIDES:
        if os.geteuid() == 0 and libc.prctl(_DROP_CAPABILITY, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "cannot drop the capability")


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "run.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=drop_overrides,
    )


def forbid(shard: Path) -> None:
    shard.chmod(0)


def fail_to_read(shard: Path) -> None:
    """Put a file in its place whose reading is an input/output error."""
    shard.unlink()
    shard.symlink_to("/proc/self/mem")


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    layout, folder = write_set(tmp_path / "cache", [[0, 1], [2, 3], [4, 5]])
    write_whole_view(tmp_path / "view.h5", layout, range(6))
    return sorted(folder.glob("shard-*.h5"))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has it")
@pytest.mark.parametrize("command", ["verify", "repair", "gc", "compact"])
@pytest.mark.parametrize(
    ("refuse", "ending"),
    [(forbid, (3, "permission denied")), (fail_to_read, (75, "the disk fails"))],
)
def test_a_shard_that_may_not_be_read_is_named_and_left(
    shards: list[Path],
    tmp_path: Path,
    refuse: Callable[[Path], None],
    ending: tuple[int, str],
    command: str,
) -> None:
    names = {path.name for path in shards}
    refuse(shards[1])
    done = call(command, "--cache", tmp_path / "cache")
    status, words = ending
    assert done.returncode == status, done.stdout + done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"permafrost: {words}"), line
    assert f"({shards[1]})" in line
    assert "damaged" not in done.stdout + done.stderr
    assert {path.name for path in shards[0].parent.glob("shard-*.h5")} == names
    assert not (shards[0].parent / "quarantine").exists()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has it")
def test_rows_that_may_not_be_read_are_not_missing(shards: list[Path], tmp_path: Path) -> None:
    layout, _ = write_set(tmp_path / "cache", [])
    fail_to_read(shards[1])
    with Index() as index, pytest.raises(OSError, match=str(shards[1])) as raised:
        FeatureSet(layout, RECIPE, index)
    assert raised.value.errno == errno.EIO
    with Features(tmp_path / "view.h5") as features, pytest.raises(OSError) as raised:
        features.read("conv")
    assert (raised.value.errno, raised.value.filename) == (errno.EIO, str(shards[1]))


def test_records_beside_the_shards_that_may_not_be_read_stay(
    shards: list[Path], tmp_path: Path
) -> None:
    record = shards[0].with_name("drift.json")
    record.write_text('{"images": 2, "batch_size": 4, "max_error": 0.0}')
    record.chmod(0)
    done = call("repair", "--cache", tmp_path / "cache")
    assert (done.returncode, "permission denied" in done.stderr) == (3, True)
    assert record.exists()


def test_a_view_that_may_not_be_read_is_a_features_file_all_the_same(
    shards: list[Path], tmp_path: Path
) -> None:
    view = tmp_path / "view.h5"
    view.chmod(0)
    done = call(
        *("fit", "--features", view, "--layer", "conv", "--head", "logreg"),
        *("--out", tmp_path / "out"),
    )
    assert done.returncode == 3
    assert f"permission denied ({view})" in done.stderr.splitlines()[-1]


def test_the_number_in_the_text_of_hdf5_is_found_whatever_h5py_raises(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(9)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with h5py.File(tmp_path / "a.h5") as file:
        own = file.id.get_vfd_handle()
        kept = os.dup(own)
        os.dup2(descriptor, own)  # Reading a folder is refused; so is a file open to write only.
        writing = os.open(tmp_path / "w", os.O_WRONLY | os.O_CREAT)
        os.dup2(writing, own)
        with pytest.raises(KeyError, match="errno = 9,") as raised:
            file["x"]
        os.dup2(kept, own)
    for number in (descriptor, kept, writing):
        os.close(number)
    refusal = find_refusal(raised.value, tmp_path / "a.h5")
    assert refusal is not None
    assert (refusal.errno, refusal.filename) == (errno.EBADF, str(tmp_path / "a.h5"))


@pytest.mark.parametrize(
    "error", [OSError("file signature not found"), ValueError("no"), KeyError()]
)
def test_what_a_file_is_to_blame_for_is_no_refusal(error: Exception) -> None:
    assert find_refusal(error) is None


@pytest.fixture
def without_threads() -> Iterator[None]:
    """Have new threads need more memory than there are addresses."""
    size = threading.stack_size(1 << 60)
    yield
    threading.stack_size(size)


@pytest.mark.usefixtures("without_threads")
def test_without_a_further_thread_nothing_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("permafrost.cache.hdf5.direct.count_cores", lambda: 2)
    monkeypatch.setattr("permafrost.cache.hdf5.direct._THREAD_BYTES", 100)
    monkeypatch.setattr("permafrost.cache.shards.format.CHUNK_BYTES", 100)
    row = RowFormat(shape=(4, 3), dtype="float32")
    writer = ShardWriter(tmp_path, key=KEY, row=row, n_rows=20)
    writer.append(make_digests(range(20)), np.ones((20, 4, 3), np.float32))
    path = writer.publish()
    rows = StoredRows.in_shard(path, KEY, np.arange(20), make_digests(range(20)))
    with pytest.raises(OSError) as raised:
        gather_rows(rows, np.empty((20, 4, 3), np.float32))
    assert (raised.value.errno, raised.value.filename) == (errno.EAGAIN, str(path))
    assert not isinstance(raised.value, DamagedError)


def test_what_is_read_again_after_a_refusal_is_unchanged(
    shards: list[Path], tmp_path: Path
) -> None:
    before = list_content(shards[0].parent)
    shards[1].chmod(0)
    assert call("repair", "--cache", tmp_path / "cache").returncode == 3
    shards[1].chmod(0o644)
    assert call("verify", "--cache", tmp_path / "cache").returncode == 0
    assert list_content(shards[0].parent) == before
