"""A real, small disk that is full at any point: a tmpfs with a ballast."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers import ROOT
from tests.resilience.disk import find_wrong_words
from tests.resilience.jobs import Job, Look, list_jobs, list_unfinished, set_scene
from tests.resilience.report import NotHereError, Result, sum_up

COUNTS = {
    "extract": 8,
    "sweep": 4,
    "compact": 3,
    "repair": 3,
    "gc": 2,
    "predict": 3,
    "fit": 3,
    "export": 2,
    "index": 2,
}
_DISK_BYTES = 64 * 1024 * 1024
_LEAST_BYTES = 256 * 1024


def run(seed: int) -> Result:
    """Fill a small disk that is this process' own, in a namespace of mounts."""
    unshare = ["unshare", "--map-root-user", "--mount"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotHereError(f"no file system can be mounted here ({error})") from error
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [*unshare, sys.executable, "-m", __name__, scratch, str(seed)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
    return sum_up(
        f"a real disk (tmpfs) that is full at any point of {', '.join(COUNTS)}:"
        " one line, status 75; run again with space: the same",
        json.loads(done.stdout),
    )


def main(scratch: Path, seed: int) -> list[str]:
    """Mount the disk, and fill it up to a random rest before each command."""
    small = scratch / "small"
    small.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", small], check=True
    )
    jobs = list_jobs(set_scene(scratch / "scene"))
    chance = random.Random(seed)
    outcomes: list[str] = []
    for name, n in COUNTS.items():
        job = jobs[name]
        folder = job.fresh(small / name)
        before = _count_free_bytes(small)
        assert job.finish(folder).status == 0
        expected, needed = job.look(folder), before - _count_free_bytes(small)
        shutil.rmtree(folder)
        for _ in range(n):
            # Where more goes than comes, the new is there before the old goes.
            free = chance.randrange(max(needed, _LEAST_BYTES))
            wrong = _fill(job, small / name, free, expected)
            outcomes.append(f"{name}, {free} bytes free: {'; '.join(wrong)}" if wrong else "")
    return outcomes


def _fill(job: Job, folder: Path, free: int, expected: Look) -> list[str]:
    job.fresh(folder)
    ballast = folder.parent / "ballast"
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(1, _count_free_bytes(folder) - free))
    ending = job.finish(folder)
    wrong = [] if ending.status == 0 else find_wrong_words(ending)
    wrong += [f"{name} is left at once" for name in list_unfinished(folder)]
    ballast.unlink()
    wrong += job.find_wrong(folder, job.finish(folder), expected)
    shutil.rmtree(folder)
    return wrong


def _count_free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
