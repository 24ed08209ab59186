"""The layer ``pixels``: images kept as they were decoded, whatever network they are for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from permafrost import open_features
from permafrost.pipeline.forward import batch as batches
from permafrost.pipeline.forward import program
from tests.helpers import ROOT
from tests.helpers.answers import Command
from tests.helpers.extracted import find_shards, read_plain, read_texts
from tests.helpers.inputs import SIZE
from tests.pipeline.cli.test_main import run_lightly

SIZED = ("--size", SIZE)
WITHOUT_KERAS = """
import sys
from permafrost.pipeline.cli.main import main
status = main(sys.argv[1:])
sys.exit(status or "tensorflow" in sys.modules or "keras" in sys.modules)
"""


def decode(photos: Path, file: Path) -> np.ndarray:
    with h5py.File(file) as opened:
        paths = read_texts(opened["images/path"])
    resized = [
        Image.open(photos / path).resize((SIZE, SIZE), Image.Resampling.BILINEAR) for path in paths
    ]
    return np.stack([np.asarray(image) for image in resized])


def test_images_are_kept_as_bytes_beside_other_layers(
    extract: Command, photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    once = batches.decode_image
    monkeypatch.setattr(
        batches, "decode_image", lambda data, spec: (decoded.append(data), once(data, spec))[1]
    )
    answer = extract("--dtype", "float16", layers="first,pixels,last:avg")
    assert answer.figures["computed"] == len(decoded) == 12
    pixels = read_plain(out, "pixels")
    assert (pixels.dtype, pixels.shape) == (np.uint8, (12, SIZE, SIZE, 3))
    np.testing.assert_array_equal(pixels, decode(photos, out))
    assert read_plain(out, "last:avg").dtype == np.float16
    assert list(answer.figures["drift"]) == ["first", "last:avg"]


def test_layers_beside_images_are_what_they_are_alone(
    extract: Command, out: Path, tmp_path: Path
) -> None:
    extract(layers="first,last:avg", cache=tmp_path / "alone", out=tmp_path / "alone.h5")
    extract(layers="first,pixels,last:avg")
    for layer in ("first", "last:avg"):
        np.testing.assert_array_equal(
            read_plain(out, layer), read_plain(tmp_path / "alone.h5", layer)
        )


def test_backbones_of_one_size_share_their_images(
    extract: Command, backbone: Path, tmp_path: Path
) -> None:
    """Nothing but their decoding is in the recipe."""
    first = extract("--size", SIZE, model="vgg16", layers="pixels")
    assert first.figures["computed"] == 12
    assert extract(layers="pixels").figures["computed"] == 0
    for options in ((), ("--precision", "bfloat16"), ("--preprocess", "caffe")):
        again = extract("--size", SIZE, *options, model="none", layers="pixels")
        assert (again.figures["computed"], again.figures["reused"]) == (0, 12)
    (shard,) = find_shards(tmp_path / "cache")
    assert Path(shard).parent.name == "pixels-none"
    assert Path(shard).parent.parent.name.startswith("pixels-")
    recipe = json.loads((Path(shard).parent / "recipe.json").read_text())
    assert recipe == {
        "backbone": "pixels",
        "color": "rgb",
        "decode": "exact",
        "dtype": "uint8",
        "layer": "pixels",
        "numerics": 2,
        "orient": "ignore",
        "pooling": "none",
        "resize": "bilinear",
        "resize_mode": "stretch",
        "size": [SIZE, SIZE],
        "view": "identity",
    }


@pytest.mark.parametrize(
    "options",
    [("--size", "31"), ("--resize", "nearest"), ("--view", "hflip"), ("--resize-mode", "crop")],
)
def test_what_changes_images_misses(extract: Command, options: tuple[str, str]) -> None:
    extract(*SIZED, model="none", layers="pixels")
    answer = extract(*SIZED, *options, model="none", layers="pixels")
    assert answer.figures["computed"] == 12


def test_mirrored_images_are_mirrored(
    extract: Command, photos: Path, out: Path, tmp_path: Path
) -> None:
    extract("--view", "hflip", layers="pixels,first")
    np.testing.assert_array_equal(read_plain(out, "pixels"), decode(photos, out)[:, :, ::-1])
    extract(layers="first", out=tmp_path / "plain.h5")
    assert not np.array_equal(read_plain(out, "first"), read_plain(tmp_path / "plain.h5", "first"))


def test_an_application_is_not_built_for_its_images(photos: Path, tmp_path: Path) -> None:
    options = ("--images", photos, "--backbone", "vgg16", "--layers", "pixels", "--size", SIZE)
    places = ("--cache", tmp_path / "cache", "--out", tmp_path / "features.h5")
    arguments = list(map(str, ("extract", *options, *places)))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_KERAS, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert read_plain(tmp_path / "features.h5", "pixels").shape == (12, SIZE, SIZE, 3)
    for command in ("extract", "plan"):
        again = run_lightly(command, *options, *places)
        assert again.returncode == 0, again.stderr


def test_only_the_images_that_a_network_lacks_go_through_it(
    extract: Command, photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(layers="first")
    (photos / "china/0000.jpg").unlink()
    before = extract(layers="first").figures
    with monkeypatch.context() as patch:
        patch.setattr(program, "_build_network", None)  # so that building one is an error
        both = extract(layers="first,pixels").figures
    assert (before["computed"], both["computed"]) == (0, 11)
    np.testing.assert_array_equal(read_plain(out, "pixels"), decode(photos, out))


@pytest.mark.parametrize("options", [("--compression", "zstd"), ("--materialize",)])
def test_images_are_compressed_and_copied_as_features_are(
    extract: Command, photos: Path, out: Path, options: tuple[str, ...]
) -> None:
    pytest.importorskip("hdf5plugin")
    extract(*SIZED, *options, model="none", layers="pixels")
    with open_features(out) as features:
        found = features.to_numpy("pixels")
    np.testing.assert_array_equal(found, decode(photos, out))


def test_upkeep_knows_images(
    extract: Command, command: Command, photos: Path, out: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    extract(*SIZED, model="none", layers="pixels", images=photos / "china")
    extract(*SIZED, model="none", layers="pixels", out=tmp_path / "all.h5")
    options = ("--images", photos, "--backbone", "none", *SIZED, "--layers", "pixels")
    plan = command("plan", *options, "--cache", cache, "--json")
    assert plan.figures["layers"][0]["rows_cached"] == 12
    checked = command("verify", "--cache", cache, "--sample", "1", "--json").figures
    assert (checked["sample"]["rows"], checked["damaged"]) == (12, [])
    assert command("compact", "--cache", cache, "--json").status == 0
    assert len(find_shards(cache)) == 1
    (shard,) = map(Path, find_shards(cache))
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    assert command("verify", "--cache", cache).status == 3
    assert command("repair", "--cache", cache).status == 0
    assert extract(*SIZED, model="none", layers="pixels").figures["computed"] > 0
    np.testing.assert_array_equal(read_plain(out, "pixels"), decode(photos, out))
    assert command("gc", "--cache", cache, "--unused-by", out).status == 0
    assert find_shards(cache)


@pytest.mark.parametrize(
    ("options", "layers", "said"),
    [
        ((), "pixels", "--backbone none has no size of its own; say it, as with --size 32"),
        (("--size", "32"), "pixels:avg", "'pixels:avg': images are kept as they are"),
        (("--size", "32"), "pixel", "did you mean 'pixels'?"),
        (("--size", "32"), "block4_pool", "unknown layer 'block4_pool' of none; there are: pixels"),
    ],
)
def test_what_images_cannot_give_is_one_line(
    extract: Command, options: tuple[str, ...], layers: str, said: str
) -> None:
    answer = extract(*options, model="none", layers=layers)
    assert answer.status == 2
    assert said in answer.err
    assert answer.err.count("\n") == 1


def test_a_network_with_a_layer_of_that_name_is_refused(
    extract: Command, command: Command, tmp_path: Path
) -> None:
    import keras

    file = tmp_path / "own.keras"
    layers = [
        keras.layers.Input((SIZE, SIZE, 3)),
        keras.layers.Conv2D(2, 3, name="pixels"),
        keras.layers.Conv2D(2, 3, name="after"),
    ]
    keras.Sequential(layers, name="mobilenet_own").save(file)
    answer = extract(model=file, layers="pixels")
    assert answer.status == 2
    assert "has a layer of its own called 'pixels'" in answer.err
    assert extract(model=file, layers="after").status == 0
    listed = command("layers", file, "--json").figures["layers"]
    assert [one["name"] for one in listed] == ["pixels", "after"]
    assert listed[0]["shape"] == [SIZE - 2, SIZE - 2, 2]


def test_layers_lists_images_first(command: Command, backbone: Path) -> None:
    listed = command("layers", backbone, "--json").figures["layers"]
    assert list(listed[0].values())[:3] == ["pixels", [SIZE, SIZE, 3], SIZE * SIZE * 3]
    alone = command("layers", "none", "--size", "28x20", "--json").figures["layers"]
    assert [list(one.values())[:3] for one in alone] == [["pixels", [28, 20, 3], 28 * 20 * 3]]


def test_grey_networks_have_grey_images(
    extract: Command, photos: Path, out: Path, tmp_path: Path
) -> None:
    import keras

    file = tmp_path / "grey.keras"
    layers = [keras.layers.Input((SIZE, SIZE, 1)), keras.layers.Conv2D(2, 3, name="after")]
    keras.Sequential(layers, name="mobilenet_grey").save(file)
    figures = ("--preprocess", "mean=120,std=60")
    assert extract(*figures, model=file, layers="pixels,after").figures["computed"] == 12
    pixels = read_plain(out, "pixels")
    assert pixels.shape == (12, SIZE, SIZE, 1)
    network = keras.models.load_model(file, compile=False)
    expected = network.predict((pixels.astype(np.float32) - 120) / 60, verbose=0)
    np.testing.assert_allclose(read_plain(out, "after"), expected, atol=1e-4)
    assert extract(*SIZED, model="none", layers="pixels").figures["computed"] == 12
