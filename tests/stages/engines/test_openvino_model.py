"""A model that was kept gives the bits of the one that was converted, or it is converted again."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from permafrost.stages.frameworks.start import start_tensorflow

pytest.importorskip("openvino")
start_tensorflow()

import keras  # noqa: E402
from keras import layers as kl  # noqa: E402
from sklearn.datasets import load_sample_image  # noqa: E402

from permafrost.stages.backbones.layers import parse_layer_specs  # noqa: E402
from permafrost.stages.backbones.network import KerasNetwork, Network  # noqa: E402
from permafrost.stages.engines.openvino_engine import OpenVinoProgram  # noqa: E402
from permafrost.stages.engines.program import ProgramSpec  # noqa: E402

SIDE = 32
# Two are of one shape, behind what moves axes: converting changes the order of the outputs.
SPECS = "last:avg,last:max,norm:flatten,last,depthwise"


@dataclass(slots=True)
class Shelf:
    """A place in memory, as `Keep` says."""

    values: NDArray[np.uint8] | None = None
    n_saved: int = 0

    def load(self) -> NDArray[np.uint8] | None:
        return None if self.values is None else self.values.copy()

    def save(self, values: NDArray[np.uint8]) -> None:
        self.values = values.copy()
        self.n_saved += 1


@pytest.fixture(scope="module")
def network() -> KerasNetwork:
    keras.utils.set_random_seed(0)
    image = keras.Input((SIDE, SIDE, 3))
    norm = kl.BatchNormalization(name="norm")(kl.Conv2D(5, 3, bias_initializer="uniform")(image))
    depthwise = kl.DepthwiseConv2D(3, name="depthwise")(kl.Activation("gelu")(norm))
    pooled = kl.MaxPooling2D(data_format="channels_first")(kl.Permute((3, 1, 2))(depthwise))
    network = KerasNetwork(keras.Model(image, kl.ReLU(name="last")(pooled)))
    network.size = (SIDE, SIDE)
    return network


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    china = load_sample_image("china.jpg")
    return np.stack([china[n : n + SIDE, 3 * n : 3 * n + SIDE] for n in range(0, 56, 8)])


def refuse_load() -> Network:
    pytest.fail("the network is loaded")


def build(network: KerasNetwork, shelf: Shelf | None, **options: str) -> OpenVinoProgram:
    layers = tuple(parse_layer_specs(SPECS))
    spec = ProgramSpec(layers=layers, **{"preprocess": "caffe", **options})  # type: ignore[arg-type]
    known = shelf is not None and shelf.values is not None and shelf.n_saved > 0
    return OpenVinoProgram(refuse_load if known else lambda: network, spec, shelf)


@contextmanager
def limiting_files(n_bytes: int) -> Iterator[None]:
    """Let the kernel refuse larger files, as on a full disk; Python ignores SIGXFSZ."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("view", ["identity", pytest.param("hflip", marks=pytest.mark.slow)])
def test_a_kept_model_gives_the_same_bits_without_the_network(
    network: KerasNetwork, pixels: NDArray[np.uint8], precision: str, view: str
) -> None:
    shelf, options = Shelf(), {"precision": precision, "view": view}
    expected = build(network, None, **options)(pixels)
    first = build(network, shelf, **options)(pixels)
    second = build(network, shelf, **options)(pixels)
    assert shelf.n_saved == 1
    for ours, theirs, plain in zip(first, second, expected, strict=True):
        assert ours.shape == plain.shape
        np.testing.assert_array_equal(ours, plain)
        np.testing.assert_array_equal(theirs, plain)


@pytest.mark.slow
def test_what_is_not_all_of_a_model_is_converted_again(
    network: KerasNetwork, pixels: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf()
    expected, sound = build(network, shelf)(pixels), shelf.load()
    assert sound is not None
    stumps = [sound[:5], sound[:-1], sound[8:], sound * 0]
    for stump in stumps:
        caplog.clear()
        shelf = Shelf(stump)
        for ours, theirs in zip(build(network, shelf)(pixels), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert "converted again" in caplog.text
        assert shelf.n_saved == 1


@pytest.mark.slow
def test_where_there_is_no_room_for_temporary_files_nothing_fails_and_nothing_is_kept(
    network: KerasNetwork, pixels: NDArray[np.uint8]
) -> None:
    expected = build(network, None)(pixels)
    # Of the weights alone, as of the graph, only the beginning fits.
    for n_bytes in (100, 10_000):
        shelf = Shelf()
        with limiting_files(n_bytes):
            program = build(network, shelf)
        assert shelf.values is None
        for ours, theirs in zip(program(pixels), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
