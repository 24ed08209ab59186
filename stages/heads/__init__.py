"""Heads: what is fitted on features."""

from permafrost.stages.heads.calibration import CALIBRATIONS, CalibrationPlan
from permafrost.stages.heads.estimators import EstimatorHead, FittedEstimator
from permafrost.stages.heads.fit_rows import Checkpoint, Epoch, FitRows, State
from permafrost.stages.heads.fitting import check_training, fit_estimator, fit_head, fit_trained
from permafrost.stages.heads.head import Head, LinearForm
from permafrost.stages.heads.registry import (
    HEADS,
    check_calibration,
    check_retired,
    check_task,
    describe_code,
    is_reduced,
    load_head,
    parse_settings,
)

__all__ = [
    "CALIBRATIONS",
    "HEADS",
    "CalibrationPlan",
    "Checkpoint",
    "Epoch",
    "EstimatorHead",
    "FitRows",
    "FittedEstimator",
    "Head",
    "LinearForm",
    "State",
    "check_calibration",
    "check_retired",
    "check_task",
    "check_training",
    "describe_code",
    "fit_estimator",
    "fit_head",
    "fit_trained",
    "is_reduced",
    "load_head",
    "parse_settings",
]
