"""What every command returns to the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command has to say: to a person, and to a program with ``--json``.

    `status` is not 0 where the command did its work and found damage.
    """

    text: str
    figures: Mapping[str, object]
    status: int = 0
