"""``repair``: intact rows are saved, damaged files put aside; nothing is computed or deleted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.helpers.answers import Answer, Command
from tests.helpers.folders import list_content, read_features
from tests.helpers.inputs import write_model, write_photos

N_IMAGES = 12
ROWS_PER_CHUNK = 2
# Of the layer "first", (15, 15, 8) float32.
ROW_BYTES = 7200

GARBAGE = np.random.default_rng(0).bytes(99)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("permafrost.cache.shards.format.CHUNK_BYTES", ROWS_PER_CHUNK * ROW_BYTES)


@dataclass(frozen=True)
class Scene:
    """A cache, the photos and the model that it is of, and the commands."""

    command: Command
    extract: Command
    photos: Path
    cache: Path
    features: Path

    def repair(self) -> Answer:
        return self.command("repair", "--cache", self.cache, "--json")

    def check_sound(self) -> None:
        assert self.command("verify", "--cache", self.cache).status == 0

    def find_shard(self, layer: str = "first-none") -> Path:
        (shard,) = self.cache.glob(f"*/{layer}/shard-*.h5")
        return shard

    def list_quarantined(self) -> list[Path]:
        return sorted(self.cache.glob("*/*/quarantine/*"))

    def delete_index(self) -> None:
        for file in self.cache.glob("index.sqlite*"):
            file.unlink()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a network whose numbers are the same bit for bit in batches of any size."""
    return write_model(tmp_path_factory.mktemp("model") / "exact.keras", exact=True)


@pytest.fixture
def scene(command: Command, extract: Command, photos: Path, tmp_path: Path) -> Scene:
    return Scene(command, extract, photos, tmp_path / "cache", tmp_path / "features.h5")


@pytest.fixture
def filled(scene: Scene) -> Scene:
    assert scene.extract().status == 0
    return scene


def read_json(answer: Answer) -> dict[str, Any]:
    """Return the figures of a command, whatever its status."""
    return Answer(0, answer.out, answer.err).figures


def flip_in_chunk(shard: Path, number: int = 2) -> None:
    with h5py.File(shard) as file:
        place = file["features"].id.get_chunk_info(number).byte_offset
    content = bytearray(shard.read_bytes())
    content[place + 100] ^= 4
    shard.write_bytes(content)


def truncate(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:1000])


def empty(shard: Path) -> None:
    shard.write_bytes(b"")


def fill_with_noise(shard: Path) -> None:
    shard.write_bytes(os.urandom(5000))


def replace_by_another(shard: Path) -> None:
    (other,) = shard.parent.parent.parent.glob("*/last-avg/shard-*.h5")
    shutil.copy(other, shard)


def replace_by_folder(shard: Path) -> None:
    shard.unlink()
    shard.mkdir()


def rename(shard: Path) -> None:
    shard.rename(shard.with_name("shard-0123456789abcdef.h5"))


def store_not_a_number(shard: Path) -> None:
    with h5py.File(shard, "r+") as file:
        file["features"][3, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("damage", "n_lost"),
    [
        (flip_in_chunk, ROWS_PER_CHUNK),
        (store_not_a_number, ROWS_PER_CHUNK),
        (truncate, N_IMAGES),
        (empty, N_IMAGES),
        (fill_with_noise, N_IMAGES),
        (replace_by_another, N_IMAGES),
        (replace_by_folder, N_IMAGES),
        (rename, 0),
    ],
)
def test_intact_rows_are_saved_and_extract_computes_the_others_alone(
    damage: Callable[[Path], object], n_lost: int, filled: Scene
) -> None:
    values = read_features(filled.features)
    shard = filled.find_shard()
    damage(shard)
    damaged = filled.find_shard()
    content = None if damaged.is_dir() else damaged.read_bytes()
    found = filled.repair().figures
    lost = {one["digest"] for one in found["dropped"]}
    assert (len(lost), found["left"]) == (n_lost, [])
    assert found["salvaged"] in (N_IMAGES - n_lost, N_IMAGES)  # what is another set's, twice
    assert [Path(one["file"]) for one in found["damaged"]] == [damaged]
    (put_aside,) = filled.list_quarantined()
    assert put_aside.parent.parent == damaged.parent
    assert content is None or put_aside.read_bytes() == content
    filled.check_sound()
    again = filled.repair()
    assert (again.figures["damaged"], again.figures["repaired"]) == ([], [])
    assert filled.extract().figures["computed"] == n_lost
    for layer, plain in read_features(filled.features).items():
        np.testing.assert_array_equal(plain, values[layer])


def test_with_its_images_away_it_loses_no_intact_row_and_says_what_to_run(filled: Scene) -> None:
    values = read_features(filled.features)
    shard = filled.find_shard()
    flip_in_chunk(shard)
    away = filled.photos.rename(filled.photos.with_name("unmounted"))
    answer = filled.command("repair", "--cache", filled.cache)
    assert answer.status == 0, answer.err
    files, rows, remedy = answer.out.splitlines()
    assert f"{shard.name} put into quarantine/ (2 of its 12 rows are damaged: " in files
    assert rows.endswith("/first-none: 10 rows salvaged, 2 rows lost")
    assert f"python run.py extract … --cache {filled.cache}" in remedy
    assert "all is well" not in answer.out
    (put_aside,) = filled.list_quarantined()
    assert put_aside.name == shard.name
    away.rename(filled.photos)
    assert filled.extract().figures["computed"] == 2
    for layer, plain in read_features(filled.features).items():
        np.testing.assert_array_equal(plain, values[layer])


def test_without_damage_nothing_is_done(filled: Scene) -> None:
    before = list_content(filled.cache)
    assert filled.repair().figures == {
        "damaged": [], "repaired": [], "salvaged": 0, "dropped": [], "left": [],
    }  # fmt: skip
    assert filled.command("repair", "--cache", filled.cache).out == "no damage\n"
    after = list_content(filled.cache)
    assert {name: after[name] for name in before if ".sqlite" not in name}.items() <= before.items()


def test_many_damaged_files_of_a_set_are_one_line(scene: Scene) -> None:
    for number in range(3):
        photos = write_photos(scene.photos.with_name(f"photos-{number}"), n_each=3 + number)
        assert scene.extract(images=photos, layers="first").status == 0
    for shard in scene.cache.glob("*/first-none/shard-*.h5"):
        truncate(shard)
    lines = scene.command("repair", "--cache", scene.cache).out.splitlines()
    assert len(lines) == 3
    assert " and 2 files more put into quarantine/ (" in lines[0]
    assert lines[1].endswith("/first-none: 0 rows salvaged, 10 rows lost")


def test_without_the_index_rows_of_a_garbled_shard_are_not_known(filled: Scene) -> None:
    truncate(filled.find_shard())
    filled.delete_index()
    answer = filled.command("repair", "--cache", filled.cache)
    assert "0 rows lost, and those of 1 shard that cannot say which" in answer.out
    assert filled.extract().figures["computed"] == N_IMAGES


def test_the_compression_is_kept(scene: Scene) -> None:
    assert scene.extract("--compression", "zstd").status == 0
    flip_in_chunk(scene.find_shard())
    assert scene.repair().figures["salvaged"] == N_IMAGES - ROWS_PER_CHUNK
    scene.check_sound()
    with h5py.File(scene.find_shard()) as file:
        assert "32015" in file["features"]._filters


def test_shards_that_have_each_others_names_are_told_apart(tmp_path: Path, filled: Scene) -> None:
    for file in list((filled.photos / "china").iterdir()):
        content = bytearray(file.read_bytes())
        file.write_bytes(content + b"\0")  # another file, the same picture
    assert filled.extract(out=tmp_path / "more.h5").figures["computed"] == 6
    one, other = sorted(filled.cache.glob("*/first-none/shard-*.h5"))
    before = {path: path.read_bytes() for path in (one, other)}
    one.rename(tmp_path / "third")
    other.rename(one)
    (tmp_path / "third").rename(other)
    found = filled.repair().figures
    assert (found["salvaged"], found["dropped"], found["left"]) == (N_IMAGES + 6, [], [])
    filled.check_sound()
    assert {path: path.read_bytes() for path in (one, other)} == before


def test_a_second_file_of_the_same_name_gets_a_number(filled: Scene) -> None:
    for _ in range(2):
        truncate(filled.find_shard())
        assert filled.repair().status == 0
        assert filled.extract().status == 0
    name = filled.find_shard().stem
    assert [path.name for path in filled.list_quarantined()] == [f"{name}-1.h5", f"{name}.h5"]


def test_what_lies_beside_shards_is_put_aside_or_written_anew(filled: Scene) -> None:
    folder = filled.find_shard().parent
    recipe = (folder / "recipe.json").read_bytes()
    (folder / "recipe.json").write_bytes(recipe[:50])
    (folder / "drift.json").write_text("{")
    (folder / "derived-00ff.h5").write_text("no HDF5")
    (folder / f".tmp-{os.uname().nodename}-999999999-1-0.h5").write_text("left by a dead run")
    found = filled.repair().figures
    assert {Path(one["file"]).name for one in found["damaged"]} == {
        "recipe.json", "drift.json", "derived-00ff.h5",
    }  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == [
        "cost.json",
        "quarantine",
        "recipe.json",
        filled.find_shard().name,
    ]
    assert [file.name for file in filled.list_quarantined()] == ["derived-00ff.h5", "drift.json"]
    assert (folder / "recipe.json").read_bytes() == recipe
    filled.check_sound()


@pytest.mark.parametrize("content", [b"", b'{"backbone":', b"{}", GARBAGE])
def test_an_extract_writes_a_garbled_recipe_anew(filled: Scene, content: bytes) -> None:
    file = filled.find_shard().parent / "recipe.json"
    recipe = file.read_bytes()
    file.write_bytes(content)
    assert filled.extract().figures["computed"] == 0
    assert file.read_bytes() == recipe


def test_what_it_cannot_tell_is_left_and_named(filled: Scene) -> None:
    filled.delete_index()
    file = filled.find_shard("last-avg").parent / "recipe.json"
    file.write_text("{")
    answer = filled.repair()
    assert answer.status == 3
    (left,) = read_json(answer)["left"]
    assert left["file"] == str(file)
    assert "repeat the extract" in left["reason"]
    assert not filled.list_quarantined()


def test_a_shard_of_another_set_is_brought_home_or_put_aside(filled: Scene) -> None:
    stray = filled.find_shard()
    place = filled.find_shard("last-avg").with_name("shard-00.h5")
    shutil.move(stray, place)
    found = filled.repair().figures
    assert (found["salvaged"], found["dropped"], found["left"]) == (N_IMAGES, [], [])
    filled.check_sound()
    assert filled.extract().figures["computed"] == 0
    shutil.move(stray, place)
    shutil.rmtree(stray.parent.parent)
    assert filled.repair().figures["salvaged"] == 0
    assert [file.name for file in filled.list_quarantined()] == ["shard-00-1.h5", "shard-00.h5"]
    filled.check_sound()


def test_a_folder_without_a_cache_is_refused_with_one_line(scene: Scene) -> None:
    answer = scene.command("repair", "--cache", scene.photos)
    assert (answer.status, len(answer.err.splitlines())) == (2, 1)
    assert not (scene.photos / "index.sqlite").exists()
