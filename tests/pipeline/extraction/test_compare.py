"""``plan --compare``: real programs on real photos; how long they take is no claim."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from permafrost.cores import count_cores
from permafrost.pipeline.extraction import compare
from permafrost.pipeline.extraction.comparison import Comparison, estimate_rate
from permafrost.pipeline.extraction.extract import extract
from permafrost.pipeline.extraction.plan import Preview, preview
from permafrost.pipeline.options import PRECISIONS, DatasetOptions, ExtractOptions, FeatureOptions
from permafrost.stages.engines import support
from permafrost.stages.engines.registry import ENGINES
from tests.helpers.answers import Command
from tests.helpers.inputs import LAYERS, SIZE, write_photos

EVERY = {(engine, precision) for engine in ENGINES for precision in PRECISIONS}
N_EACH = 3


def list_files(cache: Path) -> dict[Path, tuple[int, int]]:
    """List what lies in the feature sets, with sizes and times."""
    stats = {file: file.stat() for file in cache.glob("*-*/**/*")}
    return {file: (stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with large photos, of which a cache has those of one class."""
    root = tmp_path_factory.mktemp("compare")
    write_photos(root / "photos", n_each=N_EACH, side=400)
    return root


@pytest.fixture(scope="module")
def found(folder: Path, backbone: Path) -> Preview:
    """What a comparison says where one class is missing."""

    def ask(images: Path) -> ExtractOptions:
        return ExtractOptions(
            dataset=DatasetOptions(images=str(images)),
            features=FeatureOptions(backbone=str(backbone), layers=tuple(LAYERS.split(","))),
            cache=folder / "cache",
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "_EACH_S", 0)
        extract(ask(folder / "photos/china"), folder / "features.h5")
        before = list_files(folder / "cache")
        answer = preview(ask(folder / "photos"), compares=True)
    assert before
    assert list_files(folder / "cache") == before, "feature sets were written"
    return answer


@pytest.fixture
def comparison(found: Preview) -> Comparison:
    assert found.comparison
    return found.comparison


@pytest.fixture
def asked(photos: Path, backbone: Path, tmp_path: Path) -> tuple[object, ...]:
    options = ("--images", photos, "--backbone", backbone, "--layers", LAYERS)
    return ("plan", "--compare", *options, "--cache", tmp_path / "cache")


def test_every_engine_precision_and_decoding_has_figures_or_a_reason(
    comparison: Comparison,
) -> None:
    assert {(row.engine, row.precision) for row in comparison.rows} == EVERY
    measured = [row for row in comparison.rows if row.reason is None]
    modes = {(row.engine, row.precision, row.decode) for row in measured}
    assert {("tensorflow", "float32", "fast"), ("keras", "float32", "exact")} <= modes
    for row in comparison.rows:
        figures = (row.images_per_second, row.forward_per_second, row.seconds, row.missing)
        assert all(figures) if row.reason is None else not any(figures)
        assert row.options == (
            f"--engine {row.engine} --precision {row.precision} --decode {row.decode}"
        )
    rates = [row.images_per_second or 0.0 for row in comparison.rows]
    assert rates == sorted(rates, reverse=True)


def test_what_is_missing_is_counted_for_each_row_alone(
    found: Preview, comparison: Comparison
) -> None:
    (current,) = [row for row in comparison.rows if row.asked]
    assert (current.engine, current.precision, current.decode) == ("tensorflow", "float32", "exact")
    assert current.missing == found.to_compute == N_EACH
    others = {row.missing for row in comparison.rows if not (row.asked or row.reason)}
    assert others == {2 * N_EACH}


def read_photos(folder: Path, *, fast: bool) -> np.ndarray:
    """Read with plain Pillow what is missing, as Keras does or at a quarter of its size."""
    photos = []
    for file in sorted((folder / "photos/flower").iterdir()):
        image = Image.open(file)
        if fast:
            image.draft(None, (2 * SIZE, 2 * SIZE))
            assert image.size == (100, 100)
        photos.append(np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32))
    return np.stack(photos)


def predict_layers(model: Path, photos: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the layers with plain Keras."""
    import keras

    network = keras.models.load_model(model)
    outputs = [network.get_layer(name).output for name in ("first", "last")]
    pixels = keras.applications.mobilenet.preprocess_input(photos.copy())
    first, last = keras.Model(network.inputs, outputs).predict(pixels, verbose=0)
    return {"first": first, "last:avg": last.mean(axis=(1, 2))}


def test_errors_are_those_that_plain_keras_shows(
    comparison: Comparison, folder: Path, backbone: Path
) -> None:
    exact, fast = (predict_layers(backbone, read_photos(folder, fast=one)) for one in (False, True))
    float32 = [r for r in comparison.rows if r.precision == "float32" and r.reason is None]
    assert comparison.batch_size == N_EACH
    for row in float32:
        assert list(row.errors) == list(exact)
        for layer, error in row.errors.items():
            values = fast[layer] if row.decode == "fast" else exact[layer]
            difference, size = np.abs(values - exact[layer]), np.abs(exact[layer])
            assert error.max_error == pytest.approx(difference.max() / size.max(), abs=1e-5)
            assert error.mean_error == pytest.approx(difference.mean() / size.mean(), abs=1e-5)
            assert (error.max_error > 1e-3) == (row.decode == "fast")


def test_the_table_fits_a_terminal_and_marks_what_was_asked(
    found: Preview, comparison: Comparison
) -> None:
    lines = comparison.describe().splitlines()
    assert max(map(len, lines)) <= 100
    parts = "\n".join(lines).split("errors by layer:")
    tables = [[line for line in part.splitlines() if "  --engine" in line] for part in parts]
    assert len(tables) == 2
    for table in tables:
        (marked,) = [line for line in table if line.startswith(">")]
        assert marked.endswith("--engine tensorflow --precision float32 --decode exact")
        assert len({line.index("--engine") for line in table}) == 1
        assert len(table) == sum(row.reason is None for row in comparison.rows)
    for row in comparison.rows:
        named = row.options if row.reason is None else f"{row.engine} {row.precision}"
        assert any(named in line for line in lines)
    assert found.describe().endswith(comparison.describe())
    assert "leave out reading and checking files, and writing" in comparison.describe()


def test_errors_of_more_layers_than_fit_into_columns_are_lines(comparison: Comparison) -> None:
    row = next(row for row in comparison.rows if row.asked)
    errors = {f"block{n}_pool:avg": row.errors["first"] for n in range(9)}
    wide = replace(comparison, rows=[replace(row, errors=errors)])
    told = wide.describe().partition("errors by layer:")[2]
    assert f"{row.options}: block0_pool:avg 0, block1_pool:avg" in " ".join(told.split())
    assert max(map(len, told.splitlines())) <= 100


def test_what_cannot_run_here_is_a_row_that_says_why(
    command: Command, asked: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compare, "_EACH_S", 0)
    monkeypatch.setattr(support, "_has_bfloat16", lambda: False)
    monkeypatch.setattr(support, "_has_gpu", lambda _backend: False)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "openvino" else find_spec(name)
    )
    answer = command(*asked, "--engine", "openvino", "--json")
    figures = answer.figures
    rows = {(row["engine"], row["precision"]): row for row in figures["compared"]}
    assert set(rows) == EVERY
    assert {key for key, row in rows.items() if row["reason"] is None} == {
        ("tensorflow", "float32"),
        ("keras", "float32"),
    }
    assert "needs the package openvino" in rows["openvino", "float32"]["reason"]
    assert "AVX512-BF16" in rows["keras", "bfloat16"]["reason"]
    assert [key for key, row in rows.items() if row["asked"]] == [("openvino", "float32")]
    assert figures["to_compute"] == rows["tensorflow", "float32"]["missing"] == 12
    assert figures["compared_on"]["images"] == 12
    assert not (tmp_path / "cache").exists()


def test_without_missing_images_others_are_timed_and_nothing_is_left_to_do(
    command: Command, asked: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_EACH_S", 0)
    engines = [one for one in ("tensorflow", "openvino") if importlib.util.find_spec(one)]
    builders = {engine: compare.BUILDERS[engine] for engine in engines}
    monkeypatch.setattr(compare, "BUILDERS", builders)
    monkeypatch.setattr(compare, "PRECISIONS", ("float32",))
    command("extract", *asked[2:], "--out", tmp_path / "features.h5")
    rows = {one["engine"]: one for one in command(*asked, "--json").figures["compared"]}
    row = rows["tensorflow"]
    assert (row["missing"], row["seconds"], row["asked"]) == (0, 0, True)
    assert rows.keys() == builders.keys()
    assert all(one["images_per_second"] > 0 for one in rows.values())
    assert "compared" not in command("plan", *asked[2:], "--json").figures


def test_what_there_is_no_time_for_is_left_out_and_said(
    command: Command, asked: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_ALL_S", 0)
    out = command(*asked).out
    assert "no time was left" in out
    assert "tensorflow float32" in out


def test_a_slow_network_is_timed_on_its_first_batch_alone(
    command: Command, asked: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_LONGEST_S", 0)
    monkeypatch.setattr(compare, "BUILDERS", {"tensorflow": compare.BUILDERS["tensorflow"]})
    answer = command(*asked)
    assert "~ from the first batch alone" in answer.out
    (row,) = [r for r in command(*asked, "--json").figures["compared"] if r["asked"]]
    assert (row["batches"], set(row["errors"])) == (0, set(LAYERS.split(",")))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--layers", "pixels"), "--layers pixels needs none"),
        (("--scheduler", "local:2"), "drop --scheduler"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    options: tuple[str, ...], said: str, command: Command, asked: tuple[object, ...]
) -> None:
    answer = command(*asked, *options)
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert said in answer.err


def test_images_of_which_none_can_be_decoded_are_one_line(
    command: Command, asked: tuple[object, ...], photos: Path
) -> None:
    for file in photos.rglob("*.jpg"):
        file.write_text(str(file))
    answer = command(*asked)
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "none of 12 images" in answer.err


def test_decoding_shares_the_cores_with_a_network_unless_that_runs_on_a_gpu() -> None:
    cores = count_cores()
    shared = estimate_rate(300.0, 300.0 / cores, n_threads=cores, on_gpu=False)
    assert math.isclose(shared, 150.0)
    assert estimate_rate(300.0, 200.0 / cores, n_threads=cores, on_gpu=True) == 200.0
    assert estimate_rate(300.0, 5.0, n_threads=1, on_gpu=False) <= 5.0
