"""How far ahead images are loaded, and by whom."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import open_cache
from permafrost.pipeline.cli.groups import read_extract_options
from permafrost.pipeline.cli.parser import build_parser
from permafrost.pipeline.forward.batch import BatchTask, LoadedBatch, split_batches
from permafrost.pipeline.forward.loader import Load, LoaderThreads, choose_ahead, load_ahead
from permafrost.pipeline.planning.prepare import Preparation, prepare
from permafrost.stages.errors import InputError
from tests.helpers.inputs import LAYERS


@pytest.fixture
def prepared(photos: Path, backbone: Path, tmp_path: Path) -> Preparation:
    arguments = [
        *("extract", "--images", photos, "--backbone", backbone, "--layers", LAYERS),
        *("--cache", tmp_path / "cache", "--out", tmp_path / "features.h5"),
    ]
    options = read_extract_options(build_parser().parse_args([str(one) for one in arguments]))
    layout = open_cache(options.cache)
    with Index(layout.index_file) as index:
        return prepare(options, layout, index)


def test_what_loads_ahead_fits_the_memory() -> None:
    memory_bytes = 100_000_000
    assert choose_ahead(1, memory_bytes, n_workers=8) == 17
    assert choose_ahead(5_000_000, memory_bytes, n_workers=8) * 5_000_000 <= memory_bytes / 4
    assert choose_ahead(10**9, memory_bytes, n_workers=8) == 2


def test_no_more_than_that_is_submitted_before_it_is_asked_for(prepared: Preparation) -> None:
    """And batches come in order, whichever is loaded first."""
    n_taken, most = itertools.count(1), 0

    class Late:
        """Loads a batch when it is waited for."""

        def __init__(self) -> None:
            self.n_submitted = 0

        def submit(self, load: Load, task: BatchTask) -> Callable[[], LoadedBatch]:
            self.n_submitted += 1
            return partial(load, task)

    late = Late()
    plan = prepared.plan
    rows = np.arange(len(plan.digests))
    for loaders in (late, LoaderThreads(2)):
        tasks = split_batches(plan.paths, plan.digests, rows, batch_size=1)
        found = []
        for batch in load_ahead(loaders, prepared, tasks, n_workers=2):
            most = max(most, late.n_submitted - next(n_taken))
            found.append(batch.rows[0])
            assert batch.readable.all()
        assert found == rows.tolist()
    assert most == choose_ahead(1, 10**9, n_workers=2)


def test_the_first_batches_load_before_any_is_asked_for(prepared: Preparation) -> None:
    plan, begun = prepared.plan, []

    class Noting:
        def submit(self, load: Load, task: BatchTask) -> Callable[[], LoadedBatch]:
            begun.append(task.rows[0])
            return partial(load, task)

    rows = np.arange(len(plan.digests))
    tasks = split_batches(plan.paths, plan.digests, rows, batch_size=1)
    load_ahead(Noting(), prepared, tasks, n_workers=2)
    assert begun == rows[: len(begun)].tolist()
    assert begun


def test_what_is_wrong_with_a_batch_is_raised_where_it_is_waited_for() -> None:
    def fail(task: BatchTask) -> LoadedBatch:
        raise InputError(f"{task.paths}")

    task = BatchTask(rows=np.arange(1), paths=["a"], digests=[b""])
    with LoaderThreads(1) as loaders, pytest.raises(InputError, match="a"):
        loaders.submit(fail, task)()


def test_threads_that_are_closed_drop_what_nobody_began() -> None:
    begun, go_on = [], threading.Event()

    def load(task: BatchTask) -> LoadedBatch:
        begun.append(task)
        go_on.wait()
        return LoadedBatch(rows=task.rows, pixels=np.zeros((1, 1, 1, 3), np.uint8))

    task = BatchTask(rows=np.arange(1), paths=["a"], digests=[b""])
    with LoaderThreads(1) as loaders:
        waits = [loaders.submit(load, task) for _ in range(3)]
        while not begun:
            time.sleep(0.001)
        threading.Timer(0.1, go_on.set).start()
    assert len(begun) == 1
    assert waits[0]().rows.tolist() == [0]
