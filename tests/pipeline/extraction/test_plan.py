"""What an extraction would do."""

from __future__ import annotations

from pathlib import Path

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
