"""The house rules: who may import whom, and what planning may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("permafrost", "pipeline", "stages", "cache")
# Who may import whom, besides itself.
ALLOWED = {
    "stages": set(),
    "cache": set(),
    "pipeline": {"stages", "cache"},
    "permafrost": {"pipeline"},
}
HEAVY = {"tensorflow", "keras", "sklearn", "pandas", "distributed", "dask", "scipy", "skops"}
# All of the cache, and the half of the pipeline that finds out what is missing.
PLANNING = [
    "permafrost",
    *(f"permafrost.cache.{file.stem}" for file in sorted((ROOT / "cache").glob("[!_]*.py"))),
    *(
        f"permafrost.pipeline.{name}"
        for name in ("cli", "commands", "dataset", "extract", "plan", "preview", "upkeep")
    ),
]


def list_modules() -> list[Path]:
    return sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def find_imports(file: Path) -> Iterator[str]:
    """Yield the package of each of our modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} line {node.lineno}: a relative import"
            names = [str(node.module)]
        else:
            continue
        for name in names:
            if name.startswith("permafrost."):
                yield name.split(".")[1]


@pytest.mark.parametrize("file", list_modules(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_run_one_way(file: Path) -> None:
    place = file.relative_to(ROOT).parts[0]
    found = set(find_imports(file)) - {place}
    assert found <= ALLOWED[place], f"{place} must not import {found - ALLOWED[place]}"


def test_planning_loads_nothing_heavy() -> None:
    code = f"import sys, {', '.join(PLANNING)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert set(PLANNING) <= loaded
    assert not HEAVY & loaded
