"""Warnings that are said once, however often what they are about comes up."""

from __future__ import annotations

import functools
import logging

_log = logging.getLogger(__name__)


@functools.cache
def warn_once(text: str) -> None:
    """Log a warning; later ones of the same text are dropped for as long as the process lives."""
    _log.warning("%s", text)
