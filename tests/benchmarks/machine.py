"""What a table must say of the machine it was measured on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# The instructions that decide how fast products of matrices are.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PACKAGES = ("tensorflow", "keras", "numpy", "h5py", "openvino", "pillow", "jax")
TORCH_PACKAGES = ("torch", "torchvision")

Load = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine and what is installed on it.

    Attributes
    ----------
    processor : str
    flags : list of str
        Of `FLAGS`, those it has.
    cores : int
        That this process may use.
    memory_bytes : int
    gpus : list of str
    system : str
    python : str
    versions : dict of str to str
    """

    processor: str
    flags: list[str]
    cores: int
    memory_bytes: int
    gpus: list[str]
    system: str
    python: str
    versions: dict[str, str]

    def describe(self) -> str:
        """Return all of it as a paragraph."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.cores} cores of {self.processor} ({', '.join(self.flags) or 'no AVX'}),"
            f" {self.memory_bytes / 1e9:.0f} GB, {', '.join(self.gpus) or 'no GPU'},"
            f" {self.system}, Python {self.python}, {versions}"
        )


def describe_machine(torch_python: Path | None) -> Machine:
    """Look at this machine, and at what is installed for this interpreter and for PyTorch's."""
    facts = _read_text(Path("/proc/cpuinfo"))
    words = set(_find(r"^flags\s*: (.+)$", facts).split())
    return Machine(
        processor=_find(r"^model name\s*: (.+)$", facts) or platform.machine(),
        flags=[flag for flag in FLAGS if flag in words],
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=[
            _find(r"^Model:\s*(.+)$", _read_text(file))
            for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        ],
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=find_versions(PACKAGES)
        | (find_versions_elsewhere(torch_python, TORCH_PACKAGES) if torch_python else {}),
    )


def find_versions(packages: Sequence[str]) -> dict[str, str]:
    """Find the versions of those packages that are installed."""
    installed = {}
    for package in packages:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def find_versions_elsewhere(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Find them for another interpreter."""
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.name.lower(): d.version for d in m.distributions() if d.name}))"
    )
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    installed = json.loads(done.stdout)
    return {package: installed[package] for package in packages if package in installed}


def _read_text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1].strip() if match else ""
