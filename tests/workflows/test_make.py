"""The Makefile of the examples, run by GNU make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers.workflows import CONFIG, PAIRS, Workshop, find_runner, set_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def make() -> list[object]:
    # What the example's first lines say, of the data of the test.
    sources = [f"{one['name']}={one['images']} {one['options']}" for one in CONFIG["datasets"]]
    backbones = [f"{one['name']}={one['options']}" for one in CONFIG["backbones"]]
    names = {
        key.upper(): " ".join(one["name"] for one in CONFIG[key])
        for key in ("datasets", "backbones")
    }
    lists = [f"{key}={value}" for key, value in names.items()]
    return [find_runner("make"), *lists, *sources, *backbones, f"SWEEP={CONFIG['sweep']}"]


def test_it_makes_what_is_missing_and_no_more(tmp_path: Path, make: list[object]) -> None:
    workshop = set_up(tmp_path, "Makefile")
    workshop.call(*make, "-j", 2)
    assert sorted(workshop.read_features()) == sorted(PAIRS)
    assert len(workshop.take_calls()) == 2 + 4 + 4
    assert "Nothing to be done" in workshop.call(*make)
    check_a_touched_folder(workshop, make)
    shards = workshop.list_shards(".permafrost")
    (workshop.folder("crops", "small") / "leaderboard.csv").unlink()
    (workshop.folder("crops", "small") / "features.h5").unlink()
    workshop.call(*make)
    assert [call.split()[0] for call in workshop.take_calls()] == ["extract", "sweep"]
    assert workshop.list_shards(".permafrost") == shards


def check_a_touched_folder(workshop: Workshop, make: list[object]) -> None:
    os.utime(workshop.root / "photos" / "china")
    shards = workshop.list_shards(".permafrost")
    workshop.call(*make)
    calls = [call.split()[0] for call in workshop.take_calls()]
    assert sorted(calls) == ["extract", "extract", "index", "sweep", "sweep"]
    assert workshop.list_shards(".permafrost") == shards
    assert "Nothing to be done" in workshop.call(*make)
