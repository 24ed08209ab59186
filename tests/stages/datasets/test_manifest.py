from __future__ import annotations

import csv
import hashlib
import os
from pathlib import Path

import pytest

from permafrost.stages.datasets.manifest import Manifest, read_manifest, write_manifest
from permafrost.stages.errors import InputError

ODD_NAMES = [
    "plain.png",
    'comma, "quote" and\nnewline.png',
    "bare\rreturn.png",
    "windows\r\nreturn.png",
    os.fsdecode(b"caf\xe9 \xff.png"),
    " spaces .png",
    "日本語/" + "é" * 100 + "/" + "x" * 250 + ".png",
    "'single'.png",
    "#hash;semicolon\ttab.png",
]


def make_manifest(root: str, names: list[str]) -> Manifest:
    digests = [hashlib.sha256(os.fsencode(name)).digest() for name in names]
    return Manifest(
        root=root,
        paths=names,
        labels=[name[:7] for name in names],
        splits=["train", *[""] * (len(names) - 1)],
        digests=[b"", *digests[1:]],
        extra={"note": [f"about {name}" for name in names], "Größe, cm": ["1"] * len(names)},
    )


def test_any_name_survives_the_round_trip(tmp_path: Path) -> None:
    manifest = make_manifest(str(tmp_path / "photos"), ODD_NAMES)
    write_manifest(manifest, tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv") == manifest


def test_the_file_is_plain_csv_with_the_agreed_columns(tmp_path: Path) -> None:
    manifest = make_manifest(str(tmp_path / "photos"), ODD_NAMES)
    write_manifest(manifest, tmp_path / "m.csv")
    with (tmp_path / "m.csv").open(
        encoding="utf-8", errors="surrogateescape", newline=""
    ) as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["path", "label", "split", "digest", "root", "note", "Größe, cm"]
    assert [row["path"] for row in rows] == ODD_NAMES
    assert rows[0]["digest"] == ""
    assert rows[4]["digest"] == hashlib.sha256(b"caf\xe9 \xff.png").hexdigest()
    assert {row["root"] for row in rows} == {"photos"}


def test_a_manifest_moves_with_its_project(tmp_path: Path) -> None:
    (tmp_path / "project" / "tables").mkdir(parents=True)
    file = Path("tables") / "m.csv"
    manifest = make_manifest(str(tmp_path / "project" / "photos"), ["a.png"])
    write_manifest(manifest, tmp_path / "project" / file)
    (tmp_path / "project").rename(tmp_path / "moved")
    assert read_manifest(tmp_path / "moved" / file).root == str(tmp_path / "moved" / "photos")


def test_a_project_reached_through_a_link_moves_too(tmp_path: Path) -> None:
    (tmp_path / "disk" / "project" / "tables").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "project")
    manifest = make_manifest(str(tmp_path / "link" / "photos"), ["a.png"])
    write_manifest(manifest, tmp_path / "link" / "tables" / "m.csv")
    (tmp_path / "disk" / "project").rename(tmp_path / "moved")
    read = read_manifest(tmp_path / "moved" / "tables" / "m.csv")
    assert read.root == str(tmp_path / "moved" / "photos")


def test_a_relative_root_stays_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    write_manifest(make_manifest("photos", ["a.png"]), Path("runs/m.csv"))
    assert read_manifest(Path("runs/m.csv")).root == "photos"


def test_a_url_stays_as_it_is_wherever_the_manifest_lies(tmp_path: Path) -> None:
    manifest = make_manifest("s3://bucket/photos/", ODD_NAMES)
    write_manifest(manifest, tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv") == manifest


def test_a_root_is_found_through_links(tmp_path: Path) -> None:
    (tmp_path / "disk" / "deep" / "tables").mkdir(parents=True)
    (tmp_path / "disk" / "images").mkdir()
    (tmp_path / "tables").symlink_to(tmp_path / "disk" / "deep" / "tables")
    (tmp_path / "photos").symlink_to(tmp_path / "disk" / "images")
    (tmp_path / "disk" / "images" / "a.png").write_bytes(b"1")
    manifest = make_manifest(str(tmp_path / "photos"), ["a.png"])
    write_manifest(manifest, tmp_path / "tables" / "m.csv")
    for file in (tmp_path / "tables" / "m.csv", tmp_path / "disk" / "deep" / "tables" / "m.csv"):
        assert (Path(read_manifest(file).root) / "a.png").read_bytes() == b"1"
        assert read_manifest(file).root == str(tmp_path / "photos")


def test_select_keeps_the_rows_of_every_column_together() -> None:
    manifest = make_manifest("photos", ODD_NAMES)
    chosen = manifest.select([5, 2, 5])
    assert chosen.paths == [ODD_NAMES[5], ODD_NAMES[2], ODD_NAMES[5]]
    assert chosen.labels == [path[:7] for path in chosen.paths]
    assert chosen.digests == [hashlib.sha256(os.fsencode(p)).digest() for p in chosen.paths]
    assert chosen.extra["note"] == [f"about {path}" for path in chosen.paths]


def test_a_users_csv_is_a_manifest_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(
        "\ufeffid, Image ,CLASS,Split,target\r\n"
        "7,a.png,cat,Training,x\r\n\r\n8,b.png,dog,dev,y\r\n",
        encoding="utf-8",
    )
    assert read_manifest(tmp_path / "mine.csv") == Manifest(
        root=str(tmp_path),
        paths=["a.png", "b.png"],
        labels=["cat", "dog"],
        splits=["train", "val"],
        digests=[b"", b""],
        extra={"id": ["7", "8"], "target": ["x", "y"]},
    )


def test_the_first_alias_wins_and_the_other_column_is_kept(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("class,filename,label,path\nc,f.png,l,p.png\n")
    manifest = read_manifest(tmp_path / "m.csv")
    assert (manifest.paths, manifest.labels) == (["p.png"], ["l"])
    assert manifest.extra == {"class": ["c"], "filename": ["f.png"]}
    write_manifest(manifest, tmp_path / "again.csv")
    assert read_manifest(tmp_path / "again.csv") == manifest


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "is empty; its first line must name the columns"),
        ("name,label\na.png,cat\n", r"has no column path or filename or file or .* or id; it has:"),
        ("path,label\na.png,cat\nb,c.png,dog\n", "row 2 of .* has 3 fields instead of 2; quote"),
        ('path,label\na.png,"cat\nb.png,dog\n', "no well-formed CSV: .*; check its quotes"),
        ("path,path\na,b\n", "has two columns 'path'; rename one"),
        ("path,Path\na,b\n", "column 'Path' has the name of a manifest's own; rename it"),
        ("path,digest\na.png,d41d8cd98f\n", "the digest 'd41d8cd98f', which is not 64 hex"),
        ("path,digest\na.png,xyz\n", "the digest 'xyz', which is not 64 hex"),
        ("path,root\na.png,x\nb.png,y\n", "mixes the roots 'x' and 'y'; use one file"),
    ],
)
def test_a_bad_csv_is_one_line_that_names_it(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises(InputError, match=complaint) as caught:
        read_manifest(tmp_path / "m.csv")
    assert "\n" not in str(caught.value)


def test_a_missing_csv_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory; check the path"):
        read_manifest(tmp_path / "none.csv")


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        Manifest(root="", paths=["a"], labels=[], splits=[""], digests=[b""])


def test_long_tables_are_read_whole_and_a_short_row_is_named(tmp_path: Path) -> None:
    file = tmp_path / "long.csv"
    lines = [f"{number}.png,label {number % 3}\n" for number in range(1700)]
    file.write_text("path,label\n" + "\n".join(lines))  # with an empty line after each
    manifest = read_manifest(file)
    assert manifest.paths == [f"{number}.png" for number in range(1700)]
    assert manifest.labels == [f"label {number % 3}" for number in range(1700)]
    lines[1233] = "no label\n"
    file.write_text("path,label\n" + "\n".join(lines))
    with pytest.raises(InputError, match=r"row 1234 of .* has 1 fields instead of 2"):
        read_manifest(file)
