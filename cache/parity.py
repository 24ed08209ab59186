"""How far a feature set's values are from those of the reference, beside its shards.

The record is for people: nothing is computed from it, and one that is missing or damaged is the
same as none.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cache.files import published

_NAME = "parity.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Errors relative to the reference, on a sample of the rows.

    Attributes
    ----------
    reference : str
        The engine that computed the reference.
    images : int
        Rows of the sample.
    max_error : float
        Largest difference, relative to the largest value.
    mean_error : float
        Mean difference, relative to the mean value; both absolute.
    """

    reference: str
    images: int
    max_error: float
    mean_error: float


def write_parity(folder: Path, parity: Parity) -> None:
    """Put the record into a feature set's folder, which exists."""
    with published(folder / _NAME) as temporary:
        temporary.write_text(json.dumps(asdict(parity)), encoding="utf-8")


def read_parity(folder: Path) -> Parity | None:
    """Read the record of a feature set's folder; None where there is none that can be read."""
    try:
        fields = json.loads((folder / _NAME).read_text(encoding="utf-8"))
        return Parity(
            reference=str(fields["reference"]),
            images=int(fields["images"]),
            max_error=float(fields["max_error"]),
            mean_error=float(fields["mean_error"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
