"""OpenVINO's model is kept in the cache: a later start needs no TensorFlow, and gives its bits."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from permafrost.pipeline.forward import kept_model, program
from permafrost.pipeline.forward.kept_model import KeptModel
from permafrost.pipeline.planning.backbone import Backbone
from tests.helpers import ROOT
from tests.helpers.answers import Answer, Command
from tests.helpers.inputs import LAYERS, write_model, write_photos

pytest.importorskip("openvino")

ENGINE = ("--engine", "openvino")


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Note each loading of a network; let no program outlive its start, and any processor do."""
    # bfloat16 is slow where it is emulated, but these networks are small.
    monkeypatch.setattr("permafrost.pipeline.computing.compute.check_precision", lambda *_: None)
    noted: list[str] = []
    load = Backbone.load

    def note(backbone: Backbone) -> Any:
        noted.append(str(backbone.name))
        return load(backbone)

    monkeypatch.setattr(Backbone, "load", note)
    program._built.clear()
    yield noted
    program._built.clear()


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """Photos that are no others' neighbours: other sizes of the same scenes."""
    return write_photos(tmp_path / "more", n_each=3, side=90)


def start(extract: Command, *options: object, **named: object) -> Answer:
    """Call ``extract`` as a process of its own would: no program is there yet."""
    program._built.clear()
    answer = extract(*ENGINE, *options, **named)
    assert answer.status == 0, answer.err
    return answer


def read(file: Path) -> dict[str, np.ndarray]:
    with h5py.File(file) as opened:
        return {layer: opened[f"features/{layer}"][()] for layer in LAYERS.split(",")}


def expect_same(one: Path, other: Path) -> None:
    for layer, values in read(one).items():
        np.testing.assert_array_equal(values, read(other)[layer])


def find_kept(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*/derived-*.h5"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_second_start_loads_no_network_and_gives_the_bits_of_one_that_converts(
    extract: Command, more: Path, tmp_path: Path, loaded: list[str], precision: str
) -> None:
    options = ("--precision", precision)
    start(extract, *options)
    (kept,) = find_kept(tmp_path / "cache")
    assert loaded
    loaded.clear()
    start(extract, *options, images=more, out=tmp_path / "kept.h5")
    assert loaded == []
    start(extract, *options, images=more, cache=tmp_path / "new", out=tmp_path / "fresh.h5")
    assert loaded
    expect_same(tmp_path / "kept.h5", tmp_path / "fresh.h5")
    assert find_kept(tmp_path / "cache") == [kept]


def test_a_second_process_imports_no_tensorflow(
    extract: Command, backbone: Path, more: Path, tmp_path: Path
) -> None:
    start(extract)
    code = (
        "import sys; from permafrost.pipeline.cli.main import main; status = main(sys.argv[1:]);"
        "print(status, *{'tensorflow', 'keras', 'openvino'} & set(sys.modules))"
    )
    arguments = ["extract", "--images", more, "--backbone", backbone, "--layers", LAYERS, *ENGINE]
    places = ["--cache", tmp_path / "cache", "--out", tmp_path / "two.h5", "--json"]
    command = [sys.executable, "-c", code, *map(str, [*arguments, *places])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *_, figures, last = done.stdout.splitlines()
    assert (json.loads(figures)["computed"], last) == (6, "0 openvino")
    start(extract, images=more, cache=tmp_path / "new", out=tmp_path / "fresh.h5")
    expect_same(tmp_path / "two.h5", tmp_path / "fresh.h5")


def test_no_flipped_bit_gives_another_model(extract: Command, tmp_path: Path) -> None:
    start(extract)
    (file,) = find_kept(tmp_path / "cache")
    kept = KeptModel(folder=file.parent, name=file.stem.removeprefix("derived-"))
    expected, sound = kept.load(), file.read_bytes()
    assert expected is not None
    refused = 0
    for position in range(0, len(sound), len(sound) // 500):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)
        found = kept.load()
        refused += found is None
        if found is not None:
            np.testing.assert_array_equal(found, expected)
    assert refused > 250


def test_a_damaged_model_is_made_again(
    extract: Command, more: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start(extract)
    (file,) = find_kept(tmp_path / "cache")
    kept = KeptModel(folder=file.parent, name=file.stem.removeprefix("derived-"))
    damaged = bytearray(file.read_bytes())
    with h5py.File(file) as opened:
        place = opened["values"].id.get_chunk_info(0).byte_offset
    damaged[place + 100] ^= 64  # of the weights
    file.write_bytes(damaged)
    assert kept.load() is None
    start(extract, images=more, out=tmp_path / "kept.h5")
    assert f"{file.name} is damaged" in caplog.text
    assert kept.load() is not None
    start(extract, images=more, cache=tmp_path / "new", out=tmp_path / "fresh.h5")
    expect_same(tmp_path / "kept.h5", tmp_path / "fresh.h5")


@pytest.mark.slow
def test_what_decides_about_the_numbers_is_in_the_name(
    extract: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino

    def count() -> int:
        return len({file.name for file in find_kept(tmp_path / "cache")})

    def forget_rows() -> None:
        for shard in (tmp_path / "cache").glob("*/*/shard-*.h5"):
            shard.unlink()

    # The reference takes most of the time, and has no part in this.
    monkeypatch.setattr(program, "note_parity", lambda *_: None)
    start(extract)
    changes: list[dict[str, Any]] = [
        {"layers": "first"},
        {"layers": "last:avg,first"},
        {"layers": "last:max"},
        {"model": write_model(tmp_path / "other.keras", seed=1)},
    ]
    for n_before, change in enumerate(changes, 1):
        forget_rows()
        start(extract, **change)
        assert count() == n_before + 1, change
    of_any_size = write_model(tmp_path / "any.keras", seed=2, size=None)
    options: list[tuple[object, ...]] = [
        ("--size", 48),
        ("--size", 32),
        ("--size", 32, "--preprocess", "caffe"),
        ("--size", 32, "--view", "hflip"),
        ("--size", 32, "--precision", "bfloat16"),
    ]
    for some in options:
        n_before = count()
        start(extract, *some, model=of_any_size, layers="first")
        assert count() == n_before + 1, some
    n_before = count()
    newer, version = {}, importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda one: newer.get(one) or version(one))
    for package in ("tensorflow", "keras"):
        forget_rows()
        newer[package] = "99"
        start(extract)
    forget_rows()
    monkeypatch.setattr(openvino, "__version__", "99")
    start(extract)
    assert count() == n_before + 3


def test_batches_and_storage_of_another_size_use_the_same_model(
    extract: Command, more: Path, tmp_path: Path, loaded: list[str]
) -> None:
    start(extract)
    loaded.clear()
    start(extract, "--batch-size", 3, "--compression", "lz4", images=more)
    assert loaded == []
    assert len(find_kept(tmp_path / "cache")) == 1


def test_a_file_that_changes_after_planning_gives_no_row(
    extract: Command, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "mine.keras", seed=0)
    start(extract, model=model)
    other = write_model(tmp_path / "other.keras", seed=1).read_bytes()
    place_model = kept_model.place_model

    def change(*arguments: Any) -> KeptModel:
        model.write_bytes(other)
        return place_model(*arguments)

    monkeypatch.setattr("permafrost.pipeline.forward.verdicts.place_model", change)
    program._built.clear()
    answer = extract(*ENGINE, model=model, images=more)
    assert (answer.status, "is not what it was" in answer.err) == (2, True)


@pytest.mark.slow
def test_where_nothing_can_be_kept_all_goes_on(
    extract: Command, more: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start(extract, out=tmp_path / "one.h5")
    (file,) = find_kept(tmp_path / "cache")
    file.unlink()
    (file / "in the way").mkdir(parents=True)
    start(extract, images=more, out=tmp_path / "two.h5")
    assert "cannot keep" in caplog.text
    start(extract, images=more, cache=tmp_path / "new", out=tmp_path / "fresh.h5")
    expect_same(tmp_path / "two.h5", tmp_path / "fresh.h5")


def test_a_disk_that_is_nearly_full_is_left_to_the_features(
    extract: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_model, "_FREE", 10**12)
    assert start(extract).figures["computed"] == 12
    assert find_kept(tmp_path / "cache") == []


def test_verify_and_gc_know_it(
    extract: Command, command: Command, more: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    start(extract)
    (file,) = find_kept(cache)
    assert command("verify", "--cache", cache).status == 0
    week_ago = time.time() - 7 * 24 * 3600
    os.utime(file, (week_ago, week_ago))
    start(extract, images=more)  # which uses it
    gc = ("gc", "--cache", cache, "--keep-days", 5)
    assert command(*gc).out == "nothing to drop\n"
    os.utime(file, (week_ago, week_ago))
    assert "derived" in command(*gc).out
    assert find_kept(cache) == []
    start(extract, images=write_photos(tmp_path / "third", n_each=2, side=70))
    assert find_kept(cache) == [file]
    for recipe in cache.glob("*/*/recipe.json"):
        os.utime(recipe, (week_ago, week_ago))
    assert command(*gc).status == 0
    assert not [*find_kept(cache), *cache.glob("*/*/recipe.json")]


@pytest.mark.slow
def test_two_processes_at_once_both_end_right(
    extract: Command, backbone: Path, photos: Path, more: Path, tmp_path: Path
) -> None:
    def run(images: Path, out: str) -> subprocess.Popen[bytes]:
        arguments = ["--images", images, "--backbone", backbone, "--layers", LAYERS, *ENGINE]
        places = ["--cache", tmp_path / "cache", "--out", tmp_path / out, "--materialize"]
        command = [sys.executable, "run.py", "extract", *map(str, [*arguments, *places])]
        return subprocess.Popen(command, cwd=ROOT)

    running = [run(photos, "one.h5"), run(more, "two.h5")]
    assert [process.wait() for process in running] == [0, 0]
    assert len(find_kept(tmp_path / "cache")) == 1
    assert not list(tmp_path.rglob(".tmp-*"))
    for images, out in ((photos, "one.h5"), (more, "two.h5")):
        start(extract, images=images, cache=tmp_path / "new", out=tmp_path / "fresh.h5")
        expect_same(tmp_path / out, tmp_path / "fresh.h5")
