"""``doctor`` says what is wrong first, and never fails."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from permafrost.about import Requirement
from permafrost.cores import count_cores
from permafrost.pipeline.inspection.children import ask_child
from permafrost.pipeline.inspection.doctor import Diagnosis, EngineState
from permafrost.pipeline.inspection.engine_trial import WORKS, try_engine
from permafrost.pipeline.inspection.machine import Machine, examine_machine
from permafrost.pipeline.inspection.packages import (
    EXTRAS,
    Package,
    explain_lack,
    list_extras,
    list_packages,
    list_requirements,
)
from permafrost.pipeline.tables import render
from tests.helpers.answers import Command


def break_package(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)


def test_a_tiny_network_is_really_run() -> None:
    told = try_engine("tensorflow")
    precisions = told["precisions"]
    assert isinstance(precisions, dict)
    assert list(precisions) == ["float32", "bfloat16", "float16"]
    assert precisions["float32"] == WORKS
    assert precisions["float16"] == WORKS or "needs a GPU" in precisions["float16"]


@pytest.mark.slow
def test_broken_packages_are_lines_and_what_works_is_told(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    break_package(tmp_path / "path", "skops", "raise RuntimeError('torn apart')")
    break_package(tmp_path / "path", "hdf5plugin", "import os; os._exit(9)")
    break_package(tmp_path / "path", "openvino", "raise ImportError('no such symbol')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    answer = command("doctor", "--cache", tmp_path / "cache")
    assert answer.status == 0
    wrong = answer.out[: answer.out.index("\n\n")]
    assert "skops RuntimeError: torn apart" in wrong
    assert "hdf5plugin importing it fails: status 9" in wrong
    assert "engine openvino does not work in float32: " in wrong
    figures = command("doctor", "--cache", tmp_path / "cache", "--json").figures
    assert figures["engines"]["tensorflow"]["float32"] == WORKS
    assert figures["engines"]["keras on tensorflow"]["float32"] == WORKS
    assert "no such symbol" in figures["engines"]["openvino"]["float32"]
    assert figures["machine"]["cores"] == count_cores()
    assert figures["versions"]["python"] == platform.python_version()
    assert not (tmp_path / "cache").exists()


def test_a_child_that_dies_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_package(tmp_path, "fatal", "import os, sys; sys.stderr.write('last words'); os.abort()")
    break_package(tmp_path, "noisy", "print('hello')\nprint('[1]')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answer = ask_child("import_trial", "noisy", "fatal")
    assert answer.objects == [{"module": "noisy", "problem": None}]
    assert answer.reason.startswith("status -6: ")
    assert ask_child("import_trial", "json").reason == ""


def test_all_that_is_needed_is_there_and_each_extra_says_what_is_missing() -> None:
    packages = {one.name: one for one in list_packages()}
    assert {"keras", "scikit-learn", "pillow"} <= set(packages)
    assert all(one.problem is None for one in packages.values())
    of_those_who_work_on_it = {"test", "docs", "workflows"}
    assert (
        set(list_extras())
        == set(EXTRAS)
        == set(list_requirements()) - {"", *of_those_who_work_on_it}
    )
    for one, lack in (
        (Requirement(name="h5py", at_least="999.1"), "is older than 999.1"),
        (Requirement(name="no-such-package-here"), "is not installed"),
        (Requirement(name="h5py", at_least="1.0"), None),
    ):
        told = explain_lack(one)
        assert told is None if lack is None else lack in str(told)


def test_the_machine_is_examined_where_the_cache_would_be(tmp_path: Path) -> None:
    machine = examine_machine(tmp_path / "not/there")
    assert machine.disk_free_bytes is not None and machine.disk_free_bytes > 0
    assert (machine.is_writable, machine.cores) == (True, count_cores())
    assert 0 < machine.memory_available_bytes <= machine.memory_bytes
    file = tmp_path / "file"
    file.touch()
    assert not examine_machine(file / "cache").is_writable


def test_what_is_wrong_comes_first_with_what_to_do() -> None:
    machine = Machine(
        system="Linux",
        processor="old",
        flags=None,
        cores=1,
        memory_bytes=2_000_000_000,
        memory_available_bytes=1_000_000_000,
        cache=Path("cache"),
        disk_free_bytes=1_000_000,
        is_writable=False,
    )
    found = Diagnosis(
        versions={"python": "3.11"},
        packages=[Package(name="h5py", version=None, problem="is not installed")],
        extras={"openvino": ["openvino"]},
        machine=machine,
        engines=[EngineState(engine="tensorflow", precisions={}, gpus=[], problem="it crashed")],
        keras_backend="tensorflow",
    )
    first, *others = found.list_problems()
    assert first == "h5py is not installed: pip install --upgrade h5py"
    for part in ("no engine works", "it crashed", "1.0 GB", "--memory", "1.0 MB", "chmod"):
        assert any(part in line for line in others), part
    text = render(found.describe())
    assert text.startswith(f"✗ {first}\n")
    assert 'pip install "permafrost[openvino]"' in text
