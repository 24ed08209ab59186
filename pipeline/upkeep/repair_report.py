"""What ``repair`` reports: damage, what was done about it, and rows that are lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from permafrost.cache.errors import DamagedError
from permafrost.cache.upkeep.verify import Damage
from permafrost.pipeline.upkeep.shared import count


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRow:
    """A row of a shard that cannot be computed again: it is missing now, as if it had never been.

    `digest` is the image's, in hex; ``""`` for all rows of a shard where these are not known.
    """

    file: Path
    digest: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Repairs:
    """What ``repair`` found and did, in the cache at `root`.

    For each file `damaged` says what was wrong with it, `done` what was done with it, and `left`
    why it is as it was; `recomputed` counts rows.
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
