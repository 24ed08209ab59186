"""Heads: what is fitted on features."""

from permafrost.stages.heads.estimators import EstimatorHead, FittedEstimator, LinearForm
from permafrost.stages.heads.fit_rows import Checkpoint, FitRows, State
from permafrost.stages.heads.head import Head
from permafrost.stages.heads.networks.state import Epoch
from permafrost.stages.heads.provenance import describe_code, is_reduced
from permafrost.stages.heads.registry import (
    HEADS,
    HeadKind,
    check_retired,
    check_task,
    check_training,
    fit_estimator,
    fit_head,
    load_head,
    parse_settings,
)

__all__ = [
    "HEADS",
    "Checkpoint",
    "Epoch",
    "EstimatorHead",
    "FitRows",
    "FittedEstimator",
    "Head",
    "HeadKind",
    "LinearForm",
    "State",
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
