"""A run that changes nothing writes nothing; what is not as it was written is written again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from permafrost.cache.views import writer
from tests.helpers.answers import Command
from tests.helpers.extracted import break_image


def list_states(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    states = {path.name: (path.stat(), path.read_bytes()) for path in folder.glob("features*")}
    return {name: (s.st_ino, s.st_mtime_ns, raw) for name, (s, raw) in states.items()}


@pytest.mark.parametrize("options", [(), ("--materialize",)], ids=["pointers", "materialize"])
def test_a_run_with_nothing_new_leaves_its_outputs_untouched(
    extract: Command, photos: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    break_image(photos / "china/bad.jpg")
    extract(*options)
    before = list_states(tmp_path)
    assert before.keys() == {"features.h5", "features.h5.failures.csv"}
    extract(*options)
    assert list_states(tmp_path) == before


def test_a_run_with_nothing_new_creates_no_file(
    extract: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract()
    monkeypatch.setattr(writer, "create_file", None)  # Calling it would be a bug.
    extract()


def test_a_view_is_written_again_where_one_byte_is_not_as_it_was(
    extract: Command, out: Path
) -> None:
    extract()
    sound, status = out.read_bytes(), out.stat()
    for position in (100, len(sound) // 2, len(sound) - 1):
        damaged = bytearray(sound)
        damaged[position] ^= 1
        out.write_bytes(damaged)
        os.utime(out, ns=(status.st_atime_ns, status.st_mtime_ns))
        extract()
        assert out.read_bytes() == sound


@pytest.mark.parametrize("lost", ["features.h5", "cache/index.sqlite"])
def test_a_view_comes_out_the_same_where_it_or_the_index_was_deleted(
    extract: Command, tmp_path: Path, lost: str
) -> None:
    extract()
    sound = (tmp_path / "features.h5").read_bytes()
    (tmp_path / lost).unlink()
    extract()
    assert (tmp_path / "features.h5").read_bytes() == sound


def test_a_view_is_written_again_for_each_thing_that_is_asked_otherwise(
    extract: Command, photos: Path, out: Path
) -> None:
    seen = set()
    for options in (
        (),
        ("--materialize",),
        ("--labels", "filename:[0-9]+"),
        ("--split", "test=.5"),
    ):
        extract(*options)
        seen.add(out.read_bytes())
    extract(layers="first")
    seen.add(out.read_bytes())
    (photos / "china/0000.jpg").rename(photos / "china/9999.jpg")
    extract()
    seen.add(out.read_bytes())
    assert len(seen) == 6


def test_a_list_of_failures_that_was_changed_is_written_again(
    extract: Command, photos: Path, tmp_path: Path
) -> None:
    break_image(photos / "china/bad.jpg")
    extract()
    listed = tmp_path / "features.h5.failures.csv"
    sound = listed.read_bytes()
    listed.write_bytes(sound + b"\n")
    extract()
    assert listed.read_bytes() == sound


def test_the_digest_is_that_of_what_the_file_says_wherever_it_lies(
    extract: Command, photos: Path, tmp_path: Path
) -> None:
    digest = extract().figures["digest"]
    moved = {"out": tmp_path / "elsewhere" / "f.h5", "cache": tmp_path / "other-cache"}
    photos.rename(tmp_path / "moved")
    assert extract("--materialize", images=tmp_path / "moved", **moved).figures["digest"] == digest
    others = [
        extract("--split", "test=0.5", images=tmp_path / "moved").figures["digest"],
        extract(layers="first", images=tmp_path / "moved").figures["digest"],
        extract("--resize", "nearest", images=tmp_path / "moved").figures["digest"],
    ]
    (tmp_path / "moved" / "china" / "0000.jpg").unlink()
    others.append(extract(images=tmp_path / "moved").figures["digest"])
    assert len({digest, *others}) == 5
