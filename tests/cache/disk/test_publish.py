"""Whole files or none; and whose unfinished ones may be removed."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest

from permafrost.cache.disk.orphans import remove_orphans
from permafrost.cache.disk.owners import Owner
from permafrost.cache.disk.publish import (
    published,
    remove_durably,
    sync,
    temporary_folder,
    temporary_path,
)

DEAD_PID = 2**22 + 1  # beyond what Linux gives


def leave(folder: Path, owner: object) -> Path:
    left = folder / f".tmp-{owner}-0.h5"
    left.write_bytes(b"half")
    return left


def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "a.json"
    final.write_text("old")
    with pytest.raises(OSError, match="full"), published(final) as temporary:
        temporary.write_text("ne")
        raise OSError("full")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert final.read_text() == "old"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has it")
def test_a_folder_that_cannot_be_synchronized_will_do_and_a_file_will_not() -> None:
    sync(Path("/proc"))
    with pytest.raises(OSError, match="Invalid argument"):
        sync(Path("/proc/self/status"))


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    leave(tmp_path, dataclasses.replace(Owner.current(), pid=DEAD_PID))
    remove_orphans(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_number_that_was_given_again_keeps_nothing_alive(tmp_path: Path) -> None:
    """After a power cut another process may have the number of the one that wrote."""
    owner = Owner.current()
    if not owner.start:
        pytest.skip("this system does not say when a process started")
    leave(tmp_path, dataclasses.replace(owner, start=owner.start + 1000))
    remove_orphans(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_being_written_and_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    temporary_path(tmp_path / "mine.h5").touch()
    strangers = [leave(tmp_path, "another-host-7-7"), leave(tmp_path, "of a user")]
    os.utime(strangers[1], (0, 0))
    remove_orphans(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    os.utime(strangers[0], (time.time() - 2 * 24 * 3600,) * 2)
    remove_orphans(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_temporary_folder_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), temporary_folder(tmp_path) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "file").touch()
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    remove_durably(tmp_path / "a")
    (tmp_path / "a").touch()
    remove_durably(tmp_path / "a")
    assert not list(tmp_path.iterdir())
