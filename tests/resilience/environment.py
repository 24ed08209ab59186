"""What is around a run fails: images away, no descriptors, folders that nobody synchronizes.

None of it is damage: nothing is called so, put aside or computed again for it.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.resilience.child import Child, Ending
from tests.resilience.jobs import (
    Job,
    Scene,
    ask_extract,
    list_jobs,
    list_quarantined,
    set_scene,
)
from tests.resilience.looks import look_at_features
from tests.resilience.report import Result, sum_up

# The jobs that a cache and a view are there for already, and those that make them.
JOBS = ("extract", "fit", "predict", "verify", "repair", "compact", "gc")
# Those that move shards.
MOVING = ("repair", "compact", "gc")
# How many more descriptors a command may have.
N_DESCRIPTORS = (0, 1, 2, 4, 8, 15)
_N_UNMOUNTED = 10
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP)
# How a command that has no descriptor left says so.
_WORDS = ("too many files are open", "too many open files")


def run(seed: int) -> Result:
    """Try all three."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = set_scene(folder / "scene", n_images=48)
        jobs = list_jobs(scene)
        outcomes = [
            *(
                unmount(scene, folder / "unmounted", seed + number)
                for number in range(_N_UNMOUNTED)
            ),
            *(
                outcome
                for job in JOBS
                for outcome in exhaust_all(job, jobs[job], folder / job, N_DESCRIPTORS)
            ),
            *(
                refuse_folders(jobs[job], folder / "refused", number)
                for job in ("extract", "repair", "compact")
                for number in _NO_FOLDER_SYNC
            ),
        ]
    return sum_up(
        "images unmounted under repair, no descriptors left, folders that cannot be synchronized:"
        " no intact row lost, nothing called damaged that is not",
        outcomes,
    )


def unmount(scene: Scene, folder: Path, seed: int) -> str:
    """Damage shards, repair while the images are away, and extract when they are back."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(scene.extracted, folder)
    expected = look_at_features(folder)
    chance = random.Random(seed)
    shards = sorted((folder / "cache").glob("*/*/shard-*.h5"))
    for shard in chance.sample(shards, 2):
        content = bytearray(shard.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        shard.write_bytes(content)
    away = scene.photos.rename(scene.photos.with_name("away"))
    try:
        ending = _call(scene, "repair", "--cache", folder / "cache", "--json")
    finally:
        away.rename(scene.photos)
    if ending.status != 0:
        return f"unmounted, seed {seed}: repair ends with {ending.status}: {ending.last_line}"
    figures = ending.figures
    # The other layer may have been sound: an image is computed if any lacks it.
    lost = {row["digest"] for row in figures["dropped"]}
    again = _call(scene, *ask_extract(scene, folder))
    if again.status != 0 or again.figures["computed"] != len(lost):
        return f"unmounted, seed {seed}: {len(lost)} lost, then {again.last_line or again.out}"
    found = look_at_features(folder)
    wrong = [name for name, value in expected.items() if not _is_same(found.get(name), value)]
    n_aside = len(list_quarantined(folder / "cache"))
    if n_aside != len(figures["damaged"]):
        wrong.append(f"{n_aside} files in quarantine, {len(figures['damaged'])} damaged")
    return f"unmounted, seed {seed}: {wrong} differ" if wrong else ""


def _call(scene: Scene, *arguments: object) -> Ending:
    return Child(arguments, output=scene.output).end()


def _is_same(one: object, other: object) -> bool:
    same = one == other
    return same if isinstance(same, bool) else bool(same.all())  # type: ignore[attr-defined]


def exhaust_all(name: str, job: Job, folder: Path, counts: Sequence[int]) -> Iterator[str]:
    """Run a command that may open so many files, then with as many as it likes; each from anew."""
    expected = job.look(_finish(job, folder / "plain"))
    for n_descriptors in counts:
        at = folder / f"{n_descriptors}"
        before = _read_shards(job.fresh(at))
        ending = job.begin(at, partial(limit_descriptors, n_descriptors)).end()
        wrong = list(_find_wrong(ending, is_damaged=name == "repair"))
        after = _read_shards(at)
        if ending.status != 0 and name not in MOVING and after.items() < before.items():
            wrong.append("shards are gone or changed")
        if not set(before.values()) <= {*after.values(), *_read_aside(at)} and name == "repair":
            wrong.append("a shard is gone")
        if name != "repair" and list_quarantined(at / "cache"):
            wrong.append("something is in quarantine")
        wrong += job.find_wrong(at, job.finish(at), expected)
        shutil.rmtree(at)
        yield f"{name} with {n_descriptors} descriptors: {'; '.join(wrong)}" if wrong else ""
    shutil.rmtree(folder)


def limit_descriptors(n_more: int) -> None:
    """Let this process open so many files more, and no others."""
    highest = max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208
    while (number := os.open(os.devnull, os.O_RDONLY)) < highest:
        pass  # Numbers between are free too.
    os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + n_more, number + n_more))


def _find_wrong(ending: Ending, *, is_damaged: bool) -> Iterator[str]:
    """Say what is wrong with how a command ended that had few descriptors."""
    # TensorFlow ends its process itself where it can open no file just then.
    if ending.status in (0, -signal.SIGABRT):
        return
    line = ending.last_line.lower()
    if ending.status not in (2, 75) or not line.startswith("permafrost: "):
        yield f"status {ending.status}, {ending.err[-500:]!r}"
    elif not any(words in line for words in _WORDS):
        yield f"it does not say what is missing: {line!r}"
    if not is_damaged and "damaged" in ending.out + ending.err:
        yield "it speaks of damage"


def _read_shards(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder / "cache").glob("*/*/shard-*.h5")}


def _read_aside(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in list_quarantined(folder / "cache")]


def refuse_folders(job: Job, folder: Path, number: int) -> str:
    """Run a command where the file system does not synchronize folders."""
    expected = job.look(_finish(job, folder / "plain"))
    at = job.fresh(folder / "refused")
    ending = job.begin(at, partial(refuse_to_sync_folders, number)).end()
    wrong = job.find_wrong(at, ending, expected)
    shutil.rmtree(folder)
    return f"{errno.errorcode[number]} of folders: {'; '.join(wrong)}" if wrong else ""


def _finish(job: Job, folder: Path) -> Path:
    ending = job.finish(job.fresh(folder))
    assert ending.status == 0, ending.err
    return folder


def refuse_to_sync_folders(number: int) -> None:
    """Let synchronizing a folder fail in this process, as some network file systems do."""
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    os.fsync = refuse  # type: ignore[assignment]
