"""The fits that a sweep has finished, one line each, so that a kill costs only those in hand."""

from __future__ import annotations

import base64
import json
import logging
import os
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.cache.disk.publish import note_change, sync
from permafrost.stages.heads import Epoch

_log = logging.getLogger(__name__)

JOURNAL_NAME = "journal.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldRecord:
    """One configuration, measured on one fold.

    Attributes
    ----------
    key : str
        Digest of the configuration and of all that it was fitted on.
    evidence : ndarray of int64 or float64
        What `stages.evaluation.comparison` compares heads by.
    error : str
        Why the head could not be fitted; ``""`` if it could.
    """

    key: str
    fold: int
    scores: dict[str, float | None]
    evidence: np.ndarray
    n_train: int
    n_test: int
    seconds: float
    epochs: tuple[Epoch, ...] = ()
    error: str = ""

    @property
    def figures(self) -> dict[str, float | None]:
        """What the tables of a sweep say of it."""
        return {
            "fold": self.fold,
            "n_train": self.n_train,
            "n_test": self.n_test,
            **self.scores,
            "seconds": self.seconds,
        }

    def to_json(self) -> str:
        """Write the record on one line."""
        is_count = self.evidence.dtype == np.int64
        packed = self.evidence.astype("<i4" if is_count else "<f8")
        fields: dict[str, Any] = {
            "key": self.key,
            "fold": self.fold,
            "scores": self.scores,
            "evidence": base64.b64encode(packed.tobytes()).decode(),
            "is_count": is_count,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "seconds": self.seconds,
        }
        if self.epochs:
            fields["epochs"] = [
                [None if np.isnan(figure) else figure for figure in astuple(epoch)]
                for epoch in self.epochs
            ]
        return json.dumps(fields | ({"error": self.error} if self.error else {}))

    @classmethod
    def from_json(cls, text: str) -> FoldRecord:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        packed = base64.b64decode(fields.pop("evidence"))
        fields["epochs"] = tuple(
            Epoch(number, *(float("nan") if figure is None else figure for figure in figures))
            for number, *figures in fields.pop("epochs", ())
        )
        stored, kept = ("<i4", np.int64) if fields.pop("is_count") else ("<f8", np.float64)
        return cls(evidence=np.frombuffer(packed, stored).astype(kept), **fields)


class Journal:
    """The records of all sweeps into one folder."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / JOURNAL_NAME
        self._records: dict[tuple[str, int], FoldRecord] = {}
        if self._file.exists():
            self._read()

    def _read(self) -> None:
        lines = self._file.read_text(encoding="utf-8", errors="replace").splitlines()
        n_useless = 0
        for line in filter(None, lines):
            try:
                record = FoldRecord.from_json(line)
            except (ValueError, KeyError, TypeError):
                n_useless += 1  # a kill, a full disk or another version; it is fitted again
                continue
            # More memory or another version may mend a failure: it is tried again.
            if not record.error:
                self._records[record.key, record.fold] = record
        if n_useless:
            _log.warning(
                "%d lines of %s are torn or of another version, and are done again",
                n_useless,
                self._file,
            )

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
        note_change(self._file)
        if is_new:
            sync(self._file.parent)
