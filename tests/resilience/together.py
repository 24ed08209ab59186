"""Several processes on one cache at once: all end and are right, no row is computed twice."""

from __future__ import annotations

import random
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.resilience.crowd import (
    LAYERS,
    Crowd,
    expire_soon,
    go_slowly,
    lose_index,
    lose_locks,
    set_scene,
    use_lock_files,
)
from tests.resilience.jobs import Job, list_jobs, make_small_shards
from tests.resilience.jobs import set_scene as set_jobs_scene
from tests.resilience.report import Result


def try_same(
    crowd: Crowd, chance: random.Random, n: int = 8, prepare: object = go_slowly
) -> list[str]:
    """All want the same."""
    for _ in range(n):
        crowd.start(crowd.scene.names, LAYERS, prepare)
    return crowd.check()


def try_array(crowd: Crowd, chance: random.Random) -> list[str]:
    """Eight jobs of an array start at different times; one is preempted: SIGTERM, then SIGKILL."""
    first = crowd.start(crowd.scene.names, LAYERS, go_slowly)
    for _ in range(7):
        first.wait(chance.uniform(0, 0.6))
        crowd.start(crowd.scene.names, LAYERS, go_slowly)
    victim = chance.randrange(8)
    preempted = crowd.children[victim]
    if preempted.is_running:
        preempted.signal(signal.SIGTERM)
        preempted.wait(0.05)
        preempted.signal(signal.SIGKILL)
    status = preempted.end().status
    return crowd.check(**{f"p{victim}": status})


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


def try_gc(crowd: Crowd, chance: random.Random) -> list[str]:
    """All that no run relies on is dropped again and again, while runs come and go."""
    endings = [crowd.start(crowd.scene.names[:8], LAYERS, make_small_shards).end()]
    for _ in range(N_BESIDE_GC):
        names = chance.sample(crowd.scene.names, 8)
        run = crowd.start(names, LAYERS, make_small_shards)
        while run.is_running:
            endings.append(crowd.collect().end())
        endings.append(run.end())
    return [f"{one.status}: {one.last_line}" for one in endings if one.status]


def try_with_lock_files(crowd: Crowd, chance: random.Random) -> list[str]:
    return try_same(crowd, chance, 3, use_lock_files)


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


N_BESIDE_GC = 30

Trial = Callable[[Crowd, random.Random], list[str]]
TRIALS: tuple[Trial, ...] = (
    try_same,
    try_array,
    try_shuffled,
    try_layers,
    try_kill,
    try_interrupt,
    try_stop,
    try_readers,
    try_without_locks,
    try_gc,
    try_with_lock_files,
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
