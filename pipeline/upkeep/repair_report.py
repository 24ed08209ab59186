"""What ``repair`` reports: damage, what was done about it, and rows that are lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from permafrost.cache.errors import DamagedError
from permafrost.cache.store.folders import name_set
from permafrost.cache.upkeep.verify import Damage
from permafrost.pipeline.units import count


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRow:
    """A row of a damaged shard that no shard has: it is missing now, as if it had never been.

    `digest` is the image's, in hex; ``""`` for all rows of a shard where these are not known.
    """

    file: Path
    digest: str = ""
    reason: str


@dataclass(slots=True, kw_only=True)
class Repairs:
    """What ``repair`` found and did, in the cache at `root`.

    For each file `damaged` says what was wrong with it, `done` what was done with it, and `left`
    why it is as it was; `salvaged` counts the rows that were saved, by the folder of the shards.
    """

    root: Path
    damaged: list[Damage] = field(default_factory=list)
    done: list[Damage] = field(default_factory=list)
    salvaged: Counter[Path] = field(default_factory=Counter)
    dropped: list[DroppedRow] = field(default_factory=list)
    left: list[Damage] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The exit status that says whether the cache is sound now."""
        return DamagedError.exit_status if self.left else 0

    def note_done(self, file: Path, what: str) -> None:
        """Note what was done with a file."""
        self.done.append(Damage(file=file, reason=what))

    def note_left(self, file: Path, reason: str) -> None:
        """Note why a file was left as it is."""
        self.left.append(Damage(file=file, reason=reason))

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        return {
            "damaged": [one.to_dict() for one in self.damaged],
            "repaired": [one.to_dict() for one in self.done],
            "salvaged": self.salvaged.total(),
            "dropped": [{**asdict(row), "file": str(row.file)} for row in self.dropped],
            "left": [one.to_dict() for one in self.left],
        }

    def describe(self) -> str:
        """Return it as a person wants it: for each folder a line of each kind, then what to do."""
        if not self.damaged:
            return "no damage"
        lines = [*self._describe_files(), *self._describe_rows()]
        lines += [f"{one.file}: left as it is: {one.reason}" for one in self.left]
        if self.dropped:
            lines.append(
                "compute what is lost, and nothing else, with the extract that wrote it: python"
                f" run.py extract … --cache {self.root}, its options as they were"
            )
        elif not self.left:
            lines.append("all is well")
        return "\n".join(lines)

    def _describe_files(self) -> Iterator[str]:
        reasons = {one.file: one.reason for one in reversed(self.damaged)}
        groups: dict[tuple[Path, str], list[Path]] = {}
        for one in self.done:
            groups.setdefault((one.file.parent, one.reason), []).append(one.file)
        for (folder, what), files in groups.items():
            first, n_more = files[0], len(files) - 1
            more = f" and {count(n_more, 'file')} more" if n_more else ""
            yield f"{folder}: {first.name}{more} {what} ({reasons[first]})"

    def _describe_rows(self) -> Iterator[str]:
        lost = Counter(row.file.parent for row in self.dropped if row.digest)
        unknown = Counter(row.file.parent for row in self.dropped if not row.digest)
        for folder in dict.fromkeys([*self.salvaged, *lost, *unknown]):
            n_unknown = unknown[folder]
            more = f", and those of {count(n_unknown, 'shard')} that cannot say which"
            yield (
                f"{name_set(folder)}: {count(self.salvaged[folder], 'row')} salvaged,"
                f" {count(lost[folder], 'row')} lost{more if n_unknown else ''}"
            )
