"""What the commands that look after a cache have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.answers import Command
from tests.helpers.folders import find_shards, list_content


@pytest.mark.parametrize("name", ["verify", "gc", "compact"])
@pytest.mark.parametrize("make", [lambda _: None, Path.mkdir, Path.touch])
def test_where_there_is_no_cache_none_is_made(
    tmp_path: Path, command: Command, name: str, make: Callable[[Path], Any]
) -> None:
    folder = tmp_path / "nothing"
    make(folder)
    before = list(tmp_path.rglob("*"))
    answer = command(name, "--cache", folder)
    line = f"permafrost: there is no cache at {str(folder)!r}; name one with --cache DIR\n"
    assert (answer.status, answer.err) == (2, line)
    assert list(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["gc", "compact"])
def test_a_damaged_set_is_left_as_it_is_and_others_are_not(
    cache: Path, command: Command, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    shards = find_shards(cache)
    shards[2].write_bytes(shards[2].read_bytes()[:-20])
    before = list_content(shards[0].parent)
    rules = ("--keep-days", 0) if name == "gc" else ()
    answer = command(name, "--cache", cache, *rules)
    assert answer.status == 0
    assert list_content(shards[0].parent) == before
    assert f"{str(shards[2])!r} is damaged: " in answer.out
    assert "left as it is: see verify and repair" in answer.out
    assert len(list(cache.glob("*/first-none/shard-*.h5"))) == (0 if name == "gc" else 1)
