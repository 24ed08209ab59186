"""Processes that try what may break."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from permafrost.command import HOME
from permafrost.stages.errors import in_one_line

TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a child said.

    Attributes
    ----------
    objects : list of dict
        The lines of its stdout that are JSON objects; others are what packages print.
    reason : str
        Why it ended before its end; ``""`` where it did not.
    """

    objects: list[dict[str, Any]]
    reason: str


def ask_child(trial: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Answer:
    """Run a module of this room in a process of its own.

    Parameters
    ----------
    trial : str
        The module.
    *arguments : str
    environment : mapping of str to str, optional
        Variables that it has besides those of this process.
    """
    module = f"{__name__.rpartition('.')[0]}.{trial}"
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=HOME,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        # In bytes, whatever was asked for.
        text = (error.stdout or b"").decode(errors="backslashreplace")
        return Answer(objects=_read(text), reason=f"no answer after {TIMEOUT_S:.0f} s")
    except OSError as error:
        return Answer(objects=[], reason=in_one_line(error))
    reason = ""
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        reason = f"status {done.returncode}: {last[0]}"
    return Answer(objects=_read(done.stdout), reason=reason)


def _read(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        with suppress(ValueError):
            value = json.loads(line)
            found += [value] if isinstance(value, dict) else []
    return found
