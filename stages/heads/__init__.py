"""Heads: what is fitted on features."""

from permafrost.stages.heads.calibration.calibration import (
    CALIBRATIONS,
    Calibration,
    CalibrationPlan,
)
from permafrost.stages.heads.calibration.head import CalibratedHead
from permafrost.stages.heads.estimators import EstimatorHead, FittedEstimator, LinearForm
from permafrost.stages.heads.fit_rows import Checkpoint, FitRows, State
from permafrost.stages.heads.head import Head
from permafrost.stages.heads.networks.state import Epoch
from permafrost.stages.heads.provenance import describe_code, is_reduced
from permafrost.stages.heads.registry import (
    HEADS,
    HeadKind,
    calibrate_estimator,
    calibrate_trained,
    check_calibration,
    check_retired,
    check_task,
    check_training,
    fit_estimator,
    fit_head,
    load_head,
    parse_settings,
)

__all__ = [
    "CALIBRATIONS",
    "HEADS",
    "CalibratedHead",
    "Calibration",
    "CalibrationPlan",
    "Checkpoint",
    "Epoch",
    "EstimatorHead",
    "FitRows",
    "FittedEstimator",
    "Head",
    "HeadKind",
    "LinearForm",
    "State",
    "calibrate_estimator",
    "calibrate_trained",
    "check_calibration",
    "check_retired",
    "check_task",
    "check_training",
    "describe_code",
    "fit_estimator",
    "fit_head",
    "is_reduced",
    "load_head",
    "parse_settings",
]
