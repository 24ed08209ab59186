"""The command line from outside: what is imported, what is refused and how."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.parsers import parse_bytes, parse_size
from tests.helpers import ROOT
from tests.helpers.answers import Answer, Command

_LIGHTLY = """
import sys
from permafrost.pipeline.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
heavy = sys.modules.keys() & {
    "tensorflow", "keras", "sklearn", "pandas", "distributed", "dask", "scipy", "skops", "joblib",
    "asyncio", "rich", "pydantic", "yaml", "hdf5plugin",
}
sys.exit(f"loaded {heavy}" if heavy else status)
"""


def run_lightly(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that fails if it loads a heavy package."""
    return subprocess.run(
        [sys.executable, "-c", _LIGHTLY, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_heavy_is_loaded_where_nothing_is_computed(
    extract: Command, photos: Path, backbone: Path, tmp_path: Path
) -> None:
    (photos / "china/bad.jpg").write_text("no image")
    extract()
    options = ["--images", photos, "--backbone", backbone, "--layers", "first,last:avg"]
    options += ["--cache", tmp_path / "cache", "--out", tmp_path / "again.h5", "--json"]
    for command in ("extract", "plan"):
        done = run_lightly(command, *options)
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout.splitlines()[-1])
        assert figures["failed"] == 1
        assert figures.get("computed", figures.get("to_compute")) == 0
    for arguments in (
        ["--help"],
        ["extract", "--help"],
        ["index", photos, "--out", tmp_path / "m"],
    ):
        done = run_lightly(*arguments)
        assert done.returncode == 0, done.stderr


def test_run_py_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", "extract", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for option in ("--images", "--manifest", "--scheduler", "--on-error", "--materialize"):
        assert option in done.stdout


def test_json_is_the_last_line_with_the_promised_keys(extract: Command) -> None:
    figures = extract().figures
    promised = ["images", "computed", "reused", "failed", "seconds", "images_per_second"]
    assert list(figures)[:7] == [*promised, "bytes_written"]
    assert (figures["images"], figures["computed"], figures["reused"]) == (12, 12, 0)
    assert figures["bytes_written"] > 0
    assert figures["images_per_second"] > 0


def test_plan_says_what_extract_then_does(
    extract: Command, command: Command, photos: Path, backbone: Path, tmp_path: Path
) -> None:
    options = ["--images", photos, "--backbone", backbone, "--layers", "first,last:avg", "--json"]
    cold = command("plan", *options, "--cache", tmp_path / "cache").figures
    assert not (tmp_path / "cache").exists()
    assert (cold["images"], cold["to_compute"], cold["seconds"]) == (12, 12, None)
    assert cold["bytes_to_write"] == 12 * 4 * (15 * 15 * 8 + 16)
    extract(layers="first")
    shutil.copy(photos / "china/0000.jpg", photos / "china/copy.jpg")
    warm = command("plan", *options, "--cache", tmp_path / "cache").figures
    assert (warm["images"], warm["to_compute"]) == (13, 12)
    assert [(layer["rows_cached"], layer["rows_missing"]) for layer in warm["layers"]] == [
        (12, 0),
        (0, 12),
    ]
    assert extract().figures["computed"] == 12
    done = command("plan", *options, "--cache", tmp_path / "cache").figures
    assert (done["to_compute"], done["bytes_to_write"]) == (0, 0)
    assert done["images_per_second"] > 0


def test_layers_lists_names_shapes_and_bytes(command: Command, backbone: Path) -> None:
    figures = command("layers", backbone, "--json").figures
    assert figures["backbone"] == "mobilenet_small"
    assert [list(layer.values()) for layer in figures["layers"]] == [
        ["pixels", [32, 32, 3], 3072, None, False],
        ["first", [15, 15, 8], 7200, 0, True],
        ["second", [7, 7, 12], 2352, 1, True],
        ["last", [5, 5, 16], 1600, 2, True],
    ]
    assert list(figures["layers"][0]) == ["name", "shape", "bytes", "number", "is_cut"]
    text = command("layers", backbone).out
    assert "15x15x8" in text
    assert "7.2 kB an image" in text


def test_index_lists_labels_and_splits(command: Command, photos: Path, tmp_path: Path) -> None:
    (photos / "china/link.jpg").symlink_to("/nowhere.jpg")
    manifest = tmp_path / "manifest.csv"
    answer = command("index", photos, "--out", manifest, "--split", "test=0.5", "--json")
    assert answer.figures["images"] == 13
    assert answer.figures["unreadable"] == 1
    assert answer.figures["labels"] == {"china": 7, "flower": 6}
    assert sum(answer.figures["splits"].values()) == 13
    assert "cannot read 'china/link.jpg'" in command("index", photos, "--out", manifest).out


def refuse(answer: Answer, *words: str, status: int = 2) -> None:
    """Check that a command ended with one clear line."""
    assert answer.status == status, answer
    lines = [line for line in answer.err.splitlines() if line]
    assert "Traceback" not in "".join(lines)
    assert lines[-1].startswith("permafrost: "), lines
    for word in words:
        assert word in lines[-1], lines


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "x"], ["'x'", "224"]),
        (["--size", "0"], ["'0'", "224"]),
        (["--memory", "lots"], ["'lots'", "4GB"]),
        (["--memory", "0"], ["'0'", "4GB"]),
        (["--memory", "1.2.3GB"], ["'1.2.3GB'", "4GB"]),
        (["--batch-size", "0"], ["--batch-size '0'", "auto"]),
        (["--batch-size", "many"], ["--batch-size 'many'", "auto"]),
        (["--workers", "0"], ["--workers 0", "at least 1"]),
        (["--size", "64"], ["32x32", "drop --size"]),
        (["--weights", "random"], ["brings its own", "drop --weights"]),
        (["--manifest", "x.csv"], ["--images SOURCE", "--manifest FILE"]),
        (["--labels", "filename:zzz"], ["none of the 12 images"]),
        (["--labels", "filename:("], ["regular expression"]),
        (["--labels", "colour"], ["'colour'", "filename:REGEX"]),
        (["--split", "test=2"], ["'test=2'"]),
        (["--split", "predefined"], ["predefined"]),
        (["--scheduler", "rubbish"], ["no Dask scheduler", "'rubbish'"]),
        (["--scheduler", ""], ["--scheduler ''", "tcp://host:8786"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_options_end_in_one_line(
    extract: Command, options: list[str], words: list[str]
) -> None:
    refuse(extract(*options), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["index", "photos", "--out", ""], ["--out: ''", "file or folder"]),
        (["index", "photos", "--out", "."], ["--out '.'", "name a file in it"]),
        (["index", "photos", "--out", "a.csv", "--labels=--"], ["--labels: '--'"]),
        (["show", ""], ["THING: ''"]),
        (["report", ""], ["DIR: ''"]),
        (["show", "runs", "--model", "m"], ["--model goes with --image", "'runs'"]),
        (["export", "--model", "m", "--out", "a.keras", "--format", ""], ["unknown format ''"]),
        (["export", "--model", "m", "--out", "a", "--format", ""], ["unknown format ''"]),
        (["run", "absent.yaml"], ["'absent.yaml'", "name an experiment.yaml"]),
    ],
    ids=" ".join,
)
def test_names_that_are_none_end_in_one_line(
    command: Command, arguments: list[str], words: list[str]
) -> None:
    refuse(command(*arguments), *words)


def test_bad_images_end_in_one_line(extract: Command, tmp_path: Path) -> None:
    refuse(extract(images=tmp_path / "nowhere"), "nowhere", "name a folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    refuse(extract(images=empty), "no images in")
    (empty / "a.jpg").write_text("no image")
    refuse(extract(images=empty), "none of the 1 images", "a.jpg", "not an image")
    refuse(extract(images=empty / "a.jpg"), "a.jpg", "zip")
    refuse(extract(images=None), "--images SOURCE")
    archive = tmp_path / "empty.zip"
    zipfile.ZipFile(archive, "w").close()
    refuse(extract(images=archive), "no images in")


def test_bad_tables_end_in_one_line(extract: Command, photos: Path, tmp_path: Path) -> None:
    table = photos / "table.csv"
    for text, words in (
        ("", ["is empty"]),
        ("a,b\n1,2\n", ["no column path", "'a'"]),
        ("path,label\n", ["no images in", "no rows"]),
        ("path,label\nchina/0000.jpg\n", ["row 1", "fields"]),
        ("path,digest\nchina/0000.jpg,abc\n", ["'abc'", "hexadecimal"]),
    ):
        table.write_text(text)
        refuse(extract("--manifest", table, images=None), *words)
        refuse(extract(images=table), *words)
    table.write_text("path,label\ngone.jpg,b\n")
    refuse(extract(images=table), "gone.jpg", "do not exist")
    refuse(extract("--manifest", table, "--labels", "folder", images=None), "--labels")
    refuse(extract("--manifest", tmp_path / "no.csv", images=None), "no.csv")


def test_bad_backbones_end_in_one_line(extract: Command, tmp_path: Path) -> None:
    refuse(extract(layers="firs"), "unknown layer 'firs'", "'first'")
    refuse(extract(layers="first:mean"), "unknown pooling 'mean'")
    refuse(extract(layers="first,"), "empty layer name")
    refuse(extract(model="vgg61"), "unknown backbone 'vgg61'", "'vgg16'")
    refuse(extract(model="vgg16("), "vgg16(")
    refuse(extract(model=tmp_path / "no.keras"), "no model file")
    fake = tmp_path / "fake.keras"
    fake.write_text("no model")
    refuse(extract(model=fake), "fake.keras", "cannot be loaded")
    refuse(extract("--weights", fake, model="mobilenet(alpha=0.25)"), "fake.keras")
    refuse(extract("--weights", tmp_path / "no.h5", model="mobilenet"), "no weights file")


def test_a_model_of_no_known_family_asks_for_its_preprocessing(
    extract: Command, backbone: Path, tmp_path: Path
) -> None:
    import keras

    model = keras.models.load_model(backbone, compile=False)
    anonymous = keras.Sequential(model.layers, name="mine")
    anonymous.build((None, 32, 32, 3))
    anonymous.save(tmp_path / "mine.keras")
    refuse(extract(model=tmp_path / "mine.keras"), "'mine'", "caffe|tf|torch|none")
    assert extract("--preprocess", "tf", model=tmp_path / "mine.keras").status == 0


def test_bad_places_end_in_one_line(extract: Command, photos: Path, tmp_path: Path) -> None:
    refuse(extract(cache=photos), "is not a cache")
    refuse(extract(cache=photos / "china/0000.jpg"), "is a file")
    refuse(extract(cache=photos / "china/0000.jpg/x"), "0000.jpg", status=3)
    refuse(extract(out=photos), "is a folder", "features.h5")
    refuse(extract(out=photos / "china/0000.jpg/x.h5"), "0000.jpg", status=3)
    refuse(extract(out=tmp_path / ("x" * 300)), "too long", status=3)
    assert extract(out=tmp_path / "new/folders/features.h5").status == 0


def test_caches_that_cannot_be_used_end_in_one_line(extract: Command, tmp_path: Path) -> None:
    assert extract().status == 0
    number = tmp_path / "cache/format.json"
    number.write_text('{"format": 99}')
    refuse(extract(), "format 99", "update permafrost")
    number.write_text("{")
    refuse(extract(), "format.json", "damaged", status=3)


def test_a_folder_called_like_a_backbone_is_not_read(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random").mkdir()
    (tmp_path / "mobilenet").mkdir()
    monkeypatch.setattr(
        "permafrost.pipeline.planning.backbone.hash_path", None
    )  # Calling it would be a bug.
    monkeypatch.chdir(tmp_path)
    options = ["--weights", "random", "--size", "32", "--json"]
    assert command("layers", "MobileNet", *options).figures["size"] == [32, 32]


def test_a_reader_that_leaves_early_ends_the_command_quietly(backbone: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "run.py", "layers", backbone],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_what_a_terminal_cannot_show_is_escaped(photos: Path, tmp_path: Path) -> None:
    (photos / "china").rename(photos / "\udcff")
    done = subprocess.run(
        [sys.executable, "run.py", "index", photos, "--out", tmp_path / "m.csv"],
        cwd=ROOT,
        env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\udcff 6" in done.stdout


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("4GB", 4 * 10**9),
        ("500 MB", 500 * 10**6),
        ("1.5g", 1_500_000_000),
        ("2GiB", 2 * 1024**3),
        ("1Ki", 1024),
        ("123", 123),
    ],
)
def test_amounts_of_memory(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


def test_sizes() -> None:
    assert parse_size("224") == (224, 224)
    assert parse_size("224x320") == (224, 320)
    for text in ("", "x", "-1", "0x5", "5x0", "1.5"):
        with pytest.raises(PipelineError, match="cannot read"):
            parse_size(text)
