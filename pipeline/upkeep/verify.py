"""``verify``: find all damage of a cache, and compute a sample of its rows again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from permafrost.cache.errors import DamagedError
from permafrost.cache.store.layout import find_cache
from permafrost.cache.upkeep.verify import CacheExam, Damage, verify_cache
from permafrost.cache.views.state import LayerState, describe_layers
from permafrost.command import COMMAND
from permafrost.pipeline.units import count, describe_bytes
from permafrost.pipeline.upkeep.sample import Sample, SampleOptions, sample_rows
from permafrost.pipeline.upkeep.shared import QUARANTINED, show_sets


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What ``verify`` found, in the cache at `root`; the sample and the views that were wanted."""

    root: Path
    exam: CacheExam
    sample: Sample | None = None
    views: Sequence[tuple[Path, LayerState]] = ()

    @property
    def damaged(self) -> list[Damage]:
        """All damage."""
        broken = [
            Damage(file=file, reason=f"{one.layer}: {one.describe()}")
            for file, one in self.views
            if not one.is_whole
        ]
        return self.exam.damaged + (self.sample.damaged if self.sample else []) + broken

    @property
    def status(self) -> int:
        """The exit status that says so."""
        return DamagedError.exit_status if self.damaged else 0

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        exam = self.exam
        views = [{"file": str(file), **asdict(one)} for file, one in self.views]
        return {
            "feature_sets": exam.feature_sets,
            "shards": exam.shards,
            "rows": exam.rows,
            "bytes": exam.n_bytes,
            "damaged": [one.to_dict() for one in self.damaged],
            "duplicates": exam.duplicates,
            "temporary": len(exam.temporary),
            "quarantined": len(exam.quarantined),
            "remarks": exam.remarks,
            **({"features": views} if views else {}),
            **({"sample": self.sample.to_dict()} if self.sample else {}),
        }

    def describe(self) -> str:
        """Return the figures as a person wants them: damage first, a line each."""
        exam = self.exam
        n_files = len({one.file for one in self.damaged})
        verdict = "no damage"
        if n_files:
            verdict = count(n_files, "damaged file")
        if exam.damaged:  # Of the sample's, each line says what to do.
            verdict += f"; mend with: {COMMAND} repair --cache {self.root}"
        lines = [f"{one.file}: {one.reason}" for one in self.damaged]
        lines.append(
            f"{count(exam.feature_sets, 'feature set')}, {count(exam.shards, 'shard')},"
            f" {count(exam.rows, 'row')}, {describe_bytes(exam.n_bytes)}: {verdict}"
        )
        if exam.duplicates:
            lines.append(f"  {count(exam.duplicates, 'row')} twice; gc drops one of each")
        if exam.temporary:
            lines.append(f"  {count(len(exam.temporary), 'file')} of killed runs; gc drops them")
        if exam.quarantined:
            lines.append(f"  {count(len(exam.quarantined), 'file')} {QUARANTINED}")
        remarks = [f"{file}, {one.layer}: {one.describe()}" for file, one in self.views]
        remarks += exam.remarks + (self.sample.describe() if self.sample else [])
        return "\n".join(lines + [f"  {remark}" for remark in remarks])


def verify(
    root: Path, sample: SampleOptions | None = None, *, features: Sequence[Path] = ()
) -> Verification:
    """Read all of a cache and find all damage; with `sample`, compute some rows again and compare.

    Of each file of `features` it sees whether the shards that it needs are there.

    Raises
    ------
    CacheError
        There is no cache.
    """
    layout = find_cache(root)
    with show_sets(layout) as advance:
        exam = verify_cache(layout, advance=lambda shard: advance(shard.path.parent, n_shards=1))
    compared = None if sample is None else sample_rows(layout, sample)
    views = [(file, one) for file in features for one in describe_layers(file)[1]]
    return Verification(root=root, exam=exam, sample=compared, views=views)
