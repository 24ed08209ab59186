"""Backbones of images with more channels than three, from folders of arrays, pages and RGBA."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from permafrost.pipeline.cli.main import main
from tests.helpers.pictures import encode, photo, with_alpha

SIDE = 32


def make_images(n_channels):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (8, SIDE, SIDE, n_channels), np.uint8)


def save_model(file, n_channels):
    from permafrost.stages.frameworks.start import start_tensorflow

    start_tensorflow()
    import keras

    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((SIDE, SIDE, n_channels)),
        keras.layers.Conv2D(5, 3, activation="relu", name="first"),
        keras.layers.Conv2D(4, 3, strides=2, name="last"),
    ]
    model = keras.Sequential(layers, name="bands")
    model.save(file)
    return model


def run(*arguments):
    assert main([*map(str, arguments)]) == 0


def read(file, layer):
    with h5py.File(file) as opened:
        return opened["images/path"].asstr()[()].tolist(), opened[f"features/{layer}"][()]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_arrays(images):
    for number, image in enumerate(images):
        Path(f"x/{'ab'[number % 2]}").mkdir(parents=True, exist_ok=True)
        np.save(f"x/{'ab'[number % 2]}/{number}.npy", image)
    return [*images[::2], *images[1::2]]


def test_a_folder_of_arrays_gives_what_keras_gives_and_fits_and_predicts(folder):
    ordered = np.stack(write_arrays(make_images(6)))
    model = save_model("m.keras", 6)
    common = ["--backbone", "m.keras", "--layers", "last,pixels", "--cache", "c"]
    run("extract", "--images", "x", *common, "--preprocess", "none", "--out", "f.h5")
    paths, values = read("f.h5", "last")
    assert paths == [f"{'ab'[n % 2]}/{n}.npy" for n in (0, 2, 4, 6, 1, 3, 5, 7)]
    expected = model.predict(ordered.astype(np.float32), verbose=0)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(read("f.h5", "pixels")[1], ordered)
    run("fit", "--features", "f.h5", "--layer", "last", "--head", "logreg", "--out", "r")
    run("predict", "--model", "r", "--images", "x", "--out", "p.csv", "--cache", "c")


def test_figures_of_ones_own_are_one_for_each_channel(folder):
    write_arrays(make_images(2))
    model = save_model("m.keras", 2)
    common = ["--backbone", "m.keras", "--layers", "first:avg", "--cache", "c", "--out", "f.h5"]
    run("extract", "--images", "x", *common, "--preprocess", "mean=10,20,std=3,4")
    _, values = read("f.h5", "first:avg")
    import keras

    first = keras.Model(model.inputs, model.get_layer("first").output)
    images = make_images(2)
    ordered = np.concatenate([images[::2], images[1::2]]).astype(np.float32)
    expected = first.predict((ordered - [10, 20]) / [3, 4], verbose=0).mean((1, 2))
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    wrong = ["extract", "--images", "x", *common, "--preprocess", "mean=1,2,3"]
    assert main(wrong) == 2


def test_pages_and_alpha_are_four_channels_and_other_files_are_failures(folder):
    Path("x").mkdir()
    planes = [Image.fromarray(plane) for plane in np.moveaxis(make_images(4)[0], -1, 0)]
    pages = encode(planes[0], "TIFF", save_all=True, append_images=planes[1:])
    Path("x/a.tif").write_bytes(pages)
    Path("x/b.png").write_bytes(encode(with_alpha("RGB").resize((SIDE, SIDE)), "PNG"))
    Path("x/c.tif").write_bytes(encode(photo().convert("I"), "TIFF"))
    save_model("m.keras", 4)
    run(
        *("extract", "--images", "x", "--backbone", "m.keras", "--layers", "pixels"),
        *("--preprocess", "none", "--cache", "c", "--out", "f.h5"),
    )
    paths, pixels = read("f.h5", "pixels")
    assert paths == ["a.tif", "b.png"]
    np.testing.assert_array_equal(pixels[0], make_images(4)[0])
    np.testing.assert_array_equal(pixels[1], np.asarray(Image.open("x/b.png")))
    assert "no agreed white" in Path("f.h5.failures.csv").read_text()


def test_arrays_among_images_are_left_out_as_other_files_are(folder, caplog):
    write_arrays(make_images(3))
    Path("x/a/photo.png").write_bytes(encode(photo(), "PNG"))
    run("index", "x", "--out", "m.csv")
    assert ".npy (8)" in caplog.text
    assert len(Path("m.csv").read_text().splitlines()) == 2
