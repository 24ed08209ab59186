"""Processes that fit: what they share, and what becomes of the wait when one is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from pickle import PicklingError

import numpy as np
import psutil
import pytest

from permafrost.stages.evaluation.fold_task import FoldTask, run_task
from permafrost.stages.evaluation.processes import Workers
from tests.helpers.fold_tasks import N_MANY, kill, list_children, make_task


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with Workers(tmp_path) as workers:
        yield workers
    assert list_children() == []


def test_processes_answer_what_this_one_would(workers: Workers) -> None:
    tasks = [make_task(number, n_features=500) for number in range(5)]
    expected = {task.number: run_task(task)[0] for task in tasks}
    # Twice: the processes stay.
    for _ in range(2):
        found = {one.fold: one for one in workers.run(iter(tasks), n_jobs=2)}
        assert found.keys() == expected.keys()
        for number, one in expected.items():
            np.testing.assert_array_equal(found[number].outputs, one.outputs)
            assert found[number].classes.tolist() == one.classes.tolist()


def test_an_array_is_written_once_and_goes_with_its_last_task(
    workers: Workers, tmp_path: Path
) -> None:
    shared = [make_task(0, n_features=2000)] * 6
    files = set()
    for _ in workers.run(iter(shared), n_jobs=2):
        files |= set(tmp_path.iterdir())
    assert len(files) == 1
    for number, _ in enumerate(
        workers.run((make_task(n, n_features=2000) for n in range(9)), n_jobs=2)
    ):
        # That of the tasks before, of the two that are going, and of the two that ended last.
        assert len(set(tmp_path.iterdir())) <= 5, number


def test_a_process_killed_before_it_has_begun_ends_the_wait(workers: Workers) -> None:
    def list_tasks() -> Iterator[FoldTask]:
        kill(list_children()[0])  # They start as soon as tasks are asked for.
        yield from map(make_task, range(4))

    with pytest.raises(BrokenProcessPool):
        list(workers.run(list_tasks(), n_jobs=2))


def test_a_process_killed_while_idle_ends_the_next_wait(workers: Workers) -> None:
    assert len(list(workers.run(map(make_task, range(4)), n_jobs=2))) == 4
    kill(list_children()[0])
    with pytest.raises(BrokenProcessPool):
        list(workers.run(map(make_task, range(4)), n_jobs=2))


def test_a_process_killed_in_the_middle_of_its_answer_ends_the_wait(workers: Workers) -> None:
    list(workers.run(map(make_task, range(2)), n_jobs=2))
    busy = workers._all[0]
    busy.ask(*workers._pickle(make_task(1, n_test=N_MANY)))
    assert busy.connection.poll(30)
    time.sleep(0.2)
    kill(psutil.Process(busy._process.pid))
    with pytest.raises(BrokenProcessPool):
        busy.hear()


def test_what_a_task_raises_is_raised_here(workers: Workers) -> None:
    with pytest.raises(KeyError, match="no such head"):
        list(workers.run(iter([make_task(0), make_task(1, kind="no such head")]), n_jobs=2))


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with (
        Workers(tmp_path / "gone") as workers,
        pytest.raises(PicklingError, match="gone") as caught,
    ):
        list(workers.run((make_task(n, n_features=2000) for n in range(2)), n_jobs=2))
    assert isinstance(caught.value.__cause__, FileNotFoundError)
