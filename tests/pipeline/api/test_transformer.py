"""Backbones inside scikit-learn, against plain Keras and plain scikit-learn."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import permafrost
from permafrost import BackboneFeatures
from permafrost.pipeline.errors import PipelineError, UnreadableError
from permafrost.stages.errors import InputError, UnknownNameError
from tests.helpers.answers import Command
from tests.helpers.inputs import write_model

LAYER = "last:avg"
Make = Callable[..., BackboneFeatures]


@pytest.fixture
def make(backbone: Path, tmp_path: Path) -> Make:
    """Make a transformer with the small backbone and this test's cache."""

    def call(layer: str = LAYER, **options: Any) -> BackboneFeatures:
        chosen = {"backbone": backbone, "cache_dir": tmp_path / "cache", **options}
        return BackboneFeatures(layer=layer, **chosen)

    return call


@pytest.fixture
def paths(photos: Path) -> list[Path]:
    return sorted(photos.glob("*/*.jpg"))


@pytest.fixture
def classes(paths: list[Path]) -> list[str]:
    return [path.parent.name for path in paths]


@pytest.fixture
def forbid_computing(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(
        "permafrost.pipeline.computing.compute.compute_missing", None
    )


def compute_with_keras(backbone: Path, paths: list[Path], layer: str) -> np.ndarray:
    import keras

    model = keras.models.load_model(backbone)
    cut = keras.Model(model.inputs, model.get_layer(layer).output)
    images = [
        keras.utils.img_to_array(
            keras.utils.load_img(path, target_size=(32, 32), interpolation="bilinear")
        )
        for path in paths
    ]
    pixels = keras.applications.mobilenet.preprocess_input(np.stack(images))
    maps: np.ndarray = cut.predict(pixels, verbose=0)
    return maps


def list_shards(cache: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in cache.rglob("shard-*.h5")}


def test_rows_are_those_of_plain_keras_in_the_order_of_x(
    make: Make, backbone: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(paths[0].parent)
    shuffled = [paths[7], paths[0], paths[7], paths[11]]
    named = [str(paths[7]), Path(paths[0].name), f"../{paths[7].parent.name}/0001.jpg", paths[11]]
    rows = make().fit_transform(named)
    expected = compute_with_keras(backbone, shuffled, "last").mean(axis=(1, 2))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_layer_that_is_not_pooled_is_flattened_to_float32(
    make: Make, backbone: Path, paths: list[Path], dtype: str
) -> None:
    rows = make("first", dtype=dtype).fit_transform(np.array(paths[:3]))
    expected = compute_with_keras(backbone, paths[:3], "first").reshape(3, -1)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-3)


def test_what_the_command_line_computed_is_not_computed_again(
    extract: Command, make: Make, paths: list[Path], forbid_computing: Callable[[], None]
) -> None:
    extract(layers="first,last:avg")
    forbid_computing()
    assert make().fit_transform(paths).shape == (12, 16)
    assert make("first").fit_transform(paths).shape == (12, 15 * 15 * 8)


def test_what_was_computed_once_is_read_in_any_order_and_from_any_folder(
    make: Make, paths: list[Path], forbid_computing: Callable[[], None], tmp_path: Path
) -> None:
    first = make().fit_transform(paths)
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(paths[2].read_bytes())
    forbid_computing()
    again = make().fit_transform([*reversed(paths), copy])
    np.testing.assert_array_equal(again, np.concatenate([first[::-1], first[2:3]]))


def test_images_that_come_one_by_one_build_the_program_once(
    make: Make, paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from permafrost.stages.engines.tensorflow_engine import TensorFlowProgram

    built, build = [], TensorFlowProgram.__init__
    monkeypatch.setattr(
        TensorFlowProgram,
        "__init__",
        lambda *args, **kwargs: (built.append(args), build(*args, **kwargs))[1],
    )
    make("first:max").fit_transform(paths[:1])  # Whatever earlier tests left.
    built.clear()
    rows = [make().fit_transform([path]) for path in paths[:4]]
    assert len(built) == 1
    assert len(list_shards(tmp_path / "cache")) == 5
    whole = make(cache_dir=tmp_path / "other").fit_transform(paths[:4])
    np.testing.assert_allclose(np.concatenate(rows), whole, rtol=1e-5, atol=1e-6)


def test_a_search_in_two_processes_equals_plain_scikit_learn_and_computes_nothing_again(
    make: Make, backbone: Path, paths: list[Path], classes: list[str], tmp_path: Path
) -> None:
    layers = ["first:avg", "last:avg"]
    for layer in layers:
        make(layer).fit_transform(paths)
    before = list_shards(tmp_path / "cache")
    steps = (StandardScaler(), LogisticRegression())
    strengths = {"logisticregression__C": [1e-4, 1.0]}
    grid = {"backbonefeatures__layer": layers, **strengths}
    found = GridSearchCV(make_pipeline(make(), *steps), grid, cv=3, n_jobs=2).fit(paths, classes)
    expected = [
        GridSearchCV(make_pipeline(*steps), strengths, cv=3)
        .fit(compute_with_keras(backbone, paths, layer[:-4]).mean(axis=(1, 2)), classes)
        .cv_results_["mean_test_score"]
        for layer in layers
    ]
    np.testing.assert_allclose(found.cv_results_["mean_test_score"], np.concatenate(expected))
    assert len(before) == 2
    assert list_shards(tmp_path / "cache") == before


@pytest.mark.parametrize("content", [b"no image", None])
def test_a_broken_image_is_named_and_the_remedy_too(
    make: Make, paths: list[Path], content: bytes | None, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    if content:
        broken.write_bytes(content)
    with pytest.raises(UnreadableError) as caught:
        make().fit_transform([paths[0], broken])
    assert re.fullmatch(
        rf"cannot read '{re.escape(str(broken))}': [^;]+; on_error=\"nan\" makes it a row of NaN",
        str(caught.value),
    )
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.slow
def test_errors_survive_the_way_back_from_the_processes_of_a_search(
    make: Make, paths: list[Path], classes: list[str], tmp_path: Path
) -> None:
    model = make_pipeline(make(), LogisticRegression())
    grid = {"backbonefeatures__layer": ["lost:avg"]}
    search = GridSearchCV(model, grid, cv=2, n_jobs=2, error_score="raise")
    with pytest.raises(InputError, match="unknown layer 'lost'"):
        search.fit(paths, classes)
    for path in paths[:2] + paths[-2:]:
        path.write_bytes(b"no image")
    with pytest.raises(UnreadableError, match=r'cannot read .*: not an image.*on_error="nan"'):
        search.set_params(param_grid={"logisticregression__C": [1]}).fit(paths, classes)


def test_a_broken_image_may_be_a_row_of_nan_that_shifts_no_other(
    make: Make, paths: list[Path], tmp_path: Path
) -> None:
    sound = make().fit_transform(paths[:2])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"2 of 4 images .*broken\.jpg"):
        rows = make(on_error="nan").fit_transform([paths[0], broken, "missing.jpg", paths[1]])
    assert np.isnan(rows[1:3]).all()
    np.testing.assert_array_equal(rows[[0, 3]], sound)


def test_images_that_are_all_broken_are_rows_of_nan(make: Make, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="2 of 2"):
        rows = make(on_error="nan").fit_transform([tmp_path / "a.jpg", tmp_path / "b.jpg"])
    assert rows.shape == (2, 16)
    assert np.isnan(rows).all()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("a.jpg", "one path 'a.jpg'; write it as a list"),
        (np.array([["a.jpg"], ["b.jpg"]]), "2 axes"),
        (["a.jpg", float("nan")], r"X\[1\] is nan"),
        ([], "empty"),
        (iter(["a.jpg"]), r"read only once; write list\(X\)"),
    ],
)
def test_what_is_no_list_of_paths_is_refused(make: Make, images: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make().fit(images)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer": "lost:avg"}, "did you mean 'last'"),
        ({"on_error": "skip"}, "unknown on_error 'skip'"),
        ({"view": "flip"}, "did you mean 'vflip' or 'hflip'"),
    ],
)
def test_a_wrong_option_is_refused_before_any_image_is_read(
    make: Make, options: dict[str, str], words: str
) -> None:
    with pytest.raises(UnknownNameError, match=words):
        make(**options).fit(["nowhere.jpg"])


def test_several_views_are_several_transformers(make: Make) -> None:
    with pytest.raises(InputError, match=r"view is 'identity,hflip'; give one, and stack"):
        make(view="identity,hflip").fit(["nowhere.jpg"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer": 3}, "layer is 3; give a name"),
        ({"batch_size": 0}, "batch_size is 0; give a number"),
        ({"batch_size": "auto"}, "batch_size is 'auto'; give a number"),
        ({"size": 32.5}, "cannot read '32.5' as a size"),
        ({"size": (32, 32, 3)}, "cannot read '32x32x3' as a size"),
        ({"memory": "lots"}, "cannot read 'lots' as an amount of memory"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_before_any_image_is_read(
    make: Make, options: dict[str, Any], words: str
) -> None:
    with pytest.raises((InputError, PipelineError), match=words):
        make(**options).fit(["nowhere.jpg"])


def test_sizes_may_be_of_numpy(make: Make, paths: list[Path]) -> None:
    expected = make().fit(paths).recipe_
    for size in (np.int64(32), (32, 32), [np.int32(32)]):
        assert make(size=size).fit(paths).recipe_ == expected


def test_rows_of_other_weights_or_parameters_than_fitted_are_refused(
    make: Make, paths: list[Path], tmp_path: Path
) -> None:
    model = write_model(tmp_path / "mine.keras", seed=1)
    features = make(backbone=model).fit(paths)
    with pytest.raises(PipelineError, match="fit again"):
        features.set_params(view="hflip").transform(paths)
    features.set_params(view="identity").transform(paths)
    write_model(model, seed=2)
    with pytest.raises(PipelineError, match="fit again"):
        features.transform(paths)


def test_pandas_gets_a_column_a_feature(make: Make, paths: list[Path]) -> None:
    pandas = pytest.importorskip("pandas")
    features = make()
    rows = features.fit_transform(paths)
    table = features.set_output(transform="pandas").transform(pandas.Series(paths))
    assert list(table.columns) == [f"last:avg_{column}" for column in range(16)]
    np.testing.assert_array_equal(table.to_numpy(), rows)


def test_nothing_is_printed_unless_asked_for(
    make: Make, paths: list[Path], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make().fit_transform(paths)
    assert capfd.readouterr() == ("", "")
    make(verbose=True, cache_dir=tmp_path / "other").fit_transform(paths)
    assert "12/12 images" in capfd.readouterr().err


# scikit-learn's checks feed numbers. Drawn as images, all of them apply but these.
NOT_FOR_PATHS = {
    "check_n_features_in_after_fitting": "a list of paths has no features to count",
    "check_n_features_in": "a list of paths has no features to count",
    "check_transformer_general": "images of another size are fine: they are resized",
    "check_fit2d_predict1d": "images of another size are fine: they are resized",
    "check_fit1d": "one axis is what is wanted; what is drawn here has two",
    "check_complex_data": "there are no numbers to be complex",
    "check_estimators_nan_inf": "there are no numbers to be NaN",
    "check_estimator_sparse_tag": "paths are not sparse",
    "check_estimator_sparse_array": "paths are not sparse",
    "check_estimator_sparse_matrix": "paths are not sparse",
    "check_estimators_empty_data_messages": "the project's own error says that there are none",
}


class DrawnRows(BackboneFeatures):
    """Takes rows of numbers, and draws each as an image."""

    def fit(self, X: Any, y: object = None) -> DrawnRows:
        super().fit(draw(X))
        return self

    def transform(self, X: Any) -> np.ndarray:
        return super().transform(draw(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = False
        tags.input_tags.two_d_array = True
        return tags


def draw(X: Any) -> list[Path]:
    drawn = []
    for row in np.asarray(X, np.float64):
        pixels = np.frombuffer(row.tobytes(), np.uint8).reshape(len(row), -1)
        drawn.append(Path(f"{hashlib.sha256(row.tobytes()).hexdigest()}.png"))
        Image.fromarray(pixels).save(drawn[-1])
    return drawn


@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_scikit_learns_checks_pass_but_those_that_are_about_numbers(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = check_estimator(DrawnRows(str(backbone), LAYER), on_skip=None, on_fail=None)
    failed = {str(one["check_name"]) for one in results if one["status"] == "failed"}
    passed = {str(one["check_name"]) for one in results if one["status"] == "passed"}
    assert failed <= NOT_FOR_PATHS.keys()
    assert not passed & NOT_FOR_PATHS.keys()
    assert len(passed) >= 25


def test_the_example_of_the_documentation_runs(
    backbone: Path, photos: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    first, _, _ = str(permafrost.__doc__).partition("Features that are")
    example = "\n".join(re.findall(r"^    (.*)$", first, re.MULTILINE))
    assert '"vgg16", "block5_pool:avg"' in example
    names: dict[str, Any] = {}
    exec(example.replace('"vgg16", "block5_pool:avg"', f"{str(backbone)!r}, {LAYER!r}"), names)
    assert names["model"].predict(paths).tolist() == [path.parent.name for path in paths]
