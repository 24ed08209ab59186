"""What travels between scheduler and workers is small, and says all that matters."""

from __future__ import annotations

import pickle
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from permafrost.pipeline.cluster import claim
from permafrost.pipeline.cluster.claim import ClaimRecord, _record
from permafrost.pipeline.cluster.rows import PlanRows, write_rows
from permafrost.pipeline.computing.tally import Tally
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.texts import Texts

N_ROWS = 3000
RNG = np.random.default_rng(0)
DIGESTS = Digests(RNG.integers(1, 256, (N_ROWS, 32), np.uint8))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_a_record_is_less_than_a_kilobyte_whatever_failed(share: float) -> None:
    failed = np.flatnonzero(RNG.random(N_ROWS) < share).tolist()
    tally = Tally(n_computed=N_ROWS - len(failed))
    tally.failed = {DIGESTS[row]: f"{row}: " + "why" * 100 for row in failed}
    record = _record(
        tally, DIGESTS, worker="tcp://a-rather-long-host-name.example.org:12345", n_left=0
    )
    assert len(pickle.dumps(record)) < 1024
    told = record.list_failed(N_ROWS)
    assert list(told) == failed
    assert all(reason.startswith(f"{row}: why") for row, reason in list(told.items())[:4])


def test_rows_are_read_by_their_numbers(tmp_path: Path) -> None:
    paths = [f"{number}/größe\udcff.jpg" * (number % 3) + f"{number}" for number in range(100)]
    write_rows(tmp_path, digests=Digests(DIGESTS.array[:100]), paths=Texts.of(paths))
    rows = PlanRows.open(tmp_path)
    assert len(rows) == 100
    found, digests = rows.pick(17, 44)
    assert list(found) == paths[17:44]
    assert list(digests) == [DIGESTS[row] for row in range(17, 44)]


def test_a_record_of_nothing_failed_says_so() -> None:
    assert ClaimRecord(worker="").list_failed(10) == {}
    mask = zlib.compress(np.packbits([False, True, True]).tobytes())
    record = ClaimRecord(worker="", failed=mask, reasons=("first",))
    assert record.list_failed(3) == {1: "first", 2: "first"}


class FullDisk:
    """A job whose disk is full, as HDF5 tells it."""

    def compute(self, *_: object, **__: object) -> ClaimRecord:
        raise RuntimeError("write failed (errno = 28, error message = 'No space left on device')")


def test_what_the_system_refuses_a_worker_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "get_worker", lambda: SimpleNamespace(address=""))
    monkeypatch.setitem(claim._opened, "full", FullDisk())  # type: ignore[arg-type]
    job: Any = SimpleNamespace(token="full")
    with pytest.raises(OSError, match="No space left on device"):
        claim.run_claim(job, 0, 1, "leave")
