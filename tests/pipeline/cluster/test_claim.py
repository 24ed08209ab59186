"""What travels between scheduler and workers is small, and says all that matters."""

from __future__ import annotations

import pickle
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from permafrost.cache.disk.publish import make_folder
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import open_cache
from permafrost.pipeline.cluster import claim
from permafrost.pipeline.cluster.claim import ClaimRecord, _record
from permafrost.pipeline.cluster.coordinate import _describe_job
from permafrost.pipeline.cluster.rows import PlanRows, write_rows
from permafrost.pipeline.computing.tally import Tally
from permafrost.pipeline.options import DatasetOptions, ExtractOptions, FeatureOptions
from permafrost.pipeline.planning.prepare import prepare
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.texts import Texts
from tests.helpers.inputs import write_photos

N_ROWS = 3000
RNG = np.random.default_rng(0)
HERE = SimpleNamespace(nthreads=1)
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


def test_a_claim_looks_at_what_lies_in_a_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each claim leaves a shard: in the end, listing them takes longer than computing one."""
    options = ExtractOptions(
        dataset=DatasetOptions(images=str(write_photos(tmp_path / "photos", n_each=3))),
        features=FeatureOptions(backbone="none", layers=("pixels",), size=(8, 8)),
        cache=tmp_path / "cache",
    )
    layout, n_looks = open_cache(options.cache), 0
    refresh = FeatureSet.refresh

    def count(features: FeatureSet) -> None:
        nonlocal n_looks
        n_looks += 1
        refresh(features)

    monkeypatch.setattr(FeatureSet, "refresh", count)
    monkeypatch.setattr(claim, "get_worker", lambda: SimpleNamespace(address="", state=HERE))
    monkeypatch.setattr(claim, "limit_cores", lambda _: None)
    with Index(layout.index_file) as index:
        prepared = prepare(options, layout, index)
        plan = prepared.plan
        make_folder(layout.leases_folder)
        write_rows(layout.leases_folder, digests=plan.digests, paths=plan.paths)
        job = _describe_job(options, prepared, layout.leases_folder)
        try:
            claim.run_claim(job, 0, 2, "leave")
            n_looks = 0
            assert claim.run_claim(job, 2, 4, "leave").n_computed == 2
            assert n_looks == 1
            # Rows that are there may have been removed meanwhile.
            assert claim.run_claim(job, 2, 4, "leave").n_computed == 0
            for shard in layout.root.rglob("shard-*.h5"):
                shard.unlink()
            assert claim.run_claim(job, 2, 4, "leave").n_computed == 2
        finally:
            claim.close_job(job.token)
    assert not claim._opened
