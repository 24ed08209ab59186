"""Claims: a run alone takes its rows as if there were none; runs at once share theirs."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.locations import split_digests
from permafrost.cache.shards.reader import read_digests
from permafrost.cache.store.featureset import FeatureSet
from permafrost.cache.store.folders import open_feature_set_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import open_cache
from permafrost.cache.store.leases import Leases
from permafrost.pipeline.computing.claims import Claims
from permafrost.pipeline.computing.writer import ActivationWriter
from permafrost.pipeline.forward.batch import BatchTask, LoadedBatch
from permafrost.pipeline.planning.missing import plan_extraction
from permafrost.stages.backbones.layers import LayerSpec
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.texts import Texts

DIGESTS = [random.Random(number).randbytes(32) for number in range(300)]
BATCH_SIZE = 4


def ignore(_: object) -> None:
    pass


class Run:
    """One run's claims on rows of a cache; `work` computes them, after `each` batch is called.

    What a network would compute of an image is here the first eight bytes of its digest.
    """

    def __init__(self, home: Path, digests: Sequence[bytes], *layers: str) -> None:
        self.home = home
        self.digests = digests
        self.layers = layers or ("a",)
        self.computed: list[bytes] = []
        self.told = 0

    @contextmanager
    def claims(self) -> Iterator[tuple[Claims, ActivationWriter]]:
        layout = open_cache(self.home)
        with Index(layout.index_file) as index:
            plan = plan_extraction(
                Texts.of(digest.hex() for digest in self.digests),
                Digests.of(self.digests),
                index.failures("d"),
                [self._describe(layer, index) for layer in self.layers],
            )
            keys = [layer.features.key for layer in plan.active]
            for layer in plan.active:
                open_feature_set_folder(layout, layer.recipe)
            with (
                Leases(layout.leases_folder, keys) as leases,
                ActivationWriter(
                    plan, leases, index=index, decoding="d", on_error="skip"
                ) as writer,
            ):
                claims = Claims(
                    *(plan, leases, writer),
                    batch_size=BATCH_SIZE,
                    find_failures=lambda: index.failures("d"),
                )
                yield claims, writer

    def work(self, each: Callable[[BatchTask], object] = ignore) -> None:
        with self.claims() as (claims, writer):
            for tasks in claims.rounds(self.tell):
                for task in tasks:
                    each(task)
                    self.computed += task.digests
                    writer.write(load(task), [compute(task.digests) for _ in self.layers])

    def tell(self, n: int) -> None:
        self.told += n

    def _describe(
        self, layer: str, index: Index
    ) -> tuple[LayerSpec, dict[str, str], RowFormat, FeatureSet]:
        recipe = {"backbone": "b", "layer": layer, "pooling": "none", "view": "identity"}
        features = FeatureSet(open_cache(self.home), recipe, index)
        return LayerSpec(layer=layer), recipe, RowFormat(shape=(8,), dtype="float32"), features


def load(task: BatchTask) -> LoadedBatch:
    return LoadedBatch(rows=task.rows, pixels=np.zeros((len(task.rows), 1, 1, 3), np.uint8))


def compute(digests: Sequence[bytes]) -> np.ndarray:
    return np.array([list(digest[:8]) for digest in digests], np.float32)


def list_stored(home: Path, layer: str) -> list[bytes]:
    """List the digests in all shards of a layer; one that is stored twice comes twice."""
    with Index() as index:
        features = Run(home, [], layer)._describe(layer, index)[-1]
    shards = sorted(features.folder.glob("shard-*.h5"))
    return [
        digest for shard in shards for digest in split_digests(read_digests(shard, features.key))
    ]


@pytest.mark.parametrize("n_images", [1, 4, 6, 299])
def test_a_run_alone_takes_all_rows_in_order_and_in_whole_batches(
    tmp_path: Path, n_images: int
) -> None:
    sizes: list[int] = []
    run = Run(tmp_path / "cache", DIGESTS[:n_images])
    run.work(lambda task: sizes.append(len(task.rows)))
    assert run.computed == DIGESTS[:n_images]
    assert all(size == BATCH_SIZE for size in sizes[:-1])
    assert list((tmp_path / "cache/leases").iterdir()) == [tmp_path / "cache/leases/lock"]


def test_a_run_that_is_resumed_meets_the_same_batches(tmp_path: Path) -> None:
    batches: list[list[bytes]] = []
    calls = itertools.count()

    class KilledError(Exception):
        pass

    def note(task: BatchTask) -> None:
        if next(calls) in (5, 23):
            raise KilledError
        batches.append(list(task.digests))

    run = Run(tmp_path / "cache", DIGESTS)
    for _ in range(2):
        with pytest.raises(KilledError):
            run.work(note)
    run.work(note)
    assert batches == [DIGESTS[start : start + 4] for start in range(0, 300, 4)]


@pytest.mark.parametrize("seed", range(3))
def test_runs_at_once_compute_each_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever of the images each of them wants, and in whatever order."""
    monkeypatch.setattr("permafrost.pipeline.computing.claims.POLL_S", 0.01)
    # However slow the machine: without the lock, some may be computed twice.
    monkeypatch.setattr("permafrost.cache.store.leases.LOCK_TIMEOUT_S", 60.0)
    chance = random.Random(seed)
    samples = [chance.sample(DIGESTS, chance.randint(100, 300)) for _ in range(4)]
    runs = [Run(tmp_path / "cache", sample) for sample in samples]
    start = Barrier(len(runs))

    def work(run: Run) -> None:
        start.wait()
        run.work()

    with ThreadPoolExecutor(len(runs)) as threads:
        list(threads.map(work, runs))
    wanted = set().union(*samples)
    assert Counter(digest for run in runs for digest in run.computed) == Counter(wanted)
    assert Counter(list_stored(tmp_path / "cache", "a")) == Counter(wanted)
    # Those that another one computed count as done; those this one did are told elsewhere.
    assert [run.told + len(run.computed) for run in runs] == [len(sample) for sample in samples]


def test_of_layers_that_others_computed_meanwhile_no_row_is_stored_twice(tmp_path: Path) -> None:
    both = Run(tmp_path / "cache", DIGESTS[:60], "a", "b")
    with both.claims() as (claims, writer):
        Run(tmp_path / "cache", DIGESTS[:30], "b").work()
        for tasks in claims.rounds(ignore):
            for task in tasks:
                writer.write(load(task), [compute(task.digests)] * 2)
    for layer in "ab":
        assert Counter(list_stored(tmp_path / "cache", layer)) == Counter(DIGESTS[:60])


def test_what_a_dead_run_held_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("permafrost.pipeline.computing.claims.POLL_S", 0.01)
    stopped, run = Run(tmp_path / "cache", DIGESTS), Run(tmp_path / "cache", DIGESTS)
    polls: list[int] = []
    with stopped.claims() as (claims, _):
        held = next(next(claims.rounds(ignore)))

        def give_up(n: int) -> None:
            polls.append(n)
            if later.describe():
                monkeypatch.setattr("permafrost.cache.store.leases.EXPIRES_S", -1.0)

        with run.claims() as (later, writer):
            for tasks in later.rounds(give_up):
                for task in tasks:
                    run.computed += task.digests
                    writer.write(load(task), [compute(task.digests)])
    assert set(held.digests) <= set(run.computed[-len(DIGESTS) // 2 :])
    assert sorted(run.computed) == sorted(DIGESTS)
    assert 0 in polls


def test_a_run_that_does_not_move_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("permafrost.pipeline.computing.claims.POLL_S", 0.01)
    monkeypatch.setattr("permafrost.pipeline.computing.claims.PATIENCE_S", 0.1)
    stuck, run = Run(tmp_path / "cache", DIGESTS), Run(tmp_path / "cache", DIGESTS)
    with stuck.claims() as (claims, _):
        next(next(claims.rounds(ignore)))
        run.work()
    assert sorted(run.computed) == sorted(DIGESTS)


def test_an_image_that_another_run_could_not_decode_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("permafrost.pipeline.computing.claims.POLL_S", 0.01)
    first, second = Run(tmp_path / "cache", DIGESTS[:8]), Run(tmp_path / "cache", DIGESTS[:8])
    with first.claims() as (claims, writer), second.claims() as (later, _):
        for tasks in claims.rounds(ignore):
            for task in tasks:
                batch = load(task)
                if DIGESTS[1] in task.digests:
                    batch.broken[1] = "no image"
                writer.write(batch, [compute(task.digests)])
        # The first one still holds the row, and will not write it.
        assert list(later.rounds(second.tell)) == []
        assert later.waited_s > 0
        assert later.failed == {DIGESTS[1]: "no image"}
    assert second.told == 8


def test_rows_that_are_waited_for_are_committed_early(tmp_path: Path) -> None:
    run = Run(tmp_path / "cache", DIGESTS)
    layer = run._describe("a", Index())[-1]
    waiting = Leases(tmp_path / "cache/leases", [layer.key])
    n_stored: list[int] = []

    def look(task: BatchTask) -> None:
        n_stored.append(len(list_stored(tmp_path / "cache", "a")))

    with waiting:
        with waiting.choosing():
            waiting.hold([], waiting=True)
        run.work(look)
    assert n_stored[0] == 0
    assert 0 < n_stored[len(n_stored) // 2] < len(DIGESTS)


def expire(home: Path) -> None:
    """Let all leases look as if nobody had touched them for long."""
    for lease in home.glob("leases/lease-*"):
        os.utime(lease, (0, 0))


@pytest.mark.parametrize("n_batches", [1, 3, 20, 74, 75])
def test_what_others_computed_while_a_run_slept_it_does_not_publish(
    tmp_path: Path, n_batches: int
) -> None:
    run, other = Run(tmp_path / "cache", DIGESTS), Run(tmp_path / "cache", DIGESTS)
    calls = itertools.count(1)

    def sleep(_: BatchTask) -> None:
        if next(calls) == n_batches:
            expire(tmp_path / "cache")
            other.work()

    run.work(sleep)
    assert other.computed == DIGESTS
    assert Counter(list_stored(tmp_path / "cache", "a")) == Counter(DIGESTS)


@pytest.mark.parametrize("ends", ["computes them", "dies"])
def test_what_another_holds_since_a_run_slept_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr("permafrost.pipeline.computing.claims.POLL_S", 0.01)
    run, other = Run(tmp_path / "cache", DIGESTS), Run(tmp_path / "cache", DIGESTS)
    calls, stack = itertools.count(1), ExitStack()
    taken: list[BatchTask] = []
    rounds: list[Iterator[Iterator[BatchTask]]] = []

    def sleep(_: BatchTask) -> None:
        if next(calls) == 20:
            expire(tmp_path / "cache")
            theirs, their_writer = stack.enter_context(other.claims())
            rounds.append(theirs.rounds(ignore))
            taken.extend(itertools.islice(next(rounds[0]), 4))
            if ends == "computes them":
                write = partial(their_writer.write, load(taken[0]))
                stack.callback(write, [compute(taken[0].digests)])

    def wait_and_see(n: int) -> None:
        run.tell(n)
        if claims.describe():  # nothing but the other's rows is left
            stack.close()

    with run.claims() as (claims, writer):
        for tasks in claims.rounds(wait_and_see):
            for task in tasks:
                sleep(task)
                run.tell(len(task.rows))
                writer.write(load(task), [compute(task.digests)])
    assert claims.waited_s > 0
    assert run.told == len(DIGESTS)
    assert Counter(list_stored(tmp_path / "cache", "a")) == Counter(DIGESTS)


def test_a_run_that_slept_alone_takes_its_rows_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("permafrost.cache.store.leases.HEARTBEAT_S", 0.01)
    run, stored = Run(tmp_path / "cache", DIGESTS), []
    calls = itertools.count(1)

    def sleep(_: BatchTask) -> None:
        if next(calls) == 20:
            expire(tmp_path / "cache")
            time.sleep(0.1)
        stored.append(len(list_stored(tmp_path / "cache", "a")))

    run.work(sleep)
    assert run.computed == DIGESTS
    assert stored[19:21] == [0, 80]
    assert Counter(list_stored(tmp_path / "cache", "a")) == Counter(DIGESTS)
