"""Numbers out of texts that people wrote, read as people read them.

Python's own ``float`` and ``int`` also take ``1_0`` for 10, and digits of every script.
"""

from __future__ import annotations

import re

_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def parse_number(text: str) -> float:
    """Read ``3``, ``-0.5`` or ``1e-3``, with blanks around it or not.

    Raises
    ------
    ValueError
        It is anything else; ``inf`` and ``nan`` are, too, and so is a number too large for a float.
    """
    number = float(text) if _NUMBER.fullmatch(text.strip()) else float("inf")
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text!r} is not a number")
    return number


def parse_whole(text: str) -> int:
    """Read ``3`` or ``-12``, with blanks around it or not; `ValueError` for anything else."""
    if not _WHOLE.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)
