"""The command and the package, from a checkout and from a wheel, beside a stranger's modules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT

SOURCES = (
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "permafrost",
    "pipeline",
    "stages",
    "cache",
)
# What a notebook does, and what starts a process of its own: a decoder that must find the package.
USE = """
import io
from permafrost import BackboneFeatures, open_features
from permafrost.stages.decoding.decode import DecodeSpec
from permafrost.stages.decoding.isolation import Isolation, IsolatedDecoder
from PIL import Image
import permafrost

image = io.BytesIO()
Image.new("RGB", (9, 9), (200, 0, 0)).save(image, "PNG")
with IsolatedDecoder(Isolation()) as decoder:
    pixels = decoder.decode(image.getvalue(), DecodeSpec(height=3, width=3)).pixels
print(open_features.__module__, pixels[0, 0].tolist(), permafrost.__file__)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder that holds modules of our names, which end whoever imports them."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("pipeline", "cache", "stages", "run"):
        (folder / f"{name}.py").write_text("raise SystemExit('a stranger was imported')\n")
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package, without what it depends on, into a folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--disable-pip-version-check", "--target", target, source),
        ],
        check=True,
    )
    return target


def run(command: list[object], folder: Path, found: Path | None = None) -> str:
    environment = os.environ | ({"PYTHONPATH": str(found)} if found else {})
    done = subprocess.run(
        list(map(str, command)),
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_checkout_runs_beside_a_strangers_modules(folder: Path) -> None:
    told = run([sys.executable, ROOT / "run.py", "--help"], folder)
    assert "extract" in told
    assert told.startswith("usage: python run.py ")
    assert run([sys.executable, "-c", USE], folder, ROOT).split() == [
        *("permafrost.pipeline.api.reader", "[200,", "0,", "0]"),
        str(ROOT / "permafrost/__init__.py"),
    ]


def test_a_wheel_runs_beside_a_strangers_modules(folder: Path, installed: Path) -> None:
    told = run([installed / "bin/permafrost", "--help"], folder, installed)
    assert "extract" in told
    assert told.startswith("usage: permafrost ")
    assert "extract" in run([sys.executable, "-m", "permafrost", "--help"], folder, installed)
    assert run([sys.executable, "-c", USE], folder, installed).split() == [
        *("permafrost.pipeline.api.reader", "[200,", "0,", "0]"),
        str(installed / "permafrost/__init__.py"),
    ]


def test_a_wheel_holds_one_name_and_every_module(installed: Path) -> None:
    tops = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert tops == {"permafrost", "bin"}
    ours = {path.relative_to(installed / "permafrost") for path in installed.rglob("*.py")}
    face = {path.relative_to(ROOT / "permafrost") for path in (ROOT / "permafrost").glob("*.py")}
    theirs = {
        path.relative_to(ROOT)
        for package in ("pipeline", "stages", "cache")
        for path in (ROOT / package).rglob("*.py")
    }
    assert ours == face | theirs
    assert (installed / "permafrost/py.typed").exists()
    room = Path("pipeline/report")
    page = {file.name for file in (ROOT / room).glob("page.*")}
    assert {file.name for file in (installed / "permafrost" / room).glob("page.*")} == page != set()
