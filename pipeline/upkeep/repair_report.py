"""``repair``: what is told of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from permafrost.cache.errors import DamagedError
from permafrost.cache.upkeep.verify import Damage
from permafrost.pipeline.upkeep.shared import count


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRow:
    """A row that cannot be computed again: it is missing now, as if it had never been.

    Attributes
    ----------
    file : Path
        The shard that it was in.
    digest : str
        The image's, in hex; ``""`` for all of a shard's rows where these are not known.
    reason : str
    """

    file: Path
    digest: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Repairs:
    """What ``repair`` found and did, in the cache at `root`.

    Attributes
    ----------
    root : Path
    damaged : list of Damage
        Files, and what was wrong with each.
    done : list of Damage
        Files, and what was done with each.
    recomputed : int
        Rows.
    dropped : list of DroppedRow
    left : list of Damage
        Files that are as they were, and why.
    """

    root: Path
    damaged: list[Damage] = field(default_factory=list)
    done: list[Damage] = field(default_factory=list)
    recomputed: int = 0
    dropped: list[DroppedRow] = field(default_factory=list)
    left: list[Damage] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The exit status that says whether all is well now."""
        return DamagedError.exit_status if self.left else 0

    def note_damage(self, file: Path, reason: str) -> None:
        """Note what is wrong with a file."""
        self.damaged.append(Damage(file=file, reason=reason))

    def note_done(self, file: Path, what: str) -> None:
        """Note what was done with a file."""
        self.done.append(Damage(file=file, reason=what))

    def note_left(self, file: Path, reason: str) -> None:
        """Note why a file was left as it is."""
        self.left.append(Damage(file=file, reason=reason))

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        return {
            "damaged": _to_rows(self.damaged),
            "repaired": _to_rows(self.done),
            "recomputed": self.recomputed,
            "dropped": [{**asdict(row), "file": str(row.file)} for row in self.dropped],
            "left": _to_rows(self.left),
        }

    def describe(self) -> str:
        """Return it file by file, as a person wants it."""
        lines = [f"{one.file}: {one.reason}" for one in self.damaged]
        lines += [f"{one.file}: → {one.reason}" for one in self.done]
        dropped = Counter((row.file, row.reason) for row in self.dropped if row.digest)
        dropped.update({(row.file, row.reason): 0 for row in self.dropped if not row.digest})
        lines += [
            f"{file}: {count(n, 'row') if n else 'its rows'} dropped: {reason}"
            for (file, reason), n in dropped.items()
        ]
        lines += [f"{one.file}: left as it is: {one.reason}" for one in self.left]
        n_files = len({one.file for one in self.damaged})
        lines.append(
            f"{count(n_files, 'damaged file')}, {count(self.recomputed, 'row')} computed again,"
            f" {sum(dropped.values()):,} dropped:"
            f" {count(len(self.left), 'file') + ' left' if self.left else 'all is well'}"
        )
        if self.dropped:
            lines.append("  what was dropped is missing; repeat the extract that wrote it")
        return "\n".join(lines)


def _to_rows(found: list[Damage]) -> list[dict[str, str]]:
    return [{"file": str(one.file), "reason": one.reason} for one in found]
