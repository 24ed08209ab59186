"""Figures as people say them: counts, bytes and times."""

from __future__ import annotations

_BYTE_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 24 * 3600


def count(n: int, noun: str) -> str:
    """Return a number with its noun: ``1 row``, ``55,000 rows``, ``2 classes``."""
    return f"{n:,} {noun}{'' if n == 1 else 'es' if noun.endswith('s') else 's'}"


def describe_bytes(n_bytes: float) -> str:
    """Return bytes as a person says them: ``3.1 GB``."""
    for unit, size in _BYTE_UNITS:
        # Not 1000.0 kB, which is what is left of rounding to one decimal.
        if n_bytes >= size * 0.99995:
            return f"{n_bytes / size:.1f} {unit}"
    return count(round(n_bytes), "byte")


def describe_seconds(seconds: float) -> str:
    """Return a time as a person says it: ``4.2 s``, ``42 s``, ``3 min 20 s``, ``2 h 5 min``.

    A whole number, as of an estimate, gets no tenths: ``4 s``.
    """
    if seconds < 9.95:
        return f"{seconds} s" if isinstance(seconds, int) else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return _join(whole, (_MINUTE_S, "min"), (1, "s"))
    if whole < 2 * _DAY_S:
        return _join(round(whole / _MINUTE_S) * _MINUTE_S, (_HOUR_S, "h"), (_MINUTE_S, "min"))
    return describe_days(whole / _DAY_S)


def _join(seconds: int, large: tuple[int, str], small: tuple[int, str]) -> str:
    (size, unit), (part, name) = large, small
    rest = seconds % size // part
    return f"{seconds // size} {unit}" + (f" {rest} {name}" if rest else "")


def describe_days(days: float) -> str:
    """Return a number of days: ``today``, ``1 day``, ``30 days``."""
    return count(int(days), "day") if days >= 1 else "today"
