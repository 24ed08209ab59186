"""How many cores and how much memory a process counts on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from permafrost.cores import count_cores, find_memory_limit

ALLOWED = len(os.sched_getaffinity(0))


def write_group(root: Path, group: str, quota: str) -> None:
    folder = root / "sys/fs/cgroup" / group
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(f"{quota} 100000\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/pods/one\n")
    write_group(tmp_path, "pods", "max")
    return tmp_path


def test_without_quotas_it_is_what_the_scheduler_allows(root: Path, tmp_path: Path) -> None:
    assert count_cores(root) == count_cores(tmp_path / "elsewhere") == ALLOWED


@pytest.mark.parametrize("group", ["pods/one", "pods"])
def test_the_quota_of_a_container_counts(root: Path, group: str) -> None:
    write_group(root, group, "40000")
    assert count_cores(root) == 1


def test_a_quota_above_the_machine_gives_no_core_that_is_not_there(root: Path) -> None:
    write_group(root, "pods/one", "99900000")
    assert count_cores(root) == ALLOWED


def test_a_process_never_counts_none(root: Path) -> None:
    write_group(root, "pods/one", "1")
    assert count_cores(root) == 1


def test_the_smallest_memory_limit_of_all_groups_counts(root: Path, tmp_path: Path) -> None:
    assert find_memory_limit(root) is find_memory_limit(tmp_path / "elsewhere") is None
    group = root / "sys/fs/cgroup/pods/one"
    group.mkdir()
    (group / "memory.max").write_text("3000000000\n")
    (group.parent / "memory.max").write_text("2000000000\n")
    assert find_memory_limit(root) == 2_000_000_000
    (group.parent / "memory.max").write_text("max\n")
    assert find_memory_limit(root) == 3_000_000_000
