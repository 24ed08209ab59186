"""Figures as people say them."""

from __future__ import annotations

import pytest

from permafrost.pipeline.units import count, describe_bytes, describe_days, describe_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (4.21, "4.2 s"),
        (4, "4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (119.0, "1 min 59 s"),
        (200.0, "3 min 20 s"),
        (3599.7, "1 h"),
        (7500.0, "2 h 5 min"),
        (86_400.0, "24 h"),
        (260_000.0, "3 days"),
    ],
)
def test_times_are_told_as_people_say_them(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (1.24e9, "1.2 GB"),
        (3e12, "3.0 TB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_bytes_are_told_as_people_say_them(n_bytes: float, text: str) -> None:
    assert describe_bytes(n_bytes) == text


def test_counts_and_days_go_with_their_noun() -> None:
    assert (count(1, "row"), count(55_000, "row")) == ("1 row", "55,000 rows")
    assert [describe_days(days) for days in (0.9, 1.2, 30.0)] == ["today", "1 day", "30 days"]
