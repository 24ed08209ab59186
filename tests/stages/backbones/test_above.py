"""Cuts, and what of a network lies above one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from permafrost.stages.backbones.above import build_above, find_cuts
from permafrost.stages.backbones.calls import Call
from permafrost.stages.backbones.network import KerasNetwork
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.frameworks.start import start_tensorflow

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.float32)


def make_call(name: str, *sources: str) -> Call:
    return Call(name=name, kind="Layer" if sources else "InputLayer", sources=sources)


def list_ways(calls: list[Call], name: str) -> list[set[str]]:
    """List all ways from the input to a call, each as the set of what it passes."""
    call = next(one for one in calls if one.name == name)
    if not call.sources:
        return [{name}]
    return [way | {name} for source in call.sources for way in list_ways(calls, source)]


def test_cuts_are_what_every_way_passes() -> None:
    for seed in range(300):
        random_ = random.Random(seed)
        calls = [make_call("0")]
        for number in range(1, random_.randint(2, 9)):
            # Mostly one after the other, as networks are.
            sources = {str(number - 1)} if random_.random() < 0.7 else set()
            sources |= {str(random_.randrange(number))} if random_.random() < 0.5 else set()
            calls.append(make_call(str(number), *(sources or {str(number - 1)})))
        last = calls[-1].name
        passed = set.intersection(*list_ways(calls, last)) - {"0"}
        assert find_cuts(calls, last) == sorted(passed, key=int), calls


@pytest.fixture(scope="module")
def network() -> KerasNetwork:
    start_tensorflow()
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3), name="image")
    stem = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    side = layers.BatchNormalization(name="side")(stem)
    joined = layers.Add(name="joined")([stem, side])
    last = layers.Conv2D(5, 3, name="last")(keras.ops.relu(joined))
    flat = layers.GlobalAveragePooling2D(name="flat")(last)
    return KerasNetwork(keras.Model(image, layers.Dense(7, name="classes")(flat), name="small"))


def build(network: KerasNetwork, layer: str, until: str = "") -> Any:
    cuts = network.list_cuts()
    return build_above(network.model, cuts, layer, until=until, preprocess_mode="tf")


@pytest.mark.parametrize("layer", ["stem", "joined"])
@pytest.mark.parametrize("until", ["", "flat", "classes"])
def test_above_a_cut_is_the_rest_of_the_network(
    network: KerasNetwork, layer: str, until: str
) -> None:
    import keras

    model = network.model
    maps = keras.Model(model.inputs, model.get_layer(layer).output)(IMAGES)
    expected = keras.Model(model.inputs, model.get_layer(until or "last").output)(IMAGES)
    assert build(network, layer, until)(maps).numpy() == pytest.approx(expected.numpy(), rel=1e-6)


def test_above_the_pixels_is_all_of_it_with_its_preprocessing(network: KerasNetwork) -> None:
    import keras

    model = network.model
    expected = keras.Model(model.inputs, model.get_layer("last").output)(IMAGES / 127.5 - 1)
    found = build(network, "pixels")(IMAGES / np.float32(255)).numpy()
    assert found == pytest.approx(expected.numpy(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("layer", "until", "kind", "message"),
    [
        ("side", "", InputError, "not everything in small passes the layer 'side'.*: stem, joined"),
        ("stemm", "", UnknownNameError, "did you mean 'stem'"),
        ("last", "", InputError, "no layer of small is left to train between 'last' and 'last'"),
        ("stem", "side", InputError, "not everything in small passes the layer 'side'"),
    ],
)
def test_what_is_no_cut_names_the_nearest(
    network: KerasNetwork, layer: str, until: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        build(network, layer, until)
