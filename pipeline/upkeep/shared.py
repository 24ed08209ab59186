"""What the commands that look after a cache have in common, and ``verify``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from permafrost.cache.disk.locks import lock
from permafrost.cache.errors import DamagedError
from permafrost.cache.store.featureset import list_shards
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout, find_cache
from permafrost.cache.upkeep.examine import list_set_folders
from permafrost.cache.upkeep.survey import SetSurvey
from permafrost.cache.upkeep.verify import CacheExam, Damage, verify_cache
from permafrost.pipeline.progress import show_progress
from permafrost.pipeline.upkeep.sample import Sample, SampleOptions, sample_rows

# Our reader finds rows wherever they lie; a virtual dataset does not.
RENEW_VIEWS = "repeat extract to renew views for other HDF5 readers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What ``verify`` found, in the cache at `root`; the sample if one was wanted."""

    root: Path
    exam: CacheExam
    sample: Sample | None = None

    @property
    def damaged(self) -> list[Damage]:
        """All damage."""
        return self.exam.damaged + (self.sample.damaged if self.sample else [])

    @property
    def status(self) -> int:
        """The exit status that says so."""
        return DamagedError.exit_status if self.damaged else 0

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        exam = self.exam
        return {
            "feature_sets": exam.feature_sets,
            "shards": exam.shards,
            "rows": exam.rows,
            "bytes": exam.n_bytes,
            "damaged": [{"file": str(one.file), "reason": one.reason} for one in self.damaged],
            "duplicates": exam.duplicates,
            "temporary": len(exam.temporary),
            "remarks": exam.remarks,
            **({"sample": self.sample.to_dict()} if self.sample else {}),
        }

    def describe(self) -> str:
        """Return the figures as a person wants them: damage first, a line each."""
        exam = self.exam
        n_files = len({one.file for one in self.damaged})
        verdict = "no damage"
        if n_files:
            verdict = (
                f"{count(n_files, 'damaged file')};"
                f" mend with: python run.py repair --cache {self.root}"
            )
        lines = [f"{one.file}: {one.reason}" for one in self.damaged]
        lines.append(
            f"{count(exam.feature_sets, 'feature set')}, {count(exam.shards, 'shard')},"
            f" {count(exam.rows, 'row')}, {describe_bytes(exam.n_bytes)}: {verdict}"
        )
        if exam.duplicates:
            lines.append(f"  {count(exam.duplicates, 'row')} twice; gc drops one of each")
        if exam.temporary:
            lines.append(f"  {count(len(exam.temporary), 'file')} of killed runs; gc drops them")
        remarks = exam.remarks + (self.sample.describe() if self.sample else [])
        return "\n".join(lines + [f"  {remark}" for remark in remarks])


def verify(root: Path, sample: SampleOptions | None = None) -> Verification:
    """Read all of a cache and find all damage.

    Parameters
    ----------
    root : Path
    sample : SampleOptions, optional
        Some rows are then computed again, and compared.

    Raises
    ------
    CacheError
        There is no cache.
    """
    layout = find_cache(root)
    with show_sets(layout) as advance:
        exam = verify_cache(layout, advance=lambda shard: advance(shard.path.parent, n_shards=1))
    compared = None if sample is None else sample_rows(layout, sample)
    return Verification(root=root, exam=exam, sample=compared)


class Advance(Protocol):
    """Whoever shows progress."""

    def __call__(self, folder: Path, *, n_shards: int | None = None) -> None:
        """Tell that shards of a folder are done; by default all that are left."""
        ...


@contextmanager
def show_sets(layout: CacheLayout) -> Iterator[Advance]:
    """Show progress by shards; yield a function to call whenever some are done."""
    left = {folder: sum(1 for _ in list_shards(folder)) for folder in list_set_folders(layout)}
    place = ""

    def tell(folder: Path, *, n_shards: int | None = None) -> None:
        nonlocal place
        place = name_set(folder)
        n_done = left.get(folder, 0) if n_shards is None else n_shards
        left[folder] = left.get(folder, 0) - n_done
        if n_done:
            advance(n_done)

    with show_progress(sum(left.values()), unit="shards", note=lambda: place) as advance:
        yield tell


@contextmanager
def wait_for_turn(layout: CacheLayout) -> Iterator[bool]:
    """Wait until no other upkeep runs; yield whether that can be told, and is so."""
    with lock(layout.upkeep_lock, purpose="another gc, compact or repair") as is_held:
        yield is_held


def forget_shards(layout: CacheLayout, survey: SetSurvey) -> None:
    """Let the index forget the shards of a feature set that are gone."""
    there = {path.name for path, _ in list_shards(survey.folder)}
    gone = {shard.path.name for shard in survey.shards} - there
    with Index(layout.index_file) as index:
        index.replace_shards(survey.key, add=(), remove=gone)


def name_set(folder: Path) -> str:
    """Return what a feature set's folder is called in its cache."""
    return f"{folder.parent.name}/{folder.name}"


def count(n: int, noun: str) -> str:
    """Return a number with its noun: ``1 row``, ``55,000 rows``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def describe_bytes(n_bytes: int) -> str:
    """Return bytes as a person says them: ``3.1 GB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"
