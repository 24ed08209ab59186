"""``repair``: what is damaged comes back as it was, from the images; the rest is not touched."""

from __future__ import annotations

import hashlib
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
from tests.helpers.inputs import write_model

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

    def digest_shards(self) -> dict[Path, str]:
        files = (path for path in self.cache.rglob("*.h5") if path.is_file())
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def delete_index(self) -> None:
        for file in self.cache.glob("index.sqlite*"):
            file.unlink()


@pytest.fixture
def scene(command: Command, extract: Command, photos: Path, tmp_path: Path) -> Scene:
    return Scene(command, extract, photos, tmp_path / "cache", tmp_path / "features.h5")


@pytest.fixture
def filled(scene: Scene) -> Scene:
    assert scene.extract().status == 0
    return scene


def read_plain(file: Path) -> dict[str, np.ndarray]:
    with h5py.File(file) as opened:
        return {layer: opened[f"features/{layer}"][()] for layer in opened["features"]}


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


def rename(shard: Path) -> None:
    shard.rename(shard.with_name("shard-0123456789abcdef.h5"))


def store_not_a_number(shard: Path) -> None:
    with h5py.File(shard, "r+") as file:
        file["features"][3, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("damage", "n_recomputed"),
    [
        (flip_in_chunk, ROWS_PER_CHUNK),
        (store_not_a_number, ROWS_PER_CHUNK),
        (truncate, N_IMAGES),
        (empty, N_IMAGES),
        (fill_with_noise, N_IMAGES),
        (Path.unlink, N_IMAGES),
        (replace_by_another, N_IMAGES),
        (rename, 0),
    ],
)
def test_a_damaged_shard_comes_back_under_its_name_with_its_values(
    damage: Callable[[Path], object], n_recomputed: int, filled: Scene
) -> None:
    values = read_plain(filled.features)
    shard, before = filled.find_shard(), filled.digest_shards()
    damage(shard)
    found = filled.repair().figures
    assert (found["recomputed"], found["dropped"], found["left"]) == (n_recomputed, [], [])
    assert {Path(one["file"]).parent for one in found["damaged"]} == {shard.parent}
    filled.check_sound()
    # The view was not written again: for plain h5py, too, its rows are where they were.
    for layer, plain in read_plain(filled.features).items():
        np.testing.assert_allclose(plain, values[layer], rtol=1e-5, atol=1e-6)
    after = filled.digest_shards()
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} <= {shard}
    again = filled.repair().figures
    assert (again["damaged"], again["repaired"], again["recomputed"]) == ([], [], 0)


def test_without_damage_no_program_is_built(filled: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("permafrost.pipeline.upkeep.recompute.build_program", None)
    assert filled.repair().figures == {
        "damaged": [], "repaired": [], "recomputed": 0, "dropped": [], "left": [],
    }  # fmt: skip


def test_the_compression_is_kept(scene: Scene) -> None:
    assert scene.extract("--compression", "zstd").status == 0
    shard = scene.find_shard()
    flip_in_chunk(shard)
    assert scene.repair().figures["recomputed"] == ROWS_PER_CHUNK
    scene.check_sound()
    with h5py.File(shard) as file:
        assert "32015" in file["features"]._filters


def test_two_shards_that_have_each_others_names_are_told_apart(
    tmp_path: Path, filled: Scene
) -> None:
    for file in list((filled.photos / "china").iterdir()):
        content = bytearray(file.read_bytes())
        file.write_bytes(content + b"\0")  # another file, the same picture
    assert filled.extract(out=tmp_path / "more.h5").figures["computed"] == 6
    before = filled.digest_shards()
    one, other = sorted(filled.cache.glob("*/first-none/shard-*.h5"))
    one.rename(tmp_path / "third")
    other.rename(one)
    (tmp_path / "third").rename(other)
    found = filled.repair().figures
    assert (found["recomputed"], found["dropped"], found["left"]) == (0, [], [])
    filled.check_sound()
    assert filled.digest_shards() == before


def test_rows_whose_images_are_gone_or_changed_are_dropped_and_named(filled: Scene) -> None:
    (filled.photos / "china/0001.jpg").unlink()
    shutil.copy(filled.photos / "flower/0000.jpg", filled.photos / "china/0002.jpg")
    touched = filled.photos / "china/0003.jpg"
    os.utime(touched, (1, 1))
    shard = filled.find_shard()
    truncate(shard)
    found = filled.repair().figures
    assert (found["recomputed"], found["left"]) == (N_IMAGES - 2, [])
    reasons = sorted(one["reason"] for one in found["dropped"])
    for name, reason in zip(("0001.jpg", "0002.jpg"), reasons, strict=True):
        assert f"{filled.photos}/china/{name}" in reason
        assert "gone or changed" in reason
    assert not shard.exists()
    filled.check_sound()
    assert filled.extract().figures["computed"] == 0


@pytest.mark.parametrize("name", ["index.sqlite", "small.keras"])
def test_what_cannot_be_computed_again_is_dropped_with_a_reason_and_extracted_again(
    name: str, tmp_path: Path, scene: Scene
) -> None:
    model = write_model(tmp_path / "small.keras")
    assert scene.extract(model=model).status == 0
    truncate(scene.find_shard())
    if name == "small.keras":
        write_model(model, seed=1)
    else:
        scene.delete_index()
    answer = scene.repair()
    found = answer.figures
    assert (found["recomputed"], found["left"]) == (0, [])
    reasons = {one["reason"] for one in found["dropped"]}
    wanted = "gives other numbers now" if name == "small.keras" else "is not known here"
    assert len(reasons) == 1
    assert wanted in reasons.pop()
    scene.check_sound()
    assert scene.extract(model=write_model(model)).figures["computed"] == N_IMAGES


def test_what_lies_beside_shards_is_removed_or_written_anew(filled: Scene) -> None:
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
        "recipe.json",
        filled.find_shard().name,
    ]
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
    shard = filled.find_shard()
    shard.unlink()
    shard.mkdir()
    filled.delete_index()
    other = filled.find_shard("last-avg")
    (other.parent / "recipe.json").write_text("{")
    answer = filled.repair()
    assert answer.status == 3
    left = {one["file"]: one["reason"] for one in read_json(answer)["left"]}
    assert left.keys() == {str(shard), str(other.parent / "recipe.json")}
    assert "move it away" in left[str(shard)]
    assert "repeat the extract" in left[str(other.parent / "recipe.json")]
    assert other.exists()


def test_a_shard_of_a_set_that_is_not_here_is_brought_home_or_removed(filled: Scene) -> None:
    stray = filled.find_shard()
    shutil.move(stray, filled.find_shard("last-avg").with_name("shard-00.h5"))
    shutil.rmtree(stray.parent.parent)
    found = filled.repair().figures
    assert (found["recomputed"], found["dropped"], found["left"]) == (0, [], [])
    filled.check_sound()
    assert filled.extract().figures["computed"] == 0
    filled.delete_index()
    shutil.move(stray, filled.find_shard("last-avg").with_name("shard-00.h5"))
    shutil.rmtree(stray.parent.parent)
    assert len(filled.repair().figures["dropped"]) == 1
    filled.check_sound()


def test_a_folder_without_a_cache_is_refused_with_one_line(scene: Scene) -> None:
    answer = scene.command("repair", "--cache", scene.photos)
    assert (answer.status, len(answer.err.splitlines())) == (2, 1)
    assert not (scene.photos / "index.sqlite").exists()
