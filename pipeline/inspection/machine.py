"""What this process may use of the machine."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from permafrost.cores import count_cores, find_memory_limit
from permafrost.pipeline.options import DEFAULT_MEMORY_BYTES
from permafrost.pipeline.units import describe_bytes
from permafrost.stages.engines.support import read_processor

# Without the first, TensorFlow does not even start; the others are what half precision wants.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_LITTLE_DISK_BYTES = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine, as far as this process may use it.

    Attributes
    ----------
    system : str
    processor : str
    flags : dict of str to bool, optional
        Which of `FLAGS` the processor has; None where the system does not tell.
    cores : int
    memory_bytes, memory_available_bytes : int
        The first is the machine's, or less where a control group says so.
    cache : Path
    disk_free_bytes : int or None
        Where the cache lies, or would.
    is_writable : bool
        Whether the cache can be written, or made.
    """

    system: str
    processor: str
    flags: dict[str, bool] | None
    cores: int
    memory_bytes: int
    memory_available_bytes: int
    cache: Path
    disk_free_bytes: int | None
    is_writable: bool

    def list_problems(self) -> list[str]:
        """Say what is wrong, and what to do."""
        problems = []
        if self.flags is not None and not self.flags["avx2"] and platform.machine() == "x86_64":
            problems.append("the processor has no AVX2: every engine is several times slower")
        if self.memory_available_bytes < DEFAULT_MEMORY_BYTES:
            free = describe_bytes(self.memory_available_bytes)
            problems.append(f"{free} of memory are free: lower --memory, as --memory 1GB")
        if not self.is_writable:
            problems.append(f"the cache {str(self.cache)!r} cannot be written: allow it with chmod")
        if self.disk_free_bytes is not None and self.disk_free_bytes < _LITTLE_DISK_BYTES:
            free = describe_bytes(self.disk_free_bytes)
            problems.append(f"{free} of disk are free at {str(self.cache)!r}: name another --cache")
        return problems

    def list_points(self) -> list[tuple[str, str]]:
        """Return it as names and what they are."""
        flags = "unknown"
        if self.flags is not None:
            flags = ", ".join(name if has else f"no {name}" for name, has in self.flags.items())
        free = "unknown" if self.disk_free_bytes is None else describe_bytes(self.disk_free_bytes)
        memory, available = self.memory_bytes, self.memory_available_bytes
        return [
            ("system", self.system),
            ("processor", self.processor),
            ("flags", flags),
            ("cores", str(self.cores)),
            ("memory", f"{describe_bytes(memory)}, {describe_bytes(available)} free"),
            ("disk", f"{free} free at {self.cache}"),
        ]


def examine_machine(cache: Path) -> Machine:
    """Find out what this process may use."""
    import psutil

    name, flags = read_processor()
    memory, limit = psutil.virtual_memory(), find_memory_limit()
    place = _find_place(cache)
    try:
        free: int | None = shutil.disk_usage(place).free
    except OSError:
        free = None
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        processor=name or platform.processor() or platform.machine(),
        flags={flag: flag in flags for flag in FLAGS} if flags else None,
        cores=count_cores(),
        memory_bytes=min(memory.total, limit or memory.total),
        memory_available_bytes=min(memory.available, limit or memory.available),
        cache=cache,
        disk_free_bytes=free,
        is_writable=os.access(place, os.W_OK | os.X_OK) and place.is_dir(),
    )


def _find_place(cache: Path) -> Path:
    """Return the cache, or the folder above in which it would be made."""
    whole = cache.absolute()
    return next((one for one in (whole, *whole.parents) if one.exists()), whole)
