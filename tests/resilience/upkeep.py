"""gc, compact and repair, killed before every single thing that they do to the disk."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from permafrost.cache.errors import CacheError
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.upkeep.verify import verify_cache
from permafrost.cache.views.features import Features
from permafrost.stages.datasets.manifest import Manifest, write_manifest
from tests.helpers.shards import (
    ROW_BYTES,
    expect_set,
    make_digests,
    make_rows,
    read_set,
    write_set,
    write_whole_view,
)
from tests.resilience.child import Child
from tests.resilience.child import run as run_command
from tests.resilience.report import Result, sum_up

# Rows of a shard, where these are merged.
_MOST_ROWS = 5
# Some rows are there twice, one of them three times.
_SHARDS = ((0, 1), (2,), (3, 4, 5), (1, 6), (7,), (1, 2, 8))
_EVERY = tuple(range(9))
_USED = (0, 2, 3, 7)
# What `damage` leaves: of the third shard one row is lost, the fifth is cut short.
_SOUND = (0, 1, 2, 3, 5, 6, 8)


def merge_few() -> None:
    """Have this process merge shards up to a few rows."""
    import permafrost.cache.shards.format

    permafrost.cache.shards.format.SHARD_BYTES = _MOST_ROWS * ROW_BYTES


def die_at(step: int) -> None:
    """Have this process killed before it changes something on the disk for that time."""
    from permafrost.cache.hdf5.create import WriteStream

    merge_few()
    steps = itertools.count(1)

    def guard(do: Callable[..., Any]) -> Callable[..., Any]:
        def die_or_do(*what: Any, **how: Any) -> Any:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*what, **how)

        return die_or_do

    for name in ("fsync", "utime", "unlink", "replace", "rename", "rmdir", "mkdir"):
        setattr(os, name, guard(getattr(os, name)))
    WriteStream.write = guard(WriteStream.write)  # type: ignore[method-assign]


def do_nothing_to(_: Path) -> None:
    """Damage nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A command on a cache, and the rows that must be there during and after it."""

    name: str
    arguments: Sequence[object]
    needed: Sequence[int]
    damage: Callable[[Path], object] = do_nothing_to


def damage(place: Path) -> None:
    """Flip a bit in a row of one shard, and cut another short."""
    for shard in place.glob("shard-*.h5"):
        content = bytearray(shard.read_bytes())
        at = content.find(make_rows([4]).tobytes())
        if at >= 0:
            content[at] ^= 1
            shard.write_bytes(content)
        elif make_rows([7]).tobytes() in content:
            shard.write_bytes(content[:-9])


def list_scenes(folder: Path) -> list[Scene]:
    """Return all commands, on a cache in ``folder/now``, and write the manifest they need."""
    manifest = Manifest(
        root=str(folder),
        paths=[f"{number}.png" for number in _USED],
        labels=[""] * len(_USED),
        splits=[""] * len(_USED),
        digests=[digest.tobytes() for digest in make_digests(_USED)],
    )
    write_manifest(manifest, folder / "used.csv")
    cache = ("--cache", folder / "now/cache")
    unused = ("--unused-by", folder / "used.csv")
    return [
        Scene(name="compact", arguments=["compact", *cache], needed=_EVERY),
        Scene(name="gc", arguments=["gc", *cache], needed=_EVERY),
        Scene(name="gc --unused-by", arguments=["gc", *cache, *unused], needed=_USED),
        Scene(name="gc --keep-days", arguments=["gc", *cache, "--keep-days", 0], needed=()),
        Scene(name="repair", arguments=["repair", *cache], needed=_SOUND, damage=damage),
    ]


def run(seed: int, *, stride: int = 3) -> Result:
    """Kill each command before every `stride`-th of its steps, then repeat it."""
    first = random.Random(seed).randint(1, stride)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        outcomes = [
            outcome
            for scene in list_scenes(folder)
            for outcome in _kill_everywhere(scene, folder, range(first, 10_000, stride))
        ]
    return sum_up(
        "gc, compact and repair killed at each step: no row lost or wrong, tidy after", outcomes
    )


def _kill_everywhere(scene: Scene, folder: Path, steps: Sequence[int]) -> Iterator[str]:
    for step in steps:
        now = folder / "now"
        shutil.rmtree(now, ignore_errors=True)
        # A row a chunk, so that one can be damaged.
        with patch("permafrost.cache.shards.format.CHUNK_BYTES", ROW_BYTES):
            layout, place = write_set(now / "cache", _SHARDS)
        write_whole_view(now / "view.h5", layout, scene.needed or _EVERY)
        scene.damage(place)
        damaged = {path.read_bytes() for path in place.glob("shard-*.h5")}
        child = Child(scene.arguments, output=folder / "output", prepare=partial(die_at, step))
        if child.end().status == 0:
            return
        wrong = _find_wrong_now(now, place, scene) or _find_wrong_after(folder, place, scene)
        if scene.damage is damage and not damaged <= {
            path.read_bytes() for path in place.rglob("shard-*.h5")
        }:
            wrong = wrong or "a damaged file is gone"
        yield wrong and f"{scene.name}, killed at step {step}: {wrong}"


def _find_wrong_now(now: Path, place: Path, scene: Scene) -> str:
    """Look at what a kill left: as others read it, and as our reader does."""
    expected = expect_set(_EVERY)
    # Plain h5py stops at what is damaged; our reader looks at the others below.
    rows = {} if scene.damage is damage else read_set(place)
    for digest, copies in rows.items():
        if set(copies) != set(expected[digest]):
            return f"the row {digest} is wrong"
    try:
        with Features(now / "view.h5") as features:
            values = features.read("conv")
    except CacheError as error:
        return "" if not scene.needed else f"the view cannot be read: {error}"
    wanted = make_rows(scene.needed or _EVERY)
    return "" if (values == wanted).all() else "the view is wrong"


def _find_wrong_after(folder: Path, place: Path, scene: Scene) -> str:
    """Repeat the command, and look at what is there then."""
    ending = run_command(scene.arguments, output=folder / "output", prepare=merge_few)
    if ending.status != 0:
        return f"repeated, it ends with {ending.status}: {ending.last_line}"
    copies = read_set(place)
    if scene.name in ("compact", "repair"):  # They leave to gc what is there twice.
        copies = {digest: found[:1] for digest, found in copies.items()}
    if copies != expect_set(scene.needed):
        return "repeated, it leaves other rows"
    exam = verify_cache(CacheLayout(folder / "now/cache"))
    left = [*exam.damaged, *exam.temporary]
    return f"repeated, it leaves {left}" if left else ""
