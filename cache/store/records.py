"""What was measured of a feature set, in small JSON files beside its shards.

Records are for people: nothing is computed from them, and one that is missing or damaged is the
same as none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from permafrost.cache.disk.publish import published
from permafrost.refusals import raise_refusal


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far the values of an image alone are from those of the same image in a batch.

    Attributes
    ----------
    images : int
        How many were run alone.
    batch_size : int
        Images in the batch.
    max_error : float
        Largest difference, relative to the largest value; both absolute.
    """

    images: int
    batch_size: int
    max_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the rows cost, summed over the runs that computed some and came to their end.

    Attributes
    ----------
    images : int
        Computed, in all layers that a run was asked for together.
    runs : int
    seconds : float
        Of all of each run.
    building, loading, backbone, disk : float
        Of these, for building the program, and for waiting for images to be decoded, for the
        backbone, and for the disk.
    """

    images: int
    runs: int
    seconds: float
    building: float
    loading: float
    backbone: float
    disk: float

    def __add__(self, other: Cost) -> Cost:
        names = (field.name for field in fields(self))
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in names})


Record = TypeVar("Record", Parity, Drift, Cost)

RECORD_FILES: Mapping[type, str] = {
    Parity: "parity.json",
    Drift: "drift.json",
    Cost: "cost.json",
}
_READERS: Mapping[str, Callable[[Any], Any]] = {"str": str, "int": int, "float": float}


def write_record(folder: Path, record: Parity | Drift | Cost) -> None:
    """Put a record into a feature set's folder, which exists."""
    with published(folder / RECORD_FILES[type(record)], shared=True) as temporary:
        temporary.write_text(json.dumps(asdict(record)), encoding="utf-8")


def read_record(folder: Path, kind: type[Record]) -> Record | None:
    """Read a record of a feature set's folder; None where it is missing or damaged."""
    file = folder / RECORD_FILES[kind]
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        values: dict[str, Any] = {
            field.name: _READERS[str(field.type)](found[field.name]) for field in fields(kind)
        }
        return kind(**values)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise_refusal(error, file)
        return None
