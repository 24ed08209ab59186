"""What the command line answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command answered."""

    status: int
    out: str
    err: str

    @property
    def figures(self) -> dict[str, Any]:
        """The JSON object that ``--json`` prints."""
        assert self.status == 0, self.err
        last = self.out.splitlines()[-1]
        figures: dict[str, Any] = json.loads(last, parse_constant=pytest.fail)
        return figures


Command = Callable[..., Answer]
