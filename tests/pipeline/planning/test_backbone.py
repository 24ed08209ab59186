"""What is known of a backbone is of that backbone: its graph, its settings, its preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from permafrost.cache.store.index import Index
from permafrost.cache.views.features import Features
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.stages.errors import InputError
from permafrost.stages.frameworks.start import start_keras
from tests.helpers.answers import Command
from tests.helpers.inputs import write_model

SIZE = 32
CAFFE_MEAN = (103.939, 116.779, 123.68)


def write_scaled(file: Path, scale: Callable[[Any], Any], *, name: str = "mine") -> Path:
    """Save a network that scales its pixels by operations, always with the same weights."""
    start_keras()
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3), name="image")
    result = keras.layers.Conv2D(4, 3, strides=2, name="first")(scale(image))
    keras.Model(image, keras.layers.ReLU(name="last")(result), name=name).save(file)
    return file


def open_backbone(index: Index | None = None, **options: Any) -> Backbone:
    chosen: dict[str, Any] = {"layers": ("last",), "weights": "imagenet", **options}
    return Backbone(FeatureOptions(**chosen), index)


# The key


def read_last(folder: Path) -> np.ndarray:
    with Features(folder / "features.h5") as features:
        return features.read("last:avg")


def test_a_changed_constant_of_a_model_file_misses_the_cache(
    extract: Command, tmp_path: Path
) -> None:
    file = tmp_path / "mine.keras"
    options = ("--preprocess", "none")
    write_scaled(file, lambda x: x / 127.5 - 1)
    assert extract(*options, model=file).figures["computed"] == 12
    before = read_last(tmp_path)
    write_scaled(file, lambda x: x / 255 - 0.5)
    assert extract(*options, model=file).figures["computed"] == 12
    assert not np.allclose(read_last(tmp_path), before)
    write_scaled(file, lambda x: x / 127.5 - 1)
    assert extract(*options, model=file).figures["reused"] == 12


def test_predict_refuses_a_backbone_whose_constants_changed(
    extract: Command, command: Command, photos: Path, tmp_path: Path
) -> None:
    file = write_scaled(tmp_path / "mine.keras", lambda x: x / 127.5 - 1)
    extract("--preprocess", "none", "--split", "test=0.5", model=file, layers="last:avg")
    fitted = command(
        *("fit", "--features", tmp_path / "features.h5", "--layer", "last:avg"),
        *("--head", "logreg", "--out", tmp_path / "fit"),
    )
    assert fitted.status == 0, fitted.err
    predict = (
        *("predict", "--model", tmp_path / "fit", "--images", photos),
        *("--cache", tmp_path / "cache", "--out", tmp_path / "predictions.csv"),
    )
    assert command(*predict).status == 0
    write_scaled(file, lambda x: x / 255 - 0.5)
    refused = command(*predict)
    assert refused.status == 2
    assert "is no longer the one that the head was fitted on" in refused.err


@pytest.mark.parametrize(
    ("name", "value"), [("floatx", "float16"), ("image_data_format", "channels_first")]
)
def test_settings_of_keras_have_rows_of_their_own_with_a_warm_index(
    name: str, value: str, extract: Command, backbone: Path
) -> None:
    import keras

    assert extract(model=backbone).figures["computed"] == 12
    usual = getattr(keras.config, name)()
    getattr(keras.config, f"set_{name}")(value)
    try:
        for figure in ("computed", "reused"):
            assert extract(model=backbone).figures[figure] == 12
    finally:
        getattr(keras.config, f"set_{name}")(usual)
    assert extract(model=backbone).figures["reused"] == 12


def test_an_application_of_another_type_has_another_digest() -> None:
    import keras

    options = {"backbone": "mobilenet(alpha=0.25)", "weights": "random", "size": (SIZE, SIZE)}
    usual = open_backbone(**options, layers=("conv1",)).card
    keras.config.set_floatx("float16")
    try:
        other = open_backbone(**options, layers=("conv1",)).card
    finally:
        keras.config.set_floatx("float32")
    assert usual.layers["conv1"].digest != other.layers["conv1"].digest


# What the index remembers


def test_a_network_that_is_not_that_of_its_card_gives_no_row(tmp_path: Path) -> None:
    file = write_model(tmp_path / "mine.keras", seed=0)
    with Index(tmp_path / "index.sqlite") as index:
        _ = open_backbone(index, backbone=str(file)).card
        remembered = open_backbone(index, backbone=str(file))
        _ = remembered.card
        # Between planning and loading.
        write_model(file, seed=1)
        with pytest.raises(PipelineError, match="is not what it was when it was last looked at"):
            remembered.load()
        again = open_backbone(index, backbone=str(file))
        assert again.card.layers["last"].digest != remembered.card.layers["last"].digest
        assert again.load().digest_layers()["last"] == again.card.layers["last"].digest


def test_a_network_is_compared_once_and_one_that_was_described_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from permafrost.stages.backbones.network import KerasNetwork

    file = write_model(tmp_path / "mine.keras")
    real, asked = KerasNetwork.digest_layers, []

    def digest_layers(network: KerasNetwork) -> dict[str, str]:
        asked.append(network)
        return real(network)

    monkeypatch.setattr(KerasNetwork, "digest_layers", digest_layers)
    with Index(tmp_path / "index.sqlite") as index:
        for _ in range(2):
            backbone = open_backbone(index, backbone=str(file))
            _ = backbone.card, backbone.load(), backbone.load()
            assert len(asked) == 1
            asked.clear()


# Preprocessing


def scale_as_caffe(x: Any) -> Any:
    return x[..., ::-1] - np.array(CAFFE_MEAN, np.float32)


@pytest.mark.parametrize(
    ("name", "scale", "mode"),
    [
        ("resnet50_flowers", lambda x: x, "caffe"),
        ("mobilenet_1_0_224", lambda x: x, "tf"),
        ("efficientnetb0", lambda x: x / 255, "none"),
        ("MobileNetV3Small", lambda x: x / 127.5 - 1, "none"),
    ],
)
def test_auto_is_the_family_where_name_and_graph_agree(
    name: str, scale: Callable[[Any], Any], mode: str, tmp_path: Path
) -> None:
    file = write_scaled(tmp_path / "mine.keras", scale, name=name)
    assert open_backbone(backbone=str(file)).preprocess == mode


@pytest.mark.parametrize(
    ("name", "scale", "why"),
    [
        ("resnet50_flowers", lambda x: x / 255, ": its graph scales its input itself, unlike"),
        ("resnet50_flowers", scale_as_caffe, ": its graph scales its input itself, unlike"),
        ("efficientnetv2-b0", lambda x: x, ": its graph does not scale its input, unlike"),
        ("mine", lambda x: x / 255, "; say it"),
        ("mine", lambda x: x, "; say it"),
    ],
)
def test_auto_asks_where_it_would_be_a_guess(
    name: str, scale: Callable[[Any], Any], why: str, tmp_path: Path
) -> None:
    file = str(write_scaled(tmp_path / "mine.keras", scale, name=name))
    with pytest.raises(InputError, match=rf"'{name}'{why}.*--preprocess caffe\|tf\|torch\|none"):
        _ = open_backbone(backbone=file).preprocess
    assert open_backbone(backbone=file, preprocess="none").preprocess == "none"


@pytest.mark.parametrize(
    ("options", "mode"), [("", "none"), ("(include_preprocessing=False)", "tf")]
)
def test_auto_of_an_application_is_for_the_network_as_it_was_built(options: str, mode: str) -> None:
    backbone = open_backbone(
        backbone=f"mobilenet_v3_small{options}",
        weights="random", size=(SIZE, SIZE), layers=("activation",),
    )  # fmt: skip
    assert backbone.preprocess == mode


def test_a_whole_application_saved_as_a_file_is_preprocessed_as_before(tmp_path: Path) -> None:
    start_keras()
    import keras

    for function, mode in (("MobileNetV3Small", "none"), ("MobileNet", "tf")):
        file = tmp_path / f"{function}.keras"
        shape = (SIZE, SIZE, 3)
        model = getattr(keras.applications, function)(
            weights=None, input_shape=shape, include_top=False
        )
        model.save(file)
        layer = next(layer.name for layer in model.layers if "conv" in layer.name)
        assert open_backbone(backbone=str(file), layers=(layer,)).preprocess == mode


# Where channels are


def test_an_average_of_channels_that_come_first_is_derived_as_it_is_extracted(
    extract: Command, command: Command, tmp_path: Path
) -> None:
    start_keras()
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    moved = keras.layers.Permute((3, 1, 2))(keras.layers.Conv2D(5, 3, strides=2)(image))
    keras.Model(image, keras.layers.ReLU(name="last")(moved)).save(tmp_path / "mine.keras")
    scores = []
    for layers in ("last", "last:avg"):
        assert extract("--preprocess", "none", model=tmp_path / "mine.keras", layers=layers)
        with Features(tmp_path / "features.h5") as features:
            assert features.recipe(layers)["channel_axis"] == 1
        answer = command(
            *("fit", "--features", tmp_path / "features.h5", "--layer", "last:avg", "--cv", "2"),
            *("--head", "logreg", "--out", tmp_path / "head", "--json"),
        )
        scores.append(answer.figures["cv_log_loss_mean"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_recipes_of_networks_with_channels_last_say_nothing_of_it(
    extract: Command, tmp_path: Path
) -> None:
    assert extract().status == 0
    with Features(tmp_path / "features.h5") as features:
        assert "channel_axis" not in features.recipe("last:avg")


def test_a_network_of_integers_takes_pixels_as_they_are_and_nothing_else(tmp_path: Path) -> None:
    start_keras()
    import keras

    image = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    last = keras.layers.Rescaling(1 / 255, name="last")(image)
    keras.Model(image, last).save(tmp_path / "mine.keras")
    options = {"backbone": str(tmp_path / "mine.keras")}
    assert open_backbone(**options, preprocess="none").preprocess == "none"
    with pytest.raises(InputError, match="takes integers, and --preprocess caffe gives fractions"):
        _ = open_backbone(**options, preprocess="caffe").preprocess
