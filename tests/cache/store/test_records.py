"""The records of a feature set."""

from __future__ import annotations

from pathlib import Path

import pytest

from permafrost.cache.store.records import Cost, Drift, Parity, read_record, write_record

PARITY = Parity(reference="tensorflow", images=32, max_error=0.0032, mean_error=1.5e-7)
DRIFT = Drift(images=2, batch_size=32, max_error=1.5e-7)
COST = Cost(images=9, runs=1, seconds=8.5, building=1.5, loading=0.5, backbone=6.0, disk=0.25)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_record(tmp_path, PARITY)
    write_record(tmp_path, DRIFT)
    write_record(tmp_path, COST)
    assert read_record(tmp_path, Parity) == PARITY
    assert read_record(tmp_path, Drift) == DRIFT
    assert read_record(tmp_path, Cost) == COST
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["cost.json", "drift.json", "parity.json"]


def test_costs_add_up() -> None:
    twice = Cost(images=18, runs=2, seconds=17.0, building=3, loading=1, backbone=12, disk=0.5)
    assert twice == COST + COST


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"images": null}', "\x00"])
def test_a_missing_or_damaged_record_is_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "parity.json").write_text(text)
    assert read_record(tmp_path, Parity) is None
