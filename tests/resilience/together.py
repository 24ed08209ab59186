"""Several processes on one cache at once: all end and are right, no row is computed twice."""

from __future__ import annotations

import csv
import errno
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from cache.features import Features
from tests.conftest import write_model, write_photos
from tests.resilience.child import Child, Ending
from tests.resilience.jobs import Job, list_jobs, make_small_shards
from tests.resilience.jobs import set_scene as set_jobs_scene
from tests.resilience.report import Result

LAYERS = ("first", "last:avg")
# What may be computed by all processes together, as a multiple of the rows there are.
MOST_WORK = 1.1
_DELAY_S = 0.03
_N_IMAGES = 240


def go_slowly() -> None:
    """Have this process cut small shards and take its time, so that others find it at work."""
    from pipeline.writing import ActivationWriter

    make_small_shards()
    write = ActivationWriter.write

    def write_later(self: ActivationWriter, *what: object) -> None:
        time.sleep(_DELAY_S)
        write(self, *what)

    ActivationWriter.write = write_later


def expire_soon() -> None:
    """As `go_slowly`, with leases that expire after a second."""
    import cache.leases

    go_slowly()
    cache.leases.HEARTBEAT_S, cache.leases.EXPIRES_S = 0.1, 1.0


def lose_locks() -> None:
    """As `go_slowly`, on a file system that has no locks."""
    import fcntl

    go_slowly()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = fcntl.lockf = fail


def lose_wal() -> None:
    """As `go_slowly`, where SQLite cannot share memory and makes do with lock files of its own."""
    _open_index_with("vfs=unix-dotfile")


def lose_index() -> None:
    """As `go_slowly`, with an index that may only be read, and is not there."""
    _open_index_with("mode=ro")


def save_slowly() -> None:
    """Have this process take a while between a head and the record that vouches for it."""
    import pipeline.classifier

    write_json = pipeline.classifier.write_json

    def write_later(file: Path, value: object) -> None:
        time.sleep(3)
        write_json(file, value)

    pipeline.classifier.write_json = write_later


def _open_index_with(query: str) -> None:
    import sqlite3

    go_slowly()
    connect = sqlite3.connect

    def connect_so(path: str, **how: object) -> sqlite3.Connection:
        if path == ":memory:":
            return connect(path, **how)
        return connect(f"{Path(path).absolute().as_uri()}?{query}", uri=True, **how)

    sqlite3.connect = connect_so


@dataclass(frozen=True)
class Scene:
    """Photos and a network in a folder, and the values of each photo."""

    folder: Path
    names: list[str]

    @cached_property
    def expected(self) -> dict[str, dict[str, np.ndarray]]:
        """Layer → photo → row, of a run that was alone."""
        crowd = Crowd(self, self.folder / "alone")
        crowd.start(self.names, LAYERS, make_small_shards)
        (ending,) = crowd.end()
        assert ending.status == 0, ending.err
        return crowd.read(crowd.asked[0])


def set_scene(folder: Path, *, n_images: int = _N_IMAGES) -> Scene:
    """Write photos and a network."""
    photos = write_photos(folder / "photos", n_each=n_images // 2, side=50)
    write_model(folder / "small.keras")
    names = [file.relative_to(folder).as_posix() for file in sorted(photos.rglob("*.jpg"))]
    return Scene(folder, names)


@dataclass(frozen=True)
class Ask:
    """What one process is asked for."""

    names: Sequence[str]
    layers: Sequence[str]
    out: Path


class Crowd:
    """Extractions into one cache at once.

    Parameters
    ----------
    scene : Scene
    folder : Path
        Of the cache and of what they write.
    """

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene = scene
        self.folder = folder
        self.asked: list[Ask] = []
        self.children: list[Child] = []
        (folder / "cache").mkdir(parents=True)

    def start(
        self,
        names: Sequence[str],
        layers: Sequence[str] = LAYERS,
        prepare: object = go_slowly,
        *,
        out: str | None = None,
    ) -> Child:
        """Start one, on photos in an order of its own."""
        ask = Ask(names, layers, self.folder / (out or f"{len(self.asked)}.h5"))
        listed = self.scene.folder / f"{self.folder.name}-{len(self.asked)}.csv"
        with listed.open("w", newline="") as stream:
            rows = [(name, str(number)) for number, name in enumerate(names)]
            csv.writer(stream).writerows([("path", "label"), *rows])
        arguments = [
            *("extract", "--images", listed, "--backbone", self.scene.folder / "small.keras"),
            *("--layers", ",".join(layers), "--batch-size", 4, "--out", ask.out),
        ]
        return self._start(ask, arguments, prepare)

    def compact(self) -> Child:
        """Start merging shards."""
        return self._start(Ask((), (), self.folder), ["compact"], make_small_shards)

    def _start(self, ask: Ask, arguments: list[object], prepare: object) -> Child:
        cache = ("--cache", self.folder / "cache", "--json")
        child = Child([*arguments, *cache], output=self.folder / "output", prepare=prepare)
        self.asked.append(ask)
        self.children.append(child)
        return child

    def wait_for_shards(self, n: int) -> None:
        """Wait until there are some, or all have ended."""
        while len(self.find_shards()) < n and any(child.is_running for child in self.children):
            time.sleep(0.002)

    def end(self) -> list[Ending]:
        """Wait until all have ended."""
        return [child.end() for child in self.children]

    def read(self, ask: Ask) -> dict[str, dict[str, np.ndarray]]:
        """Read what one of them left: layer → photo → row."""
        with Features(ask.out) as features:
            return {
                layer: dict(zip(features.paths, features.read(layer), strict=True))
                for layer in ask.layers
            }

    def find_shards(self) -> list[Path]:
        return list((self.folder / "cache").glob("*/*/shard-*.h5"))

    def measure_work(self) -> float:
        """Return how many rows are stored, as a multiple of those that differ."""
        stored = {folder: [] for folder in {shard.parent for shard in self.find_shards()}}
        for shard in self.find_shards():
            with h5py.File(shard, locking=False) as file:
                stored[shard.parent] += [row.tobytes() for row in file["digest"][()]]
        n_stored = sum(len(rows) for rows in stored.values())
        return n_stored / sum(len(set(rows)) for rows in stored.values())

    def find_wrong(self, ask: Ask) -> list[str]:
        """Say which of the rows that one of them left are wrong."""
        found = self.read(ask) if ask.layers else {}
        wrong = [
            f"{ask.out.name}: {layer} of {name} is wrong"
            for layer in ask.layers
            for name in ask.names
            if not np.allclose(
                found[layer].pop(name, np.nan),
                self.scene.expected[layer][name],
                rtol=1e-5,
                atol=1e-6,
            )
        ]
        return wrong + [f"{ask.out.name}: {layer} has others" for layer in found if found[layer]]

    def check(self, *, most_work: float = MOST_WORK, **statuses: int) -> list[str]:
        """Wait for all and say what is wrong; `statuses` are of the disturbed, as ``p1=-9``."""
        wrong: list[str] = []
        for number, (ask, ending) in enumerate(zip(self.asked, self.end(), strict=True)):
            status = statuses.get(f"p{number}", 0)
            if ending.status != status:
                wrong.append(f"process {number} ended with {ending.status}: {ending.last_line}")
            elif status == 0:
                wrong += self.find_wrong(ask)
        work = self.measure_work()
        if work > most_work:
            wrong.append(f"{work:.2f} times the work")
        return wrong


def try_same(
    crowd: Crowd, chance: random.Random, n: int = 8, prepare: object = go_slowly
) -> list[str]:
    """All want the same."""
    for _ in range(n):
        crowd.start(crowd.scene.names, LAYERS, prepare)
    return crowd.check()


def try_shuffled(crowd: Crowd, chance: random.Random, n: int = 4) -> list[str]:
    """Each wants a part of the photos, in an order of its own."""
    names = crowd.scene.names
    for _ in range(n):
        crowd.start(chance.sample(names, chance.randint(len(names) // 2, len(names))))
    return crowd.check()


def try_layers(crowd: Crowd, chance: random.Random) -> list[str]:
    """They want different layers of the same network."""
    for layers in (LAYERS, LAYERS[:1], LAYERS[1:]):
        crowd.start(crowd.scene.names, layers)
    return crowd.check()


def try_kill(crowd: Crowd, chance: random.Random) -> list[str]:
    """One of three is killed at work."""
    victim, *_ = (crowd.start(crowd.scene.names) for _ in range(3))
    crowd.wait_for_shards(chance.randint(1, 12))
    victim.signal(signal.SIGKILL)
    return crowd.check(p0=-signal.SIGKILL)


def try_interrupt(crowd: Crowd, chance: random.Random) -> list[str]:
    """One of three is interrupted at work, and lets go of what it had taken."""
    victim, *_ = (crowd.start(crowd.scene.names) for _ in range(3))
    crowd.wait_for_shards(chance.randint(1, 12))
    victim.signal(signal.SIGINT)
    return crowd.check(p0=128 + signal.SIGINT)


def try_stop(crowd: Crowd, chance: random.Random) -> list[str]:
    """One of three is stopped at work until the others have ended, and wakes."""
    victim, *others = (crowd.start(crowd.scene.names, LAYERS, expire_soon) for _ in range(3))
    crowd.wait_for_shards(chance.randint(1, 12))
    victim.signal(signal.SIGSTOP)
    try:
        hung = [f"process {n} waits" for n, one in enumerate(others, 1) if not one.wait(60)]
    finally:
        victim.signal(signal.SIGCONT)
    # What it had taken when it was stopped is computed twice.
    return [*hung, *crowd.check(most_work=1.5)]


def try_readers(crowd: Crowd, chance: random.Random) -> list[str]:
    """One reads a view again and again, while it is written anew and its shards are merged."""
    names = crowd.scene.names
    crowd.start(names[::2])
    wrong = crowd.check()
    view = crowd.asked[0]
    for n in (60, 0):
        crowd.start(names[n:])
        crowd.start(view.names, out=view.out.name)
        crowd.compact()
        while any(child.is_running for child in crowd.children):
            wrong += crowd.find_wrong(view)
    return [*wrong, *crowd.check()]


def try_without_locks(crowd: Crowd, chance: random.Random) -> list[str]:
    """Where there are no locks, more may be computed twice."""
    for _ in range(3):
        crowd.start(crowd.scene.names, LAYERS, lose_locks)
    return crowd.check(most_work=2.0)


def try_without_wal(crowd: Crowd, chance: random.Random) -> list[str]:
    return try_same(crowd, chance, 3, lose_wal)


def try_without_index(crowd: Crowd, chance: random.Random) -> list[str]:
    return try_same(crowd, chance, 3, lose_index)


def try_without_leases(crowd: Crowd, chance: random.Random) -> list[str]:
    """Where no leases can be kept, all may compute all."""
    (crowd.folder / "cache/format.json").write_text('{"format": 1}')
    (crowd.folder / "cache/leases").write_text("in the way")
    for _ in range(2):
        crowd.start(crowd.scene.names)
    return crowd.check(most_work=2.0)


def run_twice(job: Job, folder: Path) -> list[str]:
    """Run a command twice at once on the same files, and say what is wrong with what is left."""
    alone = job.fresh(folder / "alone")
    ending = job.finish(alone)
    assert ending.status == 0, ending.err
    expected = job.look(alone)
    both = job.fresh(folder / "both")
    endings = [child.end() for child in [job.begin(both), job.begin(both)]]
    return [line for ending in endings for line in job.find_wrong(both, ending, expected)]


Trial = Callable[[Crowd, random.Random], list[str]]
TRIALS: tuple[Trial, ...] = (
    try_same,
    try_shuffled,
    try_layers,
    try_kill,
    try_interrupt,
    try_stop,
    try_readers,
    try_without_locks,
    try_without_wal,
    try_without_index,
    try_without_leases,
)


# Commands of which two write the same files.
TWICE = ("sweep", "fit", "predict", "export", "index")


def run_trials(seed: int, scratch: Path, trials: Sequence[Trial] = TRIALS) -> Result:
    """Try each of them in a fresh cache."""
    scene = set_scene(scratch / "scene")
    failures: list[str] = []
    n_started = n_wrong = 0
    for trial in trials:
        crowd = Crowd(scene, scratch / trial.__name__)
        wrong = trial(crowd, random.Random(f"{seed} {trial.__name__}"))
        failures += [f"{trial.__name__}: {line}" for line in wrong]
        n_started += len(crowd.children)
        n_wrong += min(len(crowd.children), len(wrong))
    jobs = list_jobs(set_jobs_scene(scratch / "jobs"))
    for name in TWICE:
        wrong = run_twice(jobs[name], scratch / name)
        failures += [f"{name}, twice at once: {line}" for line in wrong]
        n_started += 2
        n_wrong += min(2, len(wrong))
    return Result(
        what="processes on one cache at once, two to eight, some killed, stopped, without locks",
        injected=n_started,
        survived=n_started - n_wrong,
        failures=failures,
    )


def run(seed: int) -> Result:
    """Try all of them."""
    with tempfile.TemporaryDirectory() as scratch:
        return run_trials(seed, Path(scratch))
