"""``verify``, ``gc`` and ``compact``: what is told of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cache.errors import DamagedError
from cache.examine import ShardExam
from cache.layout import find_cache
from cache.verify import CacheExam, count_shards, verify_cache
from pipeline.progress import show_progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What ``verify`` found, in the cache at `root`."""

    root: Path
    exam: CacheExam

    @property
    def status(self) -> int:
        """The exit status that says so."""
        return DamagedError.exit_status if self.exam.damaged else 0

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        exam = self.exam
        return {
            "feature_sets": exam.feature_sets,
            "shards": exam.shards,
            "rows": exam.rows,
            "bytes": exam.n_bytes,
            "damaged": [{"file": str(one.file), "reason": one.reason} for one in exam.damaged],
            "duplicates": exam.duplicates,
            "temporary": len(exam.temporary),
            "remarks": exam.remarks,
        }

    def describe(self) -> str:
        """Return the figures as a person wants them: damage first, a line each."""
        exam = self.exam
        n_files = len({one.file for one in exam.damaged})
        verdict = "no damage"
        if n_files:
            verdict = (
                f"{count(n_files, 'damaged file')};"
                f" mend with: python run.py repair --cache {self.root}"
            )
        lines = [f"{one.file}: {one.reason}" for one in exam.damaged]
        lines.append(
            f"{count(exam.feature_sets, 'feature set')}, {count(exam.shards, 'shard')},"
            f" {count(exam.rows, 'row')}, {describe_bytes(exam.n_bytes)}: {verdict}"
        )
        if exam.duplicates:
            lines.append(f"  {count(exam.duplicates, 'row')} twice; gc drops one of each")
        if exam.temporary:
            lines.append(f"  {count(len(exam.temporary), 'file')} of killed runs; gc drops them")
        return "\n".join(lines + [f"  {remark}" for remark in exam.remarks])


def verify(root: Path) -> Verification:
    """Read all of a cache and find all damage.

    Parameters
    ----------
    root : Path

    Raises
    ------
    CacheError
        There is no cache.
    """
    layout = find_cache(root)
    current = ""

    def note() -> str:
        return f"checking {current}"

    with show_progress(count_shards(layout), unit="shards", note=note) as advance:

        def tell(shard: ShardExam) -> None:
            nonlocal current
            current = f"{shard.path.parent.parent.name}/{shard.path.parent.name}"
            advance(1)

        return Verification(root=root, exam=verify_cache(layout, advance=tell))


def count(n: int, noun: str) -> str:
    """Return a number with its noun: ``1 row``, ``55,000 rows``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def describe_bytes(n_bytes: int) -> str:
    """Return bytes as a person says them: ``3.1 GB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes} bytes"
