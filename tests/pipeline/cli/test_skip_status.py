"""A run in which nothing was new says so by its exit status, and leaves all files as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.answers import Answer, Command


def list_states(folder: Path) -> dict[Path, tuple[int, int]]:
    states = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (one.st_ino, one.st_mtime_ns) for path, one in states.items()}


def test_an_extract_with_nothing_new_ends_with_the_status_asked_for(
    extract: Command, photos: Path, tmp_path: Path
) -> None:
    def run() -> int:
        return extract("--skip-status", 99).status

    assert [run(), run()] == [0, 99]
    (photos / "china/0000.jpg").rename(photos / "china/renamed.jpg")
    assert [run(), run()] == [0, 99]
    (photos / "china/bad.jpg").write_text("no image")
    assert [run(), run()] == [0, 99]
    (photos / "china/bad.jpg").unlink()
    assert [run(), run()] == [0, 99]
    Image.effect_noise((40, 40), 50).convert("RGB").save(photos / "china/new.jpg")
    assert [run(), run()] == [0, 99]
    (tmp_path / "features.h5").unlink()
    assert [run(), run()] == [0, 99]


def test_every_step_leaves_its_outputs_alone_when_nothing_is_new(
    extract: Command, command: Command, photos: Path, tmp_path: Path
) -> None:
    assert extract("--split", "test=0.3").status == 0
    view, out, cache = tmp_path / "features.h5", tmp_path / "out", tmp_path / "cache"
    model = out / "sweep/best"
    steps = (
        ("index", photos, "--out", out / "manifest.csv"),
        (
            *("sweep", "--features", view, "--heads", "logreg,ridge", "--cv", 2),
            *("--jobs", 1, "--layers", "last:avg", "--out", out / "sweep"),
        ),
        (
            *("predict", "--model", model, "--images", photos, "--cache", cache),
            *("--out", out / "new.csv"),
        ),
        ("export", "--model", model, "--out", out / "model.keras"),
    )

    def run() -> list[Answer]:
        import keras

        keras.utils.clear_session()  # Keras counts the layers of a process in their names.
        return [command(*step, "--skip-status", 4) for step in steps]

    assert [one.status for one in run()] == [0, 0, 0, 0]
    before = list_states(out)
    assert [one.status for one in run()] == [4, 4, 4, 4]
    assert list_states(out) == before


def test_the_same_files_named_from_another_folder_are_nothing_new(
    photos: Path,
    backbone: Path,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "small.keras").write_bytes(backbone.read_bytes())
    (tmp_path / "below").mkdir()

    def run(folder: Path, up: str) -> list[int]:
        monkeypatch.chdir(folder)
        view, model = f"{up}out/f.h5", f"{up}out/sweep/best"
        cache = ("--cache", f"{up}cache")
        steps = (
            ("index", f"{up}photos", "--split", "test=0.3", "--out", f"{up}out/m.csv"),
            (
                *("extract", "--manifest", f"{up}out/m.csv", "--backbone", f"{up}small.keras"),
                *("--layers", "last:avg", *cache, "--out", view),
            ),
            (
                *("sweep", "--features", view, "--heads", "ridge", "--cv", 2, "--jobs", 1),
                *("--out", f"{up}out/sweep"),
            ),
            (
                *("predict", "--model", model, "--images", f"{up}photos", *cache),
                *("--out", f"{up}out/new.csv"),
            ),
        )
        return [command(*step, "--skip-status", 99).status for step in steps]

    assert run(tmp_path, "") == [0, 0, 0, 0]
    before = list_states(tmp_path / "out")
    # The file of features keeps the root of its images as it was named.
    assert run(tmp_path / "below", "../") == [99, 0, 99, 99]
    after = list_states(tmp_path / "out")
    assert {path.name for path in after if after[path] != before[path]} == {"f.h5"}


@pytest.mark.parametrize("status", ["0", "1", "2", "3", "75", "126", "130", "255", "256", "-1"])
def test_a_status_that_means_something_else_is_refused(extract: Command, status: str) -> None:
    answer = extract(f"--skip-status={status}")
    assert answer.status == 2
    (line,) = answer.err.splitlines()
    assert f"--skip-status {status}" in line
    assert "99" in line
