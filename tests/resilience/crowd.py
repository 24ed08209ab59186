"""Extractions that start together on one cache, and what makes their lives hard."""

from __future__ import annotations

import csv
import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from permafrost.cache.views.features import Features
from tests.helpers.inputs import write_model, write_photos
from tests.resilience.child import Child, Ending
from tests.resilience.jobs import make_small_shards

LAYERS = ("first", "last:avg")
# What may be computed by all processes together, as a multiple of the rows there are.
MOST_WORK = 1.1
_DELAY_S = 0.03
_N_IMAGES = 240


def go_slowly() -> None:
    """Have this process cut small shards and take its time, so that others find it at work."""
    from permafrost.pipeline.computing.writer import ActivationWriter

    make_small_shards()
    write = ActivationWriter.write

    def write_later(self: ActivationWriter, *what: object) -> None:
        time.sleep(_DELAY_S)
        write(self, *what)

    ActivationWriter.write = write_later


def expire_soon() -> None:
    """As `go_slowly`, with leases that expire after a second."""
    import permafrost.cache.store.leases

    go_slowly()
    permafrost.cache.store.leases.HEARTBEAT_S, permafrost.cache.store.leases.EXPIRES_S = 0.1, 1.0


def lose_locks() -> None:
    """As `go_slowly`, on a file system that has no locks."""
    import fcntl

    go_slowly()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = fcntl.lockf = fail


def use_lock_files() -> None:
    """As `go_slowly`, where SQLite cannot share memory and makes do with lock files of its own."""
    _open_index_with("vfs=unix-dotfile")


def lose_index() -> None:
    """As `go_slowly`, with an index that may only be read, and is not there."""
    _open_index_with("mode=ro")


def save_slowly() -> None:
    """Have this process take a while between a head and the record that vouches for it."""
    import permafrost.pipeline.export.classifier

    write_json = permafrost.pipeline.export.classifier.write_json

    def write_later(file: Path, value: object) -> None:
        time.sleep(3)
        write_json(file, value)

    permafrost.pipeline.export.classifier.write_json = write_later


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
    write_model(folder / "small.keras", exact=True)
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
            *("--layers", ",".join(layers), "--preprocess", "none", "--batch-size", 4),
            *("--out", ask.out),
        ]
        return self._start(ask, arguments, prepare)

    def compact(self) -> Child:
        """Start merging shards."""
        return self._start(Ask((), (), self.folder), ["compact"], make_small_shards)

    def collect(self) -> Child:
        """Start dropping all that no run relies on."""
        return self._start(Ask((), (), self.folder), ["gc", "--keep-days", "0"], make_small_shards)

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
