"""Several views of each image: decoded once, each a feature set of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from permafrost.pipeline.forward import batch as batches
from permafrost.stages.backbones.preprocessing import VIEWS, turn
from permafrost.stages.engines.program import HalvingProgram
from tests.helpers.answers import Command
from tests.helpers.extracted import find_shards, predict, read_plain
from tests.helpers.inputs import SIZE
from tests.pipeline.test_declared_once import find_key

TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": np.asarray,
    "hflip": lambda images: images[:, :, ::-1],
    "vflip": lambda images: images[:, ::-1],
    "rot90": lambda images: np.rot90(images, 1, (1, 2)),
    "rot180": lambda images: np.rot90(images, 2, (1, 2)),
    "rot270": lambda images: np.rot90(images, 3, (1, 2)),
}


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Collect the batches that go through a network."""
    found: list[np.ndarray] = []
    run = HalvingProgram.__call__
    monkeypatch.setattr(
        HalvingProgram, "__call__", lambda self, batch: (found.append(batch), run(self, batch))[1]
    )
    return found


def read_keys(file: Path) -> dict[str, str]:
    with h5py.File(file) as opened:
        return {name: str(node.attrs["key"]) for name, node in opened["features"].items()}


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_moves_pixels_as_numpy_does(view: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), np.uint8)
    np.testing.assert_array_equal(turn(np, images, view), TURNS[view](images))


def test_every_view_is_another_recipe() -> None:
    assert len({find_key(view=view) for view in VIEWS}) == len(VIEWS)


def test_images_are_decoded_once_and_each_view_is_what_keras_gives(
    extract: Command, photos: Path, backbone: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    once = batches.decode_image
    monkeypatch.setattr(
        batches, "decode_image", lambda data, spec: (decoded.append(data), once(data, spec))[1]
    )
    answer = extract("--view", "identity,hflip,rot90", layers="first,pixels")
    assert answer.figures["computed"] == len(decoded) == 12
    assert list(answer.figures["drift"]) == ["first", "first@hflip", "first@rot90"]
    images = read_plain(out, "pixels")
    files = sorted(photos.rglob("*.jpg"))
    for view, name in (("identity", ""), ("hflip", "@hflip"), ("rot90", "@rot90")):
        np.testing.assert_array_equal(read_plain(out, f"pixels{name}"), TURNS[view](images))
        expected = predict(backbone, "first", files, turn=TURNS[view])
        np.testing.assert_allclose(read_plain(out, f"first{name}"), expected, rtol=1e-4, atol=1e-5)


def test_a_view_has_the_key_and_the_numbers_that_it_has_alone(
    extract: Command, out: Path, tmp_path: Path
) -> None:
    both, alone = tmp_path / "both.h5", tmp_path / "alone.h5"
    assert extract("--view", "identity,hflip", layers="first", out=both).figures["computed"] == 12
    other = {"layers": "first", "out": alone, "cache": tmp_path / "other"}
    assert extract("--view", "hflip", **other).figures["computed"] == 12
    np.testing.assert_array_equal(read_plain(both, "first@hflip"), read_plain(alone, "first"))
    assert read_keys(both)["first@hflip"] == read_keys(alone)["first"]
    assert extract("--view", "hflip", layers="first").figures["computed"] == 0
    before = alone.read_bytes()
    alone.unlink()
    assert extract("--view", "hflip,hflip", **other).figures["computed"] == 0
    assert alone.read_bytes() == before


def test_another_view_computes_that_view_alone(
    extract: Command, photos: Path, tmp_path: Path, forwarded: list[np.ndarray]
) -> None:
    extract(layers="first")
    before = find_shards(tmp_path / "cache")
    forwarded.clear()
    added = extract("--view", "identity,hflip", layers="first").figures
    # Two images of each run's first batch are put through alone as well, for `drift`.
    assert (added["computed"], sum(map(len, forwarded))) == (12, 12 + 2)
    after = find_shards(tmp_path / "cache")
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()
    forwarded.clear()
    Image.open(photos / "flower/0000.jpg").rotate(90).save(photos / "flower/new.jpg")
    grown = extract("--view", "identity,hflip,vflip", "--batch-size", 4, layers="first").figures
    assert grown["computed"] == 13
    # Of the views that were there, only the batch with the new image.
    assert sum(map(len, forwarded)) == 13 + 2 + 3 * 2


def test_a_wrong_view_is_one_line(extract: Command) -> None:
    answer = extract("--view", "identity,hflop")
    assert (answer.status, answer.err) == (
        2,
        "permafrost: unknown view 'hflop'; did you mean 'hflip' or 'vflip'?\n",
    )
    answer = extract("--view", "hflip,rot90", "--size", f"{SIZE}x40", model="none", layers="pixels")
    assert answer.status == 2
    assert f"--view rot90 needs square images, and these are {SIZE}x40" in answer.err


def test_each_view_is_compared_with_the_reference(
    extract: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "permafrost.pipeline.computing.compute.check_precision", lambda _engine, _precision: None
    )
    half = ("--precision", "bfloat16")
    both = extract(*half, "--view", "identity,hflip", layers="second").figures["parity"]
    alone = extract(*half, "--view", "hflip", layers="second", cache=tmp_path / "o").figures[
        "parity"
    ]
    assert both["second@hflip"] == alone["second"] != both["second"]
