"""What an extraction would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from permafrost.cache.store.layout import open_cache
from tests.helpers.answers import Command
from tests.helpers.inputs import LAYERS


def test_a_plan_says_that_nothing_is_kept_where_there_is_no_cache_and_makes_none(
    command: Command, photos: Path, backbone: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    plan = ("plan", "--images", photos, "--backbone", backbone, "--layers", LAYERS)
    plan += ("--cache", cache, "--out", tmp_path / "features.h5")
    assert "no cache yet" in command(*plan).out
    assert not command(*plan, "--json").figures["digests_kept"]
    assert not cache.exists()
    open_cache(cache)
    assert "no cache yet" not in command(*plan).out
    assert command(*plan, "--json").figures["digests_kept"]


@pytest.mark.slow
def test_a_plan_says_how_long_workers_of_a_cluster_take_by_their_own_rate(
    command: Command, photos: Path, backbone: Path, tmp_path: Path
) -> None:
    places = ("--backbone", backbone, "--layers", LAYERS, "--cache", tmp_path / "cache")
    few = ("--images", photos / "china", *places, "--json")
    extract = ("extract", *few, "--out", tmp_path / "features.h5")
    assert command(*extract, "--scheduler", "local:1").status == 0
    plan = ("plan", "--images", photos, *places)
    figures = command(*plan, "--json").figures
    rate = figures["worker_images_per_second"]
    assert (figures["to_compute"], figures["shards"]) == (6, len(LAYERS.split(",")))
    assert rate > 0
    assert figures["images_per_second"] is None
    assert f"a worker of a cluster did {rate:.1f} images/s: 2 take" in command(*plan).out
