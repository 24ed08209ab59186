"""What a sweep has finished so far, one line a fold, so that a kill costs the fits in progress."""

from __future__ import annotations

import base64
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.cache.disk.publish import sync

_log = logging.getLogger(__name__)

JOURNAL_NAME = "journal.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldRecord:
    """One configuration, measured on one fold.

    Attributes
    ----------
    key : str
        Digest of the configuration and of all that it was fitted on.
    fold : int
    scores : dict of str to float or None
    losses : ndarray of bool or float64, shape (n_test,)
        Of each row, for paired comparisons.
    n_train, n_test : int
    seconds : float
    error : str
        Why the head could not be fitted; ``""`` if it could.
    """

    key: str
    fold: int
    scores: dict[str, float | None]
    losses: np.ndarray
    n_train: int
    n_test: int
    seconds: float
    error: str = ""

    @property
    def figures(self) -> dict[str, float | None]:
        """What people are told of it."""
        return {
            "fold": self.fold,
            "n_train": self.n_train,
            "n_test": self.n_test,
            **self.scores,
            "seconds": self.seconds,
        }

    def to_json(self) -> str:
        """Write the record on one line."""
        is_bool = self.losses.dtype == np.bool_
        packed = np.packbits(self.losses) if is_bool else self.losses.astype("<f8")
        fields: dict[str, Any] = {
            "key": self.key,
            "fold": self.fold,
            "scores": self.scores,
            "losses": base64.b85encode(packed.tobytes()).decode(),
            "wrong_only": bool(is_bool),
            "n_train": self.n_train,
            "n_test": self.n_test,
            "seconds": self.seconds,
        }
        return json.dumps(fields | ({"error": self.error} if self.error else {}))

    @classmethod
    def from_json(cls, text: str) -> FoldRecord:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        packed = base64.b85decode(fields.pop("losses"))
        if fields.pop("wrong_only"):
            bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=fields["n_test"])
            return cls(losses=bits.astype(np.bool_), **fields)
        return cls(losses=np.frombuffer(packed, "<f8"), **fields)


class Journal:
    """The records of all sweeps into one folder.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / JOURNAL_NAME
        self._records: dict[tuple[str, int], FoldRecord] = {}
        if self._file.exists():
            self._read()

    def _read(self) -> None:
        lines = self._file.read_text(encoding="utf-8", errors="replace").splitlines()
        n_torn = 0
        for line in filter(None, lines):
            try:
                record = FoldRecord.from_json(line)
            except (ValueError, KeyError, TypeError):
                n_torn += 1  # a kill or a full disk; what it said is fitted again
                continue
            # More memory or another version may mend a failure: it is tried again.
            if not record.error:
                self._records[record.key, record.fold] = record
        if n_torn:
            _log.warning("%d lines of %s are torn and are done again", n_torn, self._file)

    def find(self, key: str, fold: int) -> FoldRecord | None:
        """Return the record of a configuration on a fold, if there is one."""
        return self._records.get((key, fold))

    def add(self, record: FoldRecord) -> None:
        """Keep a record: it is on the disk when this returns."""
        self._records[record.key, record.fold] = record
        # One write in append mode: lines of two sweeps into one folder do not mix. The line break
        # comes first, so that a torn line before this one does not swallow it.
        line = f"\n{record.to_json()}\n".encode()
        is_new = not self._file.exists()
        with self._file.open("ab", buffering=0) as stream:
            # A nearly full disk takes a part, and gives the reason only when asked again.
            while line:
                line = line[stream.write(line) :]
            os.fsync(stream.fileno())
        if is_new:
            sync(self._file.parent)
