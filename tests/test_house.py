"""The house rules: who may import whom, how large a room may be, and what planning may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers import ROOT

# What each package may import of the others.
PACKAGES: dict[str, set[str]] = {
    "permafrost": {"pipeline"},
    "pipeline": {"stages", "cache"},
    "stages": set(),
    "cache": set(),
}
# What all may import, and what imports nothing of ours.
GROUND = {
    "permafrost.about",
    "permafrost.command",
    "permafrost.cores",
    "permafrost.refusals",
    "permafrost.stamps",
    "permafrost.warn",
}
# What each room may import of the others in its package, besides the ground: the modules that lie
# beside the rooms, and that import no room.
ROOMS: dict[str, dict[str, set[str]]] = {
    "cache": {
        "disk": set(),
        "hdf5": set(),
        "shards": {"disk", "hdf5"},
        "store": {"disk", "hdf5", "shards"},
        "views": {"disk", "hdf5", "shards", "store"},
        "upkeep": {"disk", "hdf5", "shards", "store"},
    },
    "stages": {
        "sources": set(),
        "datasets": {"sources"},
        "decoding": set(),
        "frameworks": set(),
        "shortcuts": set(),
        "presets": {"frameworks"},
        "backbones": {"frameworks", "presets", "shortcuts"},
        "engines": {"backbones", "frameworks", "shortcuts"},
        "matrices": set(),
        "heads": {"datasets", "frameworks", "matrices"},
        "evaluation": {"datasets", "heads", "matrices"},
        "export": {"backbones", "datasets", "frameworks", "heads"},
        "advice": {"datasets", "evaluation", "matrices"},
        "audit": {"datasets", "decoding", "evaluation", "matrices"},
    },
    "pipeline": {
        "planning": set(),
        "forward": {"planning"},
        "computing": {"planning", "forward"},
        "cluster": {"planning", "forward", "computing"},
        "extraction": {"planning", "forward", "computing", "cluster"},
        "upkeep": {"planning", "forward"},
        "export": {"planning"},
        "tasks": {"planning", "export"},
        "models": {"planning", "extraction", "export", "tasks"},
        "audit": {"planning", "extraction", "export", "tasks", "models"},
        "api": {"planning", "computing", "extraction"},
        "sweeps": {"models", "tasks"},
        "experiments": {
            *("planning", "extraction", "export", "tasks"),
            *("models", "sweeps", "audit"),
        },
        "advice": {"planning", "tasks", "models", "sweeps", "experiments"},
        "looking": {"planning", "extraction", "export", "tasks"},
        "inspection": {
            *("planning", "extraction", "export", "models"),
            *("sweeps", "experiments"),
        },
        "report": {
            *("planning", "extraction", "export", "tasks"),
            *("models", "sweeps", "experiments", "advice", "audit", "looking"),
        },
        "cli": {
            *("planning", "extraction", "upkeep", "export", "tasks"),
            *("models", "sweeps", "experiments", "advice"),
            *("looking", "inspection", "report", "audit"),
        },
    },
}
MOST_MODULES = 12
HEAVY = {"tensorflow", "keras", "sklearn", "pandas", "distributed", "dask", "scipy", "skops"}
HEAVY |= {"jinja2", "vl_convert"}


def name_module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    inner = parts if parts[0] == "permafrost" else ("permafrost", *parts)
    return ".".join(part for part in inner if part != "__init__")


MODULES = {
    name_module(file): file for package in PACKAGES for file in (ROOT / package).rglob("*.py")
}
# All of the cache, all of planning, and the commands as far as they are loaded before they compute.
PLANNING = [
    "permafrost",
    *(name for name in sorted(MODULES) if name.startswith("permafrost.cache.")),
    *(name for name in sorted(MODULES) if name.startswith("permafrost.pipeline.planning.")),
    *(name for name in sorted(MODULES) if name.startswith("permafrost.pipeline.cli.")),
    "permafrost.pipeline.extraction.extract",
    "permafrost.pipeline.extraction.plan",
    "permafrost.pipeline.upkeep.verify",
]


def find_imports(file: Path) -> Iterator[str]:
    """Yield each of our modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            found = name if name in MODULES else name.rpartition(".")[0]
            if found in MODULES:
                yield found


def place_module(name: str) -> tuple[str, str | None]:
    """Return package and room of a module; no room for the ground."""
    parts = name.split(".")
    package = parts[1] if len(parts) > 1 and parts[1] in ROOMS else parts[0]
    room = parts[2] if len(parts) > 2 and parts[2] in ROOMS.get(package, ()) else None
    return package, room


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_one_way(name: str) -> None:
    package, room = place_module(name)
    for other in set(find_imports(MODULES[name])) - GROUND:
        assert name not in GROUND, f"{name} must not import {other}"
        their_package, their_room = place_module(other)
        if their_package != package:
            assert their_package in PACKAGES[package], f"{name} must not import {other}"
        elif their_room not in (room, None):
            allowed = ROOMS[package][room] if room else set()
            assert their_room in allowed, f"{name} must not import {other}"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: set(find_imports(file)) - {name} for name, file in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("package", ROOMS)
def test_every_folder_is_a_room_of_few_modules_that_says_what_it_is_for(package: str) -> None:
    folders = {file.parent for file in (ROOT / package).rglob("*.py")}
    assert {folder.name for folder in folders if folder.parent == ROOT / package} == set(
        ROOMS[package]
    )
    for folder in folders:
        assert len(list(folder.glob("[!_]*.py"))) <= MOST_MODULES, folder
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))


def test_planning_loads_nothing_heavy() -> None:
    code = f"import sys, {', '.join(PLANNING)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert set(PLANNING) <= loaded
    assert not HEAVY & loaded
