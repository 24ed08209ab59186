"""How many cores this process may use."""

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


def _read_quotas(root: Path) -> Iterator[int]:
    """Yield the quotas, in cores, of the process's control group and of those above (version 2)."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:  # Only Linux has them.
        return
    group = Path(groups.strip().removeprefix("0::/"))
    for folder in (group, *group.parents):
        file = root / "sys/fs/cgroup" / folder / "cpu.max"
        quota, period = file.read_text(encoding="utf-8").split() if file.is_file() else ("max", "1")
        if quota != "max":
            yield math.ceil(int(quota) / int(period))
