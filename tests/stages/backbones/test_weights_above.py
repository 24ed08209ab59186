"""How many weights lie above a layer, counted as Keras counts those of whole and part."""

from __future__ import annotations

import pytest

from permafrost.stages.backbones.network import KerasNetwork


@pytest.fixture(scope="module")
def model():
    """Two branches that meet twice, a nested model, and a classifier."""
    from permafrost.stages.frameworks.start import start_keras

    start_keras()
    import keras
    from keras import layers

    inputs = keras.Input((16, 16, 3))
    stem = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    left = layers.BatchNormalization(name="left")(stem)
    right = layers.Conv2D(4, 1, name="right")(stem)
    joined = layers.Add(name="joined")([left, right])
    inner = keras.Sequential(
        [keras.Input((16, 16, 4)), layers.Conv2D(5, 3, name="deep")], name="inner"
    )
    pooled = layers.GlobalAveragePooling2D(name="pooled")(inner(joined))
    return keras.Model(inputs, layers.Dense(7, name="classes")(pooled))


def test_the_weights_above_a_cut_are_those_of_the_whole_without_the_part_below(model):
    import keras

    network = KerasNetwork(model)
    network.size = (16, 16)
    card = network.describe()
    n_features = model.count_params() - model.get_layer("classes").count_params()
    for name in ("stem", "joined", "inner"):
        below = keras.Model(model.inputs, model.get_layer(name).output)
        assert card.count_above(name) == n_features - below.count_params()
    assert card.count_above("pixels") == n_features
    assert card.count_above("classes") == card.count_above("pooled") == 0
    assert card.count_above("no such layer") is None
    assert type(card).from_json(card.to_json()) == card
