"""Heads: what is fitted on features."""

from permafrost.stages.heads.estimators import EstimatorHead, FittedEstimator, LinearForm
from permafrost.stages.heads.head import Head
from permafrost.stages.heads.registry import (
    HEADS,
    HeadKind,
    check_task,
    check_training,
    fit_estimator,
    fit_head,
    load_head,
    parse_settings,
)

__all__ = [
    "HEADS",
    "EstimatorHead",
    "FittedEstimator",
    "Head",
    "HeadKind",
    "LinearForm",
    "check_task",
    "check_training",
    "fit_estimator",
    "fit_head",
    "load_head",
    "parse_settings",
]
