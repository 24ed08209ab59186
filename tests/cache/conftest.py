"""An empty cache and its index."""

from __future__ import annotations

from pathlib import Path

import pytest

from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout, open_cache


@pytest.fixture
def layout(tmp_path: Path) -> CacheLayout:
    return open_cache(tmp_path / "100%b cache")


@pytest.fixture
def index(layout: CacheLayout) -> Index:
    return Index(layout.index_file)
