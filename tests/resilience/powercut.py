"""The power is cut at every moment of what a command writes, and the next run goes on from there.

The moments are those of a real run (`tests.resilience.recording`).
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import starmap
from operator import itemgetter
from pathlib import Path, PurePosixPath

from permafrost.pipeline.export.classifier import MODEL_NAME
from permafrost.pipeline.sweeps.journal import JOURNAL_NAME, FoldRecord
from tests.resilience.jobs import (
    Job,
    Look,
    is_unfinished,
    list_jobs,
    list_unfinished,
    set_scene,
)
from tests.resilience.recording import (
    File,
    Moment,
    Way,
    cut_everywhere,
    read_recording,
    record,
    write_files,
)
from tests.resilience.report import Result, sum_up

COMMANDS = ("extract", "sweep", "fit", "predict", "export", "repair", "compact", "gc", "index")
_N_IMAGES = 24
_N_RERUNS = 8
_INDEX_NAMES = (".sqlite", ".sqlite-journal")
_HEAD_FOLDER = "head"
# Leases and locks save work, and no value depends on them.
_ADVISORY = {"leases", "upkeep.lock"}
# But for what was made safe.
ALL_LOST = Way(itemgetter(0), itemgetter(0), has_index=False)

Left = Mapping[str, File | None]


def run(seed: int) -> Result:
    """Cut every command everywhere; run a sample of what is left to the end."""
    outcomes: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        jobs = list_jobs(set_scene(Path(scratch) / "scene", n_images=_N_IMAGES))
        for name in COMMANDS:
            recorded = record_job(name, jobs[name], Path(scratch))
            lefts = list_lefts(recorded, seed=seed, n_random=5)
            outcomes += starmap(recorded.find_wrong, lefts)
            outcomes += recorded.list_lost()
            for cut, left in random.Random(seed).sample(lefts, min(_N_RERUNS, len(lefts))):
                outcomes.append(recorded.run_again(cut, left, Path(scratch) / "again"))
    return sum_up(
        f"power cut at every moment that {', '.join(COMMANDS)} write: complete files only;"
        " run again: the same",
        outcomes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedJob:
    """What a command did when it was left in peace.

    Attributes
    ----------
    name : str
    job : Job
    moments : sequence of Moment
    whole : mapping of str to set of bytes
        What each may be under its final name.
    expected : Look
    """

    name: str
    job: Job
    moments: Sequence[Moment]
    whole: Mapping[str, set[bytes]]
    expected: Look

    def find_wrong(self, cut: str, left: Left) -> str:
        """Return which file under its final name is not whole; nothing if all are."""
        for name, file in left.items():
            if file is not None and _must_be_whole(name) and not self._is_whole(name, file, left):
                return f"{self.name}, {cut}: {name} is not whole"
        return ""

    def _is_whole(self, name: str, file: File, left: Left) -> bool:
        path = PurePosixPath(name)
        if path.name == JOURNAL_NAME:
            return _find_records(file.content) <= set().union(*map(_find_records, self.whole[name]))
        if path.name == MODEL_NAME:
            # It vouches for all that lies beside it.
            ends = (self.moments[0].files, self.moments[-1].files)
            return any(
                _find_contents(path.parent, left) == _find_contents(path.parent, end)
                for end in ends
            )
        return path.parent.name == _HEAD_FOLDER or file.content in self.whole[name]

    def list_lost(self) -> list[str]:
        """List the files that are not safe although the command said that it is done."""
        *_, (_, left) = cut_everywhere(self.moments, {"all lost": ALL_LOST})
        written = filter(_must_be_whole, self.moments[-1].files)
        names = [name for name in written if name not in left]
        return [f"{self.name}: {name} is not safe at the end" for name in names]

    def run_again(self, cut: str, left: Left, folder: Path) -> str:
        """Run the command on what a cut left, and return what is wrong then."""
        shutil.rmtree(folder, ignore_errors=True)
        ending = self.job.finish(write_files(left, folder))
        wrong = self.job.find_wrong(folder, ending, self.expected)
        return f"{self.name}, {cut}, run again: {'; '.join(wrong)}" if wrong else ""


def record_job(name: str, job: Job, scratch: Path) -> RecordedJob:
    """Run a command in peace, and record it."""
    folder, recording = job.fresh(scratch / name), scratch / f"{name}.moments"
    ending = job.begin(folder, partial(record, str(folder), str(recording))).end()
    assert ending.status == 0, ending.err
    assert not list_unfinished(folder)
    moments = read_recording(recording)
    return RecordedJob(
        name=name,
        job=job,
        moments=moments,
        whole=_list_whole(moments),
        expected=job.look(folder),
    )


def _list_whole(moments: Sequence[Moment]) -> dict[str, set[bytes]]:
    """List what files were once they had their names, and at both ends."""
    whole: dict[str, set[bytes]] = {}
    unfinished: set[int] = set()
    published: set[tuple[str, int]] = set()
    for moment in moments:
        for name, file in moment.files.items():
            if file.inode in unfinished and not is_unfinished(name):
                published.add((name, file.inode))
            if (name, file.inode) in published or moment in (moments[0], moments[-1]):
                whole.setdefault(name, set()).add(file.content)
        unfinished = {file.inode for name, file in moment.files.items() if is_unfinished(name)}
    return whole


def list_lefts(recorded: RecordedJob, *, seed: int, n_random: int) -> list[tuple[str, Left]]:
    """List what cuts may leave, everything different once."""
    found: dict[object, tuple[str, Left]] = {}
    # SQLite looks after an index that was there before, and a repair needs it.
    ways = list_ways(
        random.Random(seed), n_random=n_random, is_index_new=not recorded.moments[0].index
    )
    for cut, left in cut_everywhere(recorded.moments, ways):
        found.setdefault(frozenset(left.items()), (cut, left))
    return list(found.values())


def list_ways(chance: random.Random, *, n_random: int, is_index_new: bool) -> dict[str, Way]:
    """List how names and bytes get lost: all, bytes alone, and at random."""
    return {
        "all lost": replace(ALL_LOST, has_index=not is_index_new),
        "bytes lost": Way(itemgetter(-1), itemgetter(0)),
        "bytes torn": Way(itemgetter(-1), chance.choice),
        **{
            f"chance {number}": Way(
                chance.choice, chance.choice, has_index=number % 2 > 0 or not is_index_new
            )
            for number in range(n_random)
        },
    }


def _must_be_whole(name: str) -> bool:
    return not (
        is_unfinished(name)
        or name.endswith(_INDEX_NAMES)
        or not _ADVISORY.isdisjoint(PurePosixPath(name).parts)
    )


def _find_contents(folder: PurePosixPath, left: Left) -> dict[str, bytes]:
    return {
        name: file.content
        for name, file in left.items()
        if file and PurePosixPath(name).is_relative_to(folder) and not is_unfinished(name)
    }


def _find_records(content: bytes) -> set[bytes]:
    """Return the lines of a journal that can be read."""
    return {line for line in content.splitlines() if _can_read(line)}


def _can_read(line: bytes) -> bool:
    try:
        FoldRecord.from_json(line.decode(errors="replace"))
    except (ValueError, KeyError, TypeError):
        return False
    return True
