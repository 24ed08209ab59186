"""A head whose probabilities are calibrated: another head, and what is made of its answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.heads.calibration.calibration import Calibration
from permafrost.stages.heads.head import RECORD_NAME, Head


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedHead:
    """A head for raw features.

    Attributes
    ----------
    base : Head
        Of a classification, fitted on all training rows.
    calibration : Calibration
        Fitted out of fold on the same rows.
    """

    base: Head
    calibration: Calibration

    @property
    def kind(self) -> str:
        """Its name in `stages.heads.HEADS`."""
        return self.base.kind

    @property
    def settings(self) -> Any:
        """Those that it was fitted with."""
        return self.base.settings

    @property
    def task(self) -> str:
        """One of `stages.datasets.targets.TASKS`."""
        return self.base.task

    @property
    def classes(self) -> NDArray[np.str_]:
        """The class names, sorted, shape (n_classes,)."""
        return self.base.classes

    @property
    def n_features(self) -> int:
        """The length of one row of features."""
        return self.base.n_features

    @property
    def widths(self) -> tuple[int, ...]:
        """As in `EstimatorHead`; none of other heads."""
        return tuple(getattr(self.base, "widths", ()))

    @property
    def history(self) -> tuple[Any, ...]:
        """As in `NetworkHead`; none of other heads."""
        return tuple(getattr(self.base, "history", ()))

    def predict(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Return what `stages.heads.Head.predict` says."""
        return self.calibration.apply(self.base.predict(features))

    def save(self, folder: Path) -> None:
        """Write the head into `folder`; ``head.json`` holds the calibration."""
        self.base.save(folder)
        file = folder / RECORD_NAME
        record = json.loads(file.read_text(encoding="utf-8"))
        record["calibration"] = self.calibration.to_dict()
        file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
