"""Folders full of garbage: the run ends, the photos among it are right, the rest has its reason."""

from __future__ import annotations

import csv
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from permafrost.cache.views.features import Features
from permafrost.stages.sources.folder import FolderSource
from tests.helpers.answers import Answer, Command
from tests.helpers.codecs import spoil_codecs, write_trap
from tests.helpers.garbage import collect, is_good
from tests.helpers.inputs import write_photos
from tests.helpers.litter import strew
from tests.helpers.pictures import encode, photo

# pytest puts its own warning filters in place of those that stages.decoding.decode sets once.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

LAYER = "first"
ISOLATED = ("--isolate",)


def read_failures(out: Path) -> dict[str, str]:
    listed = out.with_name(f"{out.name}.failures.csv")
    if not listed.exists():
        return {}
    with listed.open(newline="", errors="surrogateescape") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def read_rows(out: Path) -> dict[str, np.ndarray]:
    with Features(out) as features:
        return dict(zip(features.paths, features.read(LAYER), strict=True))


def check_failures(found: dict[str, str], expected: dict[str, str]) -> None:
    assert found.keys() == expected.keys()
    for path, pattern in expected.items():
        assert re.search(pattern, found[path]), (path, found[path])


@pytest.mark.parametrize("how", [(), pytest.param(ISOLATED, marks=pytest.mark.slow)])
def test_garbage_costs_only_itself(
    how: tuple[str, ...], extract: Command, photos: Path, tmp_path: Path
) -> None:
    heap, alone = photos / "heap", tmp_path / "alone"
    heap.mkdir()
    things = strew(heap)
    specimens = collect()
    expected = {os.fsdecode(b"heap/" + name): why for name, why in things.items()}
    for specimen in specimens:
        (heap / specimen.name).write_bytes(specimen.data)
        why = None if is_good(specimen) else specimen.reason or ""
        expected[f"heap/{specimen.name}"] = why
    for path in [*expected, *(str(file.relative_to(photos)) for file in photos.rglob("*/0*.jpg"))]:
        if expected.get(path) is None:
            (alone / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photos / path, alone / path)

    out, plain = tmp_path / "heap.h5", tmp_path / "alone.h5"
    figures = extract(*how, layers=LAYER, out=out).figures
    bad = {path: why for path, why in expected.items() if why is not None}
    assert (figures["images"], figures["failed"]) == (len(expected) + 12, len(bad))
    check_failures(read_failures(out), bad)

    extract(layers=LAYER, images=alone, cache=tmp_path / "other", out=plain)
    found, wanted = read_rows(out), read_rows(plain)
    assert found.keys() == wanted.keys()
    assert len(found) > 100
    for path, row in wanted.items():
        np.testing.assert_allclose(found[path], row, rtol=1e-4, atol=1e-5, err_msg=path)


def test_a_codec_that_crashes_or_hangs_costs_one_image_and_only_this_time(
    extract: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for said in ("crash", "hang", "exit"):
        (photos / "flower" / f"{said}.gif").write_bytes(write_trap(said))
    with monkeypatch.context() as spoilt:
        spoil_codecs(tmp_path / "spoilt", spoilt)
        figures = extract(*ISOLATED, "--image-timeout", "1").figures
    assert (figures["computed"], figures["failed"]) == (12, 3)
    check_failures(
        read_failures(tmp_path / "features.h5"),
        {
            "flower/crash.gif": r"^the decoder crashed \(SIGSEGV\)$",
            "flower/exit.gif": r"^the decoder crashed \(exit status 7\)$",
            "flower/hang.gif": r"^took more than 1 s$",
        },
    )
    figures = extract(*ISOLATED).figures
    assert (figures["computed"], figures["reused"], figures["failed"]) == (3, 12, 0)


def test_on_error_fail_stops_at_a_crash(
    extract: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "crash.gif").write_bytes(write_trap("crash"))
    spoil_codecs(tmp_path / "spoilt", monkeypatch)
    answer: Answer = extract(*ISOLATED, "--on-error", "fail")
    assert answer.status == 3
    assert "cannot read 'crash.gif': the decoder crashed (SIGSEGV)" in answer.err


def test_isolated_features_are_those_of_threads_and_found_again(
    extract: Command, photos: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.h5", tmp_path / "second.h5"
    extract(out=first, cache=tmp_path / "other")
    extract(*ISOLATED, out=second)
    found, wanted = read_rows(second), read_rows(first)
    assert all(np.array_equal(found[path], wanted[path]) for path in wanted)
    write_photos(photos, n_each=7)
    assert extract().figures["computed"] == 2


def test_a_timeout_without_isolation_is_refused(extract: Command) -> None:
    answer = extract("--image-timeout", "5")
    assert (answer.status, answer.err) == (
        2,
        "permafrost: --image-timeout 5 goes with --isolate; add it\n",
    )


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "vanish": (Path.unlink, "no such file"),
    "change": (lambda file: file.write_bytes(encode(photo(), "JPEG")), "changed while"),
    "shrink": (lambda file: os.truncate(file, 100), "changed while"),
    "grow": (lambda file: file.write_bytes(file.read_bytes() + b"more"), "changed while"),
    "become a fifo": (lambda file: (file.unlink(), os.mkfifo(file)), "not a regular file"),
    "become a folder": (lambda file: (file.unlink(), file.mkdir()), "is a directory"),
    "become a loop": (lambda file: (file.unlink(), file.symlink_to(file.name)), "too many levels"),
    "close": (lambda file: file.chmod(0), "permission denied"),
}


def test_what_became_a_fifo_since_it_was_looked_at_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    monkeypatch.setattr("permafrost.stages.sources.folder.stat_regular", os.stat)
    assert FolderSource(str(tmp_path)).read("fifo.jpg") == b""


def test_files_that_change_while_the_run_goes_cost_only_themselves(
    extract: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between hashing and decoding, where the program is built while the first images wait."""
    import permafrost.pipeline.computing.compute

    build = permafrost.pipeline.computing.compute.build_program
    changes = {name: change for name, change in CHANGES.items() if name != "close" or os.geteuid()}
    # One worker loads three batches ahead; what comes later than these has not been read.
    victims = dict(zip(changes, sorted(photos.rglob("*.jpg"))[4:], strict=False))

    def change_and_build(*arguments: Any) -> Any:
        for name, file in victims.items():
            changes[name][0](file)
        return build(*arguments)

    monkeypatch.setattr("permafrost.pipeline.computing.compute.build_program", change_and_build)
    figures = extract("--batch-size", "1", "--workers", "1").figures
    assert (figures["computed"], figures["failed"]) == (12 - len(victims), len(victims))
    check_failures(
        read_failures(tmp_path / "features.h5"),
        {str(file.relative_to(photos)): changes[name][1] for name, file in victims.items()},
    )


@pytest.mark.slow
def test_dask_workers_lose_one_image_too(
    extract: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are daemonic processes, which may have no children of `multiprocessing`."""
    from distributed import LocalCluster

    (photos / "crash.gif").write_bytes(write_trap("crash"))
    spoil_codecs(tmp_path / "spoilt", monkeypatch)
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster:
        figures = extract(*ISOLATED, "--scheduler", cluster.scheduler_address).figures
        running = psutil.Process().children(recursive=True)
        children = [
            child for child in running if "permafrost.stages.decoding.isolation" in child.cmdline()
        ]
    assert (figures["computed"], figures["failed"]) == (12, 1)
    check_failures(read_failures(tmp_path / "features.h5"), {"crash.gif": "SIGSEGV"})
    assert children
    assert psutil.wait_procs(children, timeout=30)[1] == []
