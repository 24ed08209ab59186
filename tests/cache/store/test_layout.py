"""Which folders are caches."""

from __future__ import annotations

from pathlib import Path

import pytest

from permafrost.cache.errors import CacheError
from permafrost.cache.store.layout import open_cache


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"holiday.txt": "x"}, "is not a cache"),
        ({"format.json": '{"format": 99}'}, "newer"),
        ({"format.json": "{"}, "damaged"),
    ],
)
def test_a_folder_that_is_no_cache_is_refused(
    tmp_path: Path, content: dict[str, str], words: str
) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(CacheError, match=words):
        open_cache(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(content)
