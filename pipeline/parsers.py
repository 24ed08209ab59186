"""Texts that people give for options, read as values."""

from __future__ import annotations

import argparse
import re

from permafrost.pipeline.errors import PipelineError, StoppedError, UnavailableError
from permafrost.stages.numbers import parse_number, parse_whole

# What the shell makes of commands that it cannot start, and of signals, begins here.
_SHELL_STATUS = 126
_BYTE_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def parse_bytes(text: str) -> int:
    """Read ``4GB``, ``500MB`` or ``1000000``."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    try:
        number = parse_number(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if match is None or number <= 0:
        raise PipelineError(f"cannot read {text!r} as an amount of memory; write it as 4GB")
    unit = _BYTE_UNITS[match[2].upper()]
    return int(number * (unit if not match[3] else 1024 ** (len(f"{unit:.0f}") // 3)))


def parse_size(text: str) -> tuple[int, int]:
    """Read ``224`` or ``224x320``, height first."""
    match = re.fullmatch(r"\s*([0-9]{1,9})(?:x([0-9]{1,9}))?\s*", text)
    if match is None or int(match[1]) < 1 or match[2] == "0":
        raise PipelineError(f"cannot read {text!r} as a size; write it as 224 or 224x320 (height)")
    return int(match[1]), int(match[2] or match[1])


def read_whole(text: str) -> int:
    """Read an option that is a whole number, for its parser."""
    try:
        return parse_whole(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write it as 5") from None


def parse_skip_status(text: str) -> int:
    """Read the exit status of a run with nothing new: one that nothing else has."""
    status = read_whole(text)
    taken = (PipelineError, StoppedError, UnavailableError)
    if status not in range(2, _SHELL_STATUS) or status in [one.exit_status for one in taken]:
        raise PipelineError(
            f"--skip-status {text}: choose one from 4 to 125 but 75, as 99; the others mean"
            " something else"
        )
    return status


def read_number(text: str) -> float:
    """Read an option that is a number, for its parser."""
    try:
        return parse_number(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; write it as 0.5") from None


def parse_layers(text: str) -> tuple[str, ...]:
    """Read ``SPEC,SPEC``."""
    return tuple(text.split(","))


def parse_names(text: str) -> tuple[str, ...]:
    """Read ``one,two``; repeated ones count once."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise PipelineError(f"{text!r} has an empty name; write names as one,two")
    return tuple(dict.fromkeys(parts))


def parse_batch_size(text: str) -> int | None:
    """Read ``32``, or ``auto``, which is None."""
    if text == "auto":
        return None
    try:
        size = parse_whole(text)
    except ValueError:
        size = 0
    if size < 1:
        raise PipelineError(f"--batch-size {text!r}: write auto or a number of images, as 32")
    return size
