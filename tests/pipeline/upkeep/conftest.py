"""A cache that a real extraction filled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.answers import Command


@pytest.fixture
def cache(extract: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two feature sets of several small shards."""
    monkeypatch.setattr("permafrost.cache.shards.format.SHARD_BYTES", 1000)
    assert extract("--batch-size", 2).status == 0
    return tmp_path / "cache"
