"""What every kind of shard can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What is told of rows besides their images.

    Attributes
    ----------
    texts : dict of str to sequence of str
        Each as long as there are rows; "" where nothing is told.
    label : str
        Which of them are the labels, where that is certain; "" where it is not.
    """

    texts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    label: str = ""


class Shard(Protocol):
    """One file with many images, safely read from many threads at once."""

    def list_names(self) -> list[str]:
        """List the rows' names in their order, which is that of the names' bytes."""

    def find(self, name: str) -> int | None:
        """Return the row of a name; None where there is none."""

    def fingerprint(self, row: int) -> str:
        """Return a text that tells a row from others of the shard, at no cost."""

    def read_blocks(self, row: int) -> Iterator[bytes]:
        """Yield the image's bytes; `MemberError` or `OSError` with the reason."""

    def read_columns(self) -> Columns:
        """Read what else is told of the rows."""
