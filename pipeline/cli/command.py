"""What every command returns to the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command has to say: to a person, and to a program with ``--json``.

    `status` is not 0 where the command did its work and found damage; `is_dry` is true where it was
    asked to do none.
    """

    text: str
    figures: Mapping[str, object]
    status: int = 0
    is_dry: bool = False
