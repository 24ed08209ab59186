"""Labels, splits and columns that shards tell."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from permafrost.pipeline.cli.main import main
from permafrost.stages.datasets.labels import list_dataset
from permafrost.stages.errors import InputError, UnknownNameError
from tests.helpers.manifests import build_manifest
from tests.helpers.packing import encode_digits, pack_tar, pack_zip
from tests.helpers.sharding import (
    INFO,
    make_samples,
    make_table,
    name_samples,
    write_arrow,
    write_parquet,
)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for split, first in (("train", 0), ("val", 4)):
        pack_tar(tmp_path / f"set-{split}-000.tar", make_samples(4, first=first))
    return tmp_path


def test_a_class_beside_an_image_is_its_label_and_fields_are_columns(shards: Path) -> None:
    manifest = build_manifest(f"{shards}/*.tar")
    assert manifest.labels == [str(number % 3) for number in range(8)]
    assert manifest.splits == ["train"] * 4 + ["val"] * 4
    assert manifest.paths[4] == "set-val-000.tar/0004.png"
    numbers = range(8)
    assert manifest.extra == {"kind": [f"k{n % 2}" for n in numbers], "n": [*map(str, numbers)]}
    # A folder of shards is all of its shards, and one of them is as it always was.
    folder = build_manifest(str(shards))
    assert (folder.paths, folder.labels) == (manifest.paths, manifest.labels)
    alone = build_manifest(f"{shards}/set-val-000.tar")
    assert (alone.paths, alone.labels) == (
        ["0004.png", "0005.png", "0006.png", "0007.png"],
        manifest.labels[4:],
    )


def test_a_field_may_be_the_label(shards: Path) -> None:
    for location in (f"{shards}/*.tar", f"{shards}/set-val-000.tar"):
        manifest = build_manifest(location, labels="column:kind")
        assert manifest.labels[-2:] == ["k0", "k1"]
        assert list(manifest.extra) == ["cls", "n"]
        with pytest.raises(UnknownNameError, match=r"unknown column 'kin'.*did you mean 'kind'"):
            list_dataset(location, labels="column:kin")


def test_archives_without_companions_are_what_they_were(tmp_path: Path) -> None:
    digits = encode_digits(2)
    files = {"cat/1.png": digits[0], "dog/1.png": digits[1], "dog/1.txt": b"notes"}
    for archive in (
        pack_tar(tmp_path / "a.tar", files),
        pack_zip(tmp_path / "a.zip", {**files, "cat/1.cls": b"7", "cat/1.json": b"{}"}),
    ):
        manifest = build_manifest(archive)
        assert (manifest.labels, manifest.extra) == (["cat", "dog"], {})


def test_fields_that_cannot_be_read_cost_their_row_and_names_of_our_own_are_kept_apart(
    tmp_path: Path, caplog
) -> None:
    digit = encode_digits(1)[0]
    samples = {
        "a": {"png": digit, "json": b'{"label": "x", "path": "p", "ok": true, "none": null}'},
        "b.c": {"png": digit, "json": b"{"},
        "d": {"png": digit, "json": b"[1]"},
        "e": {"left.png": digit, "right.png": digit, "json": b'{"label": 5}'},
    }
    manifest = build_manifest(pack_tar(tmp_path / "a.tar", name_samples(samples)))
    assert manifest.paths == ["a.png", "b.c.png", "d.png", "e.left.png", "e.right.png"]
    assert manifest.labels == ["x", "", "", "5", "5"]
    assert manifest.extra == {"source_path": ["p"] + [""] * 4, "ok": ["true"] + [""] * 4}
    assert "the JSON of 2 images cannot be read" in caplog.text


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_classes_have_their_names_and_splits_those_of_their_files(
    tmp_path: Path, kind: str
) -> None:
    digits = encode_digits(9)
    write = write_parquet if kind == "parquet" else write_arrow
    write(tmp_path / f"data/train-00000-of-00001.{kind}", make_table(digits[:6]))
    write(tmp_path / f"data/test-00000-of-00001.{kind}", make_table(digits[6:], first=6))
    manifest = build_manifest(str(tmp_path))
    assert manifest.splits == ["test"] * 3 + ["train"] * 6
    assert manifest.labels == ["", "zero", "one"] * 3
    assert manifest.extra["file_name"][:4] == ["6.png", "7.png", "8.png", "0.png"]
    assert manifest.extra["note"][3:6] == ["=note 0", "", "=note 2"]
    assert manifest.extra["size"][:2] == ["3.0", "3.5"]
    # What shards and their folders are called are no classes.
    with pytest.raises(InputError, match="finds a label for none of the 9 images"):
        list_dataset(str(tmp_path), labels="folder")


def test_a_folder_that_datasets_saved_is_read_by_what_lies_beside(tmp_path: Path) -> None:
    table = make_table(encode_digits(4)).replace_schema_metadata(None)
    for split in ("train", "test"):
        write_arrow(tmp_path / split / "data-00000-of-00001.arrow", table)
        (tmp_path / split / "dataset_info.json").write_text(json.dumps(INFO))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    manifest = build_manifest(str(tmp_path))
    assert manifest.splits == ["test"] * 4 + ["train"] * 4
    assert manifest.labels == ["", "zero", "one", ""] * 2


def test_plain_tables_have_a_column_of_bytes_and_one_called_label(tmp_path: Path) -> None:
    digits = encode_digits(3)
    table = pa.table(
        {
            "thumbnail": pa.array([b"", b"", b""]),
            "png": pa.array(digits),
            "Label": pa.array(["a", "b", "a"]).dictionary_encode(),
            "tags": [[1], [2], [3]],
            "split": ["train", "dev", "test"],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    listed = list_dataset(str(tmp_path / "a.parquet"))
    manifest = listed.manifest
    assert [listed.source.read(path) for path in manifest.paths] == digits
    assert (manifest.labels, manifest.splits) == (["a", "b", "a"], ["train", "val", "test"])
    assert manifest.extra == {}


def test_a_column_of_splits_is_the_label_only_where_that_is_asked_for(tmp_path: Path) -> None:
    told = {"features": {"split": {"_type": "ClassLabel", "names": ["train", "test"]}}}
    metadata = {"huggingface": json.dumps({"info": told})}
    table = pa.table({"image": encode_digits(2), "split": [0, 1]}).replace_schema_metadata(metadata)
    file = write_parquet(tmp_path / "a.parquet", table)
    manifest = build_manifest(file)
    assert (manifest.labels, manifest.splits) == (["", ""], ["train", "test"])
    manifest = build_manifest(file, labels="column:split")
    assert (manifest.labels, manifest.splits) == (["train", "test"], ["", ""])


def test_a_number_that_is_none_is_no_label(tmp_path: Path) -> None:
    digits = encode_digits(2)
    table = pa.table({"image": digits, "label": [float("nan"), 1.5]})
    assert build_manifest(write_parquet(tmp_path / "a.parquet", table)).labels == ["", "1.5"]
    told = {f"{n}.png": digits[n] for n in range(2)}
    told |= {"0.json": b'{"grade": NaN}', "1.json": b'{"grade": 2.5}'}
    tar = str(pack_tar(tmp_path / "a.tar", told))
    assert build_manifest(tar, labels="column:grade").labels == ["", "2.5"]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_shards_that_their_names_tell_are_missing_are_named(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    write = {"parquet": write_parquet, "arrow": write_arrow}[kind]
    files = [
        write(tmp_path / f"{name}-{n:05d}-of-{of:05d}.{kind}", make_table(encode_digits(1)))
        for name, of in (("train", 3), ("test", 1))
        for n in range(of)
    ]
    assert len(build_manifest(str(tmp_path))) == 4
    assert "missing" not in caplog.text
    Path(files[1]).unlink()
    assert len(build_manifest(str(tmp_path))) == 3
    assert f"shards are missing: train-…-of-00003.{kind} (2 are there)" in caplog.text


def test_a_table_without_rows_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it has no rows"):
        list_dataset(write_parquet(tmp_path / "a.parquet", make_table([])))


def test_a_column_of_a_table_may_be_the_label(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label,species\na.png,1,cat\nb.png,2,dog\n")
    for name, digit in zip("ab", encode_digits(2), strict=True):
        (tmp_path / f"{name}.png").write_bytes(digit)
    assert build_manifest(str(tmp_path / "t.csv"), labels="column:species").labels == ["cat", "dog"]
    with pytest.raises(UnknownNameError, match="unknown column 'x' of "):
        build_manifest(str(tmp_path / "t.csv"), labels="column:x")
    with pytest.raises(InputError, match="has no columns besides its images"):
        build_manifest(str(tmp_path), labels="column:x")


@pytest.mark.parametrize("kind", ["tar", "parquet", "arrow"])
def test_shards_go_through_the_whole_pipeline_and_renamed_ones_hit(
    tmp_path: Path, kind: str, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s").mkdir()
    digits = encode_digits(12)
    digits[5] = b"no image"
    for shard in range(2):
        rows = digits[6 * shard : 6 * shard + 6]
        if kind == "tar":
            samples = {f"{n}": {"png": one, "cls": b"%d" % (n % 2)} for n, one in enumerate(rows)}
            pack_tar(Path(f"s/x-{shard}.tar"), name_samples(samples))
        else:
            table = make_table(rows, first=6 * shard)
            (write_parquet if kind == "parquet" else write_arrow)(
                Path(f"s/x-{shard}.{kind}"), table
            )
    common = ["--backbone", "none", "--size", "8", "--layers", "pixels", "--cache", "c", "--json"]
    assert main(["extract", "--images", f"s/x-{{0..1}}.{kind}", *common, "--out", "f.h5"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["images"], told["computed"], told["failed"]) == (12, 11, 1)
    assert "not an image" in Path("f.h5.failures.csv").read_text()
    assert main(["index", "s", "--out", "m.csv"]) == 0
    Path("s").rename("t")
    assert main(["plan", "--images", "t", *common]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["to_compute"] == 0
    Path("t").rename("s")
    assert main(["extract", "--manifest", "m.csv", *common, "--out", "g.h5"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["computed"] == 0


@pytest.mark.slow
def test_workers_of_a_cluster_read_shards(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for shard in range(2):
        write_parquet(Path(f"s/x-{shard}.parquet"), make_table(encode_digits(6 + shard)))
    common = ["--backbone", "none", "--size", "8", "--layers", "pixels", "--cache", "c", "--json"]
    options = ["--images", "s/*.parquet", "--out", "f.h5", "--scheduler", "local:1"]
    assert main(["extract", *options, *common]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["images"], told["computed"], told["failed"]) == (13, 7, 0)
