"""Heads: what is fitted on features."""

from stages.heads.head import Head
from stages.heads.logreg import LogregHead, LogregSettings
from stages.heads.mlp import MlpHead, MlpSettings
from stages.heads.registry import HEADS, fit_head, load_head, parse_settings

__all__ = [
    "HEADS",
    "Head",
    "LogregHead",
    "LogregSettings",
    "MlpHead",
    "MlpSettings",
    "fit_head",
    "load_head",
    "parse_settings",
]
