"""``--decode fast`` from the command line to the cache, and when it is recommended."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from permafrost.pipeline.forward.fast_decoding import FastDecoding
from permafrost.stages.decoding.decode import Decoded, DecodeSpec, decode_image
from tests.helpers.answers import Command
from tests.helpers.inputs import LAYERS, SIZE, write_photos

N_PHOTOS = 4


@pytest.fixture
def large_photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "large", n_each=N_PHOTOS // 2, side=400)


@pytest.fixture(autouse=True)
def worthwhile_at_any_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is recommended depend on the images alone, not on the machine's mood."""
    monkeypatch.setattr("permafrost.pipeline.forward.fast_decoding._WORTHWHILE", 0)


def read(file: Path) -> np.ndarray:
    with h5py.File(file) as opened:
        values: np.ndarray = opened["features/first"][()]
        return values


def reduce_photos(folder: Path, target: Path) -> Path:
    """Do with plain Pillow what fast decoding does, and keep the pixels."""
    for file in folder.rglob("*.jpg"):
        image = Image.open(file)
        image.draft(None, (2 * SIZE, 2 * SIZE))
        assert image.size == (100, 100)
        small = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        (target / file.parent.name).mkdir(parents=True, exist_ok=True)
        small.save(target / file.parent.name / f"{file.stem}.png")
    return target


def test_fast_and_exact_are_feature_sets_of_their_own(
    extract: Command, large_photos: Path, tmp_path: Path
) -> None:
    exact, fast, plain = (tmp_path / f"{name}.h5" for name in ("exact", "fast", "plain"))
    for _ in range(2):
        extract(images=large_photos, out=exact)
    answer = extract("--decode", "fast", images=large_photos, out=fast)
    assert answer.figures["computed"] == N_PHOTOS
    for options in ((), ("--decode", "fast")):
        assert extract(*options, images=large_photos, out=plain).figures["computed"] == 0
    extract(images=reduce_photos(large_photos, tmp_path / "reduced"), out=plain)
    np.testing.assert_allclose(read(fast), read(plain), rtol=1e-4, atol=1e-5)
    assert np.abs(read(fast) - read(exact)).max() > 1e-3


@pytest.fixture
def asked(large_photos: Path, backbone: Path, tmp_path: Path) -> tuple[object, ...]:
    """Options of ``plan`` and ``extract`` for the large photos."""
    options = ("--images", large_photos, "--backbone", backbone, "--layers", LAYERS)
    return (*options, "--cache", tmp_path / "cache")


def test_plan_says_what_fast_would_give_until_nothing_is_missing(
    command: Command, asked: tuple[object, ...], tmp_path: Path
) -> None:
    found = command("plan", *asked, "--json").figures["fast_decoding"]
    assert found["exact_per_second"] > 0
    assert found["fast_per_second"] > 0
    assert 0 < found["difference"] < 2
    assert f"differ by {found['difference']:.2f} grey levels" in command("plan", *asked).out
    fast = command("plan", *asked, "--decode", "fast", "--json")
    assert fast.figures["fast_decoding"] is None
    command("extract", *asked, "--out", tmp_path / "features.h5")
    assert command("plan", *asked, "--json").figures["fast_decoding"] is None


def test_nothing_is_recommended_for_images_that_fast_would_not_reduce(
    command: Command, asked: tuple[object, ...], photos: Path
) -> None:
    (photos / "china/bad.jpg").write_text("no image")
    answer = command("plan", *asked, "--images", photos, "--json")
    assert (answer.figures["to_compute"], answer.figures["fast_decoding"]) == (13, None)


@pytest.mark.parametrize("noticeable", [0, 1e9])
def test_the_summary_recommends_fast_where_it_saves_a_share_of_the_run(
    noticeable: float,
    command: Command,
    asked: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("permafrost.pipeline.extraction.summary._NOTICEABLE", noticeable)
    monkeypatch.setattr(FastDecoding, "count_saved_s", lambda _self, n_images: float(n_images))
    out = ("--out", tmp_path / "features.h5")
    assert ("--decode fast: " in command("extract", *asked, *out).out) == (noticeable == 0)
    assert "--decode fast: " not in command("extract", *asked, *out).out  # computed nothing


def test_what_fast_saves_is_counted_in_seconds_of_one_core() -> None:
    found = FastDecoding(exact_per_second=10, fast_per_second=25, difference=0.3)
    assert found.count_saved_s(100) == pytest.approx(6)


def test_nothing_is_recommended_that_is_hardly_faster(
    command: Command, asked: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("permafrost.pipeline.forward.fast_decoding._WORTHWHILE", 1e9)
    assert command("plan", *asked, "--json").figures["fast_decoding"] is None


def test_a_run_decodes_each_image_once_exactly_and_a_few_fast(
    command: Command, asked: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint costs no exact decoding, and none at all where decoding is a small part of it."""
    decoded: list[str] = []

    def note(data: bytes, spec: DecodeSpec) -> Decoded:
        decoded.append(spec.decoding)
        return decode_image(data, spec)

    for module in ("batch", "fast_decoding"):
        monkeypatch.setattr(f"permafrost.pipeline.forward.{module}.decode_image", note)
    for noticeable, n_fast in ((0, N_PHOTOS), (1e9, 0)):
        monkeypatch.setattr("permafrost.pipeline.extraction.summary._NOTICEABLE", noticeable)
        decoded.clear()
        places = ("--cache", tmp_path / f"{n_fast}", "--out", tmp_path / "features.h5")
        assert command("extract", *asked, *places).status == 0
        assert sorted(decoded) == ["exact"] * N_PHOTOS + ["fast"] * n_fast
