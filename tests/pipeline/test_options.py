"""What a user may ask for, read and written."""

from __future__ import annotations

import json

import pytest

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.parsers import parse_bytes, parse_size


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("4GB", 4_000_000_000),
        ("500MB", 500_000_000),
        ("1.5g", 1_500_000_000),
        ("123", 123),
        ("4GiB", 4 * 1024**3),
        ("2 KiB", 2048),
        ("1TB", 10**12),
    ],
)
def test_amounts_of_memory_read_as_people_write_them(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "4XB", "1.2.3GB", "four"])
def test_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(PipelineError, match="write it as 4GB"):
        parse_bytes(text)


def test_a_size_is_height_first() -> None:
    assert (parse_size("224"), parse_size("224x320")) == ((224, 224), (224, 320))


@pytest.mark.parametrize("text", ["0", "x224", "224x", "224x0", "-1", "big"])
def test_no_size_is_refused(text: str) -> None:
    with pytest.raises(PipelineError, match="write it as 224"):
        parse_size(text)


def test_a_folder_called_like_a_backbone_does_not_become_one(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vgg16", "imagenet"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    written = json.loads(FeatureOptions(backbone="vgg16", layers=("fc1",)).to_json())
    assert (written["backbone"], written["weights"]) == ("vgg16", "imagenet")


def test_options_survive_the_round_trip() -> None:
    options = FeatureOptions(
        backbone="mobilenet(alpha=0.25)", layers=("a:avg", "b"), size=(96, 128), view="hflip"
    )
    assert FeatureOptions.from_json(options.to_json()) == options


def test_features_of_keras_are_read_on_the_backend_that_computed_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = FeatureOptions(backbone="vgg16", layers=("fc1",), engine="keras")
    monkeypatch.setattr("permafrost.pipeline.options.find_keras_backend", lambda: "jax")
    written = options.to_json()
    assert json.loads(written)["engine"] == "keras-jax"
    assert FeatureOptions.from_json(written) == options
    monkeypatch.setattr("permafrost.pipeline.options.find_keras_backend", lambda: "torch")
    with pytest.raises(PipelineError, match=r"on jax, .* set to torch; set KERAS_BACKEND=jax"):
        FeatureOptions.from_json(written)
