"""The fastest way is found by timing: here by a clock that the programs themselves move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest

from permafrost.stages.engines.choosing import ChoosingProgram
from permafrost.stages.engines.program import HalvingProgram, OutOfMemoryError, Verdict
from permafrost.stages.shortcuts.choice import TOLERANCE, WAYS, list_ways, simplify

BATCH = np.arange(32, dtype=np.uint8)[:, None]


class Bench:
    """Ways that take a known time to build and to run, and are off by a known error."""

    def __init__(
        self,
        seconds: Mapping[str, float],
        *,
        build_s: float = 1.0,
        errors: Mapping[str, float] | None = None,
        largest: int = 1000,
    ) -> None:
        self.seconds, self.build_s = seconds, build_s
        self.errors, self.largest = errors or {}, largest
        self.now_s = 0.0
        self.runs: Counter[str] = Counter()
        self.open: set[str] = set()
        self.verdicts: list[Verdict] = []

    def choose(self, *, n_images: int, is_checked: bool = False) -> ChoosingProgram:
        return ChoosingProgram(
            lambda way: self._Program(self, way),
            list(self.seconds),
            batch_size=len(BATCH),
            n_images=n_images,
            is_checked=is_checked,
            note=self.verdicts.append,
            clock=lambda: self.now_s,
        )

    class _Program:
        def __init__(self, bench: Bench, way: str) -> None:
            self.bench, self.way = bench, way
            bench.now_s += bench.build_s
            bench.open.add(way)

        def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
            bench = self.bench
            assert self.way in bench.open
            if len(batch) > bench.largest:
                raise OutOfMemoryError(f"a batch of {len(batch)} images")
            bench.now_s += bench.seconds[self.way] * len(batch) / len(BATCH)
            bench.runs[self.way] += 1
            return [batch.astype(np.float32) * (1 + bench.errors.get(self.way, 0.0))]

        def close(self) -> None:
            self.bench.open.remove(self.way)


def run(bench: Bench, n_batches: int, *, n_images: int = 100_000, **how: bool) -> list[np.ndarray]:
    program = bench.choose(n_images=n_images, **how)
    return [program(BATCH)[0] for _ in range(n_batches)]


@pytest.mark.parametrize("fastest", ["plain", "winograd", "folded"])
@pytest.mark.parametrize("is_checked", [False, True])
def test_the_fastest_way_runs_the_rest_and_is_told(fastest: str, is_checked: bool) -> None:
    seconds = {"plain": 2.0, "winograd": 2.1, "folded": 1.98} | {fastest: 1.0}
    bench = Bench(seconds)
    outputs = run(bench, 30, is_checked=is_checked)
    assert all(np.array_equal(values, BATCH) for values in outputs)
    (verdict,) = bench.verdicts
    assert verdict.way == fastest
    expected = {way: len(BATCH) / second for way, second in seconds.items()}
    assert verdict.images_per_second == pytest.approx(expected)
    assert bench.open == {fastest}
    # Three batches each; of a checked way's first batch, some run in the first way too.
    assert bench.runs[fastest] >= 30 - 6
    assert sum(bench.runs.values()) == 30 + 2 * is_checked


def test_a_way_whose_numbers_differ_serves_no_row() -> None:
    bench = Bench(
        {"plain": 2.0, "winograd": 0.1, "folded": 1.0},
        errors={"winograd": 2 * TOLERANCE, "folded": 0.5 * TOLERANCE},
    )
    outputs = run(bench, 20, is_checked=True)
    for values in outputs:
        np.testing.assert_allclose(values, BATCH, rtol=TOLERANCE)
    assert bench.verdicts[0].way == "folded"
    assert bench.verdicts[0].images_per_second["winograd"] == 0.0
    assert "winograd not close enough" in bench.verdicts[0].describe()
    assert (bench.runs["winograd"], bench.open) == (1, {"folded"})


def test_little_work_is_done_in_the_first_way_alone() -> None:
    bench = Bench({"plain": 1.0, "winograd": 0.1}, build_s=10.0)
    run(bench, 6, n_images=6 * len(BATCH))
    assert set(bench.runs) == {"plain"}
    assert bench.verdicts == []


def test_work_that_is_worth_some_ways_leaves_the_others_for_another_time() -> None:
    bench = Bench({"plain": 2.0, "winograd": 1.0, "folded": 0.5}, build_s=3.0)
    run(bench, 12, n_images=12 * len(BATCH))
    # After three batches each, 9 batches at 2 s are worth 4 times 3 s, and 6 at 1 s are not.
    (verdict,) = bench.verdicts
    assert (verdict.way, list(verdict.untried)) == ("winograd", ["folded"])
    assert bench.runs == {"plain": 3, "winograd": 9}


def test_eight_images_tell_whether_numbers_are_close() -> None:
    sizes: list[int] = []

    class Noting(Bench._Program):
        def __call__(self, batch: np.ndarray) -> list[np.ndarray]:
            sizes.append(len(batch))
            return super().__call__(batch)

    bench = Bench({"plain": 2.0, "winograd": 1.0})
    bench._Program = Noting  # type: ignore[misc]
    run(bench, 6, is_checked=True)
    assert sizes == [32, 32, 32, 32, 8, 32, 32]


def test_noise_does_not_change_the_way() -> None:
    bench = Bench({"plain": 1.0, "winograd": 0.99})
    run(bench, 20)
    assert bench.verdicts[0].way == "plain"


def test_samples_and_last_batches_tell_nothing() -> None:
    bench = Bench({"plain": 1.0, "winograd": 0.5})
    program = bench.choose(n_images=100_000)
    for size in (8, 32, 1, 32, 32, 5, 32, 32, 7, 32, 32, 3):
        np.testing.assert_array_equal(program(BATCH[:size])[0], BATCH[:size])
    assert bench.verdicts[0].way == "winograd"
    rates = bench.verdicts[0].images_per_second
    assert rates == pytest.approx({"plain": 32.0, "winograd": 64.0})


def test_where_memory_is_short_the_first_way_goes_on_with_smaller_batches() -> None:
    bench = Bench({"plain": 1.0, "winograd": 0.5}, largest=16)
    program = HalvingProgram(bench.choose(n_images=100_000))
    for _ in range(20):
        np.testing.assert_array_equal(program(BATCH)[0], BATCH)
    assert set(bench.runs) == {"plain"}
    assert bench.verdicts == []


def test_a_closed_program_has_released_all_ways() -> None:
    bench = Bench({"plain": 1.0, "winograd": 0.5})
    program = bench.choose(n_images=100_000, is_checked=True)
    for _ in range(4):
        program(BATCH)
    assert bench.open == {"plain", "winograd"}
    program.close()
    assert bench.open == set()


@pytest.mark.parametrize(
    ("how", "ways"),
    [
        ({"precision": "float32", "normalizes": False, "on_gpu": False}, ("winograd", "plain")),
        (
            {"precision": "float32", "normalizes": True, "on_gpu": False},
            ("plain", "winograd", "folded"),
        ),
        ({"precision": "bfloat16", "normalizes": False, "on_gpu": False}, ("winograd", "plain")),
        ({"precision": "bfloat16", "normalizes": True, "on_gpu": False}, ("folded", "winograd")),
        ({"precision": "float16", "normalizes": True, "on_gpu": True}, ("folded", "plain")),
        ({"precision": "float32", "normalizes": True, "on_gpu": True}, ("plain", "folded")),
        ({"precision": "float16", "normalizes": False, "on_gpu": True}, ("plain",)),
    ],
)
def test_what_may_be_the_fastest_depends_on_network_and_device(
    how: dict[str, bool | str], ways: tuple[str, ...]
) -> None:
    assert list_ways(**how) == ways  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("differing", "simplest"),
    [
        (set(), ["plain", "plain", "plain"]),
        ({"plain"}, ["plain", "plain", "plain"]),
        ({"plain", "folded"}, ["plain", "folded", "folded"]),
        ({"plain", "winograd"}, ["plain", "plain", "winograd"]),
        (set(WAYS), ["plain", "folded", "winograd"]),
    ],
)
def test_what_a_network_has_nothing_of_is_left_out_of_a_way(
    differing: set[str], simplest: list[str]
) -> None:
    assert [simplify(way, differing) for way in WAYS] == simplest
