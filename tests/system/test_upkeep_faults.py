"""gc and compact beside readers, writers and each other, killed, and on full disks: for real."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.upkeep.verify import verify_cache
from permafrost.cache.views.features import Features
from permafrost.pipeline.upkeep.gc import GcOptions, collect
from permafrost.stages.datasets.manifest import Manifest, write_manifest
from tests.helpers import ROOT
from tests.helpers.shards import (
    ROW_BYTES,
    expect_set,
    make_digests,
    make_rows,
    read_set,
    write_set,
    write_whole_view,
)
from tests.resilience import upkeep

N_ROWS = 200
# Merges shards of ever more rows, and drops what is there twice, for a second.
_UPKEEP = """
import sys, time
import permafrost.cache.shards.format  # noqa: E402, F401
from permafrost.pipeline.cli.main import main
cache, row_bytes, manifest = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
end_s = time.monotonic() + 1
while time.monotonic() < end_s:
    for n_rows in (7, 30, 1000):
        permafrost.cache.shards.format.SHARD_BYTES = n_rows * row_bytes
        assert main(["compact", "--cache", cache]) == 0
    unused = ["--unused-by", *manifest] if manifest else []
    assert main(["gc", "--cache", cache, *unused]) == 0
"""
# Reads random rows, in a view that stays open and in one that is opened each time.
_READER = """
import sys
from pathlib import Path
import numpy as np
from permafrost.cache.views.features import Features
view, expected, stop = sys.argv[1], np.load(sys.argv[2]), Path(sys.argv[3])
random, n_reads = np.random.default_rng(int(sys.argv[4])), 0
with Features(Path(view)) as kept_open:
    while not stop.exists():
        rows = random.integers(len(expected), size=50)
        assert (kept_open.read("conv", rows) == expected[rows]).all()
        with Features(Path(view)) as fresh:
            assert (fresh.read("conv") == expected).all()
        n_reads += 1
print(n_reads)
"""


# Finds no damage in what moves.
_VERIFIER = """
import sys
from pathlib import Path
from permafrost.pipeline.cli.main import main
n_runs = 0
while not Path(sys.argv[2]).exists():
    assert main(["verify", "--cache", sys.argv[1]]) == 0
    n_runs += 1
print(n_runs)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def reading(tmp_path: Path, view: Path, rows: np.ndarray) -> Iterator[None]:
    """Have processes read a view and verify the cache meanwhile; all that they see is right."""
    np.save(tmp_path / "expected.npy", rows)
    stop = tmp_path / "stop"
    readers = [start(_READER, view, tmp_path / "expected.npy", stop, seed) for seed in range(2)]
    readers.append(start(_VERIFIER, tmp_path / "cache", stop))
    try:
        yield
    finally:
        stop.touch()
        endings = [(*reader.communicate(), reader.returncode) for reader in readers]
    for out, err, status in endings:
        assert status == 0, err
        assert int(out.splitlines()[-1]) > 1


def chunk(numbers: Sequence[int], n: int) -> list[list[int]]:
    return [list(numbers[start : start + n]) for start in range(0, len(numbers), n)]


def test_readers_and_writers_go_on_while_rows_move_and_go(tmp_path: Path) -> None:
    """Half of the rows are in a view; of the others, all of the first go and new ones come."""
    used = range(0, N_ROWS, 2)
    layout, folder = write_set(tmp_path / "cache", chunk(range(N_ROWS), 5))
    write_whole_view(tmp_path / "view.h5", layout, used)
    manifest = Manifest(
        root="",
        paths=[f"{number}.png" for number in range(N_ROWS, N_ROWS + 1000)],
        labels=[""] * 1000,
        splits=[""] * 1000,
        digests=[digest.tobytes() for digest in make_digests(range(N_ROWS, N_ROWS + 1000))],
    )
    write_manifest(manifest, tmp_path / "coming.csv")
    wanted = (tmp_path / "view.h5", tmp_path / "coming.csv")
    written = 0
    with reading(tmp_path, tmp_path / "view.h5", make_rows(used)):
        # Two at once, which take turns.
        workers = [start(_UPKEEP, tmp_path / "cache", ROW_BYTES, *wanted) for _ in range(2)]
        while any(worker.poll() is None for worker in workers):
            write_set(tmp_path / "cache", [[N_ROWS + written, N_ROWS + written + 1]])
            written += 2
            time.sleep(0.05)
        for worker in workers:
            _, err = worker.communicate()
            assert worker.returncode == 0, err
    # gc leaves a feature set alone while a shard is being written in it, which on a slow machine
    # may have been the case each time.
    layout = CacheLayout(tmp_path / "cache")
    assert not collect(GcOptions(root=layout.root, unused_by=wanted)).skipped
    assert set(read_set(folder)) == set(expect_set([*used, *range(N_ROWS, N_ROWS + written)]))
    assert all(len(set(copies)) == 1 for copies in read_set(folder).values())
    exam = verify_cache(layout)
    assert (exam.damaged, exam.temporary) == ([], [])


def test_killed_at_any_step_nothing_is_lost_and_the_next_tidies() -> None:
    result = upkeep.run(1, stride=29)
    assert result.failures == []
    assert result.injected == result.survived >= 4


@pytest.mark.parametrize("command", ["compact", "gc"])
def test_a_full_disk_is_one_line_and_nothing_is_lost(tmp_path: Path, command: str) -> None:
    numbers = list(range(100))
    layout, folder = write_set(tmp_path / "cache", [numbers[:60], numbers[50:]])
    write_whole_view(tmp_path / "view.h5", layout, numbers)
    largest = max(path.stat().st_size for path in folder.glob("shard-*.h5"))
    limit = largest // 2  # room for the index' lock, and for half of a shard
    done = subprocess.run(
        [sys.executable, "run.py", command, "--cache", tmp_path / "cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 75, done.stderr
    assert done.stderr.splitlines()[-1].startswith("permafrost: the file size limit is reached")
    assert "Traceback" not in done.stderr
    assert not list(folder.glob(".tmp-*"))
    assert set(read_set(folder)) == set(expect_set(numbers))
    with Features(tmp_path / "view.h5") as features:
        assert (features.read("conv") == make_rows(numbers)).all()


def test_what_the_commands_load_is_light(tmp_path: Path) -> None:
    _, folder = write_set(tmp_path / "cache", [[0], [1]])
    next(folder.glob("shard-*.h5")).write_bytes(b"no shard")
    code = (
        "import sys, json; from permafrost.pipeline.cli.main import main\n"
        "for command in ('repair', 'verify', 'gc', 'compact'):\n"
        "    assert main([command, '--cache', sys.argv[1]]) == 0\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    out, err = start(code, tmp_path / "cache").communicate()
    loaded = json.loads(out.splitlines()[-1])
    assert not {"tensorflow", "keras", "sklearn", "distributed", "dask"} & set(loaded), err
