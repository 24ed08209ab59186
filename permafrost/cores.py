"""How many cores, and how much memory, this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

# What this process may use less than the system lets it, see `limit_cores`.
_limits: list[int] = []


def limit_cores(n_cores: int) -> None:
    """Have `count_cores` say no more than this, where several processes share a machine's cores."""
    _limits[:] = [n_cores]


def count_cores(root: Path = Path("/")) -> int:
    """Count the cores that the process may use: a container's share of a large machine is small.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` lie.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, min((allowed, *_limits, *_read_quotas(root))))


def find_memory_limit(root: Path = Path("/")) -> int | None:
    """Return the bytes that the process' control groups let it have; None where they do not say.

    Parameters
    ----------
    root : Path
        As for `count_cores`.
    """
    texts = _read_groups(root, "memory.max", default="max")
    return min((int(text) for text in texts if text.strip() != "max"), default=None)


def _read_quotas(root: Path) -> Iterator[int]:
    """Yield the quotas, in cores, of the process's control group and of those above."""
    for text in _read_groups(root, "cpu.max", default="max 1"):
        quota, period = text.split()
        if quota != "max":
            yield math.ceil(int(quota) / int(period))


def _read_groups(root: Path, name: str, *, default: str) -> Iterator[str]:
    """Yield a setting of the process's control group and of those above (version 2)."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:  # Only Linux has them.
        return
    group = Path(groups.strip().removeprefix("0::/"))
    for folder in (group, *group.parents):
        file = root / "sys/fs/cgroup" / folder / name
        yield file.read_text(encoding="utf-8") if file.is_file() else default
