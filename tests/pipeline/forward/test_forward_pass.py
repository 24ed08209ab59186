"""The backbone's thread: order, overlap, failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from permafrost.pipeline.forward.batch import LoadedBatch
from permafrost.pipeline.forward.forward_pass import ForwardPass
from permafrost.pipeline.progress import Shares
from permafrost.stages.engines.program import HalvingProgram, OutOfMemoryError

PATIENCE_S = 60.0


def make_batches(n: int, *, broken: tuple[int, ...] = ()) -> Iterator[LoadedBatch]:
    for start in range(n):
        pixels = np.full((1, 2, 2, 3), start, np.uint8)
        yield LoadedBatch(
            rows=np.array([start]), pixels=pixels, broken={0: "no image"} if start in broken else {}
        )


class Program(HalvingProgram):
    """Gives the same whichever rows it is told of."""

    def __call__(self, batch: np.ndarray, rows: np.ndarray | None = None) -> list[np.ndarray]:
        return super().__call__(batch)


def mean(batch: np.ndarray) -> list[np.ndarray]:
    return [batch.mean((1, 2), dtype=np.float32)]


@pytest.mark.parametrize("n_at_once", [1, 2, 3])
def test_batches_come_in_order_with_their_own_activations(n_at_once: int) -> None:
    def fastest_last(batch: np.ndarray) -> list[np.ndarray]:
        time.sleep(0.02 if batch[0, 0, 0, 0] % 2 == 0 else 0)
        return mean(batch)

    program = Program(fastest_last, n_at_once=n_at_once)
    with ForwardPass(lambda: program, Shares()) as forward:
        found = [(batch.rows[0], values) for batch, values in forward.run(make_batches(9))]
    assert [start for start, _ in found] == list(range(9))
    assert all((values[0] == start).all() for start, values in found)


def test_the_next_batch_runs_while_one_is_handed_over() -> None:
    second = threading.Event()

    def program(batch: np.ndarray) -> list[np.ndarray]:
        if batch[0, 0, 0, 0] == 1:
            second.set()
        return mean(batch)

    with ForwardPass(lambda: Program(program), Shares()) as forward:
        running = forward.run(make_batches(3))
        next(running)
        assert second.wait(PATIENCE_S)


def test_the_engine_is_imported_while_the_first_batch_loads() -> None:
    told = []

    def load() -> Iterator[LoadedBatch]:
        told.append("waited for")
        yield from make_batches(1)

    def build() -> Program:
        told.append("built")
        return Program(mean)

    with ForwardPass(build, Shares(), start=lambda: told.append("imported")) as forward:
        list(forward.run(load()))
    assert told == ["imported", "waited for", "built"]


def test_without_a_readable_image_no_program_is_built() -> None:
    def build() -> Program:
        raise AssertionError("built")

    with ForwardPass(build, Shares()) as forward:
        found = list(forward.run(make_batches(3, broken=(0, 1, 2))))
    assert [(batch.rows[0], values) for batch, values in found] == [(0, []), (1, []), (2, [])]


def test_batches_without_a_readable_image_keep_their_place() -> None:
    with ForwardPass(lambda: Program(mean), Shares()) as forward:
        found = list(forward.run(make_batches(5, broken=(0, 2, 4))))
    assert [(batch.rows[0], bool(values)) for batch, values in found] == [
        (0, False), (1, True), (2, False), (3, True), (4, False),
    ]  # fmt: skip


def test_what_the_program_raises_reaches_the_loop_at_its_batch() -> None:
    def program(batch: np.ndarray) -> list[np.ndarray]:
        if batch[0, 0, 0, 0] == 2:
            raise OutOfMemoryError("a batch of 1 images")
        return mean(batch)

    seen = []
    with (
        pytest.raises(OutOfMemoryError),
        ForwardPass(lambda: Program(program), Shares()) as forward,
    ):
        for batch, _ in forward.run(make_batches(5)):
            seen.append(batch.rows[0])
    assert seen == [0, 1]


def test_leaving_early_waits_for_what_runs_and_drops_the_rest() -> None:
    ran = []

    def program(batch: np.ndarray) -> list[np.ndarray]:
        ran.append(int(batch[0, 0, 0, 0]))
        return mean(batch)

    with ForwardPass(lambda: Program(program), Shares()) as forward:
        next(forward.run(make_batches(100)))
    n_ran = len(ran)
    assert n_ran <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("backbone")]


def test_the_time_of_each_party_is_told() -> None:
    def load_slowly() -> Iterator[LoadedBatch]:
        for batch in make_batches(3):
            time.sleep(0.05)
            yield batch

    def build() -> Program:
        time.sleep(0.05)
        return Program(mean)

    shares = Shares()
    with ForwardPass(build, shares) as forward:
        list(forward.run(load_slowly()))
    assert shares.bottleneck == "loading"
    assert shares.loading >= 0.15
    assert shares.building >= 0.05
    parties = {"planning", "building", "loading", "backbone", "disk", "others"}
    assert shares.of(1.0).keys() == parties
