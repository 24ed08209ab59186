"""The fastest way of computing is found once for each network and machine, and remembered."""

from __future__ import annotations

import importlib.metadata
import json
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from permafrost.cache.store.index import Index
from permafrost.stages.engines import choosing, tensorflow_engine
from tests.helpers.answers import Command

ONE_BY_ONE = ("--batch-size", 1)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a network with channels enough for Winograd's filtering."""
    import keras
    from keras import layers

    steps = [
        layers.Conv2D(64, 3, strides=2, activation="relu", name="first"),
        layers.Conv2D(64, 3, name="last"),
    ]
    file = tmp_path_factory.mktemp("wide") / "wide.keras"
    keras.Sequential([layers.Input((32, 32, 3)), *steps], name="mobilenet_wide").save(file)
    return file


@pytest.fixture
def extract(extract: Command, wide: Path) -> Command:
    """Call ``extract`` with that network."""
    return partial(extract, model=wide)


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Note the axes of Winograd's filtering of each program that is built; try all ways."""
    from permafrost.pipeline.forward import program

    noted: list[int] = []
    session = tensorflow_engine._Session

    class Noting(session):  # type: ignore[misc, valid-type]
        def __init__(self, network: Any, spec: Any, shortcuts: Any, device: Any) -> None:
            noted.append(shortcuts.winograd_axes)
            super().__init__(network, spec, shortcuts, device)

    monkeypatch.setattr(tensorflow_engine, "_Session", Noting)
    monkeypatch.setattr(choosing, "_WORTH", 0.0)
    program._built.clear()
    yield noted
    program._built.clear()


def forget_rows(cache: Path) -> None:
    from permafrost.pipeline.forward import program

    for shard in cache.glob("*/*/shard-*.h5"):
        shard.unlink()
    program._built.clear()


def test_a_verdict_is_told_and_spares_the_next_run_all_other_programs(
    extract: Command, tmp_path: Path, built: list[int]
) -> None:
    first = extract(*ONE_BY_ONE)
    told = first.figures["program"]
    assert sorted(told["images_per_second"]) == ["plain", "winograd"]
    assert min(told["images_per_second"].values()) > 0
    assert sorted(built) == [0, 2]
    forget_rows(tmp_path / "cache")
    built.clear()
    assert extract(*ONE_BY_ONE).figures["program"] == told
    assert built == [{"plain": 0, "winograd": 2}[told["way"]]]


def test_batches_of_another_size_are_timed_anew(
    extract: Command, tmp_path: Path, built: list[int]
) -> None:
    extract(*ONE_BY_ONE)
    forget_rows(tmp_path / "cache")
    built.clear()
    extract("--batch-size", 2)
    assert built[0] == 2  # the first way, whatever was the fastest with the other size


def test_plain_is_what_is_asked_for_whatever_is_remembered(
    extract: Command, tmp_path: Path, built: list[int]
) -> None:
    extract(*ONE_BY_ONE)
    forget_rows(tmp_path / "cache")
    built.clear()
    figures = extract(*ONE_BY_ONE, "--program", "plain").figures
    assert built == [0]
    assert figures["program"] == {"way": "plain", "images_per_second": {}, "untried": []}


@pytest.mark.parametrize(("rate", "is_heeded"), [(1.0, True), (0.1, False)])
def test_what_was_left_untried_is_tried_where_work_is_long(
    extract: Command, tmp_path: Path, built: list[int], rate: float, is_heeded: bool
) -> None:
    extract(*ONE_BY_ONE)
    forget_rows(tmp_path / "cache")
    told = {"way": "winograd", "images_per_second": {"winograd": rate}, "untried": ["plain"]}
    with Index(tmp_path / "cache/index.sqlite") as index:
        ((key,),) = index._query("SELECT key FROM memos WHERE key LIKE 'program %'", [])
        index.add_memo(str(key), json.dumps(told))
    built.clear()
    found = extract(*ONE_BY_ONE).figures["program"]
    # 12 images take 12 s, or 120 s.
    assert (found == told, built == [2]) == (is_heeded, is_heeded)


def test_a_garbled_verdict_is_found_anew(
    extract: Command, tmp_path: Path, built: list[int]
) -> None:
    extract(*ONE_BY_ONE)
    forget_rows(tmp_path / "cache")
    index = sqlite3.connect(tmp_path / "cache/index.sqlite")
    for garbage in ("{", '{"way": "fast"}', '{"way": "plain", "more": 1}', "[]"):
        index.execute("UPDATE memos SET value = ? WHERE key LIKE 'program %'", (garbage,))
        index.commit()
        built.clear()
        assert extract(*ONE_BY_ONE).figures["program"]["images_per_second"]
        assert sorted(built) == [0, 2]
        forget_rows(tmp_path / "cache")
    index.close()


def test_an_unknown_program_is_one_line(extract: Command) -> None:
    answer = extract("--program", "plane")
    assert (answer.status, "Traceback" in answer.err) == (2, False)
    assert "plain" in answer.err


def test_keras_on_another_backend_needs_no_tensorflow_for_it(
    extract: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def lack(package: str) -> str:
        if package == "tensorflow":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", lack)
    assert extract("--engine", "keras").figures["computed"] == 12
