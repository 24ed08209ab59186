"""A transformer is a guest: what the process has set is as it was, whether it computes or not."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest

from permafrost import BackboneFeatures
from permafrost.stages.frameworks.start import start_tensorflow

start_tensorflow()
import keras  # noqa: E402

LOGGER = "distributed.scheduler"


def draw() -> list[float]:
    """Draw from each generator of the process, as whatever trains next does."""
    values = keras.ops.convert_to_numpy(keras.random.uniform((3,)))
    weights = keras.layers.Dense(2)
    weights.build((None, 3))
    return [
        random.random(),
        float(np.random.random()),
        *values.tolist(),
        *weights.get_weights()[0].ravel().tolist(),
    ]


@pytest.mark.parametrize("kind", ["a model file", "an application"])
def test_a_transformer_leaves_generators_policies_and_loggers_as_they_were(
    kind: str, backbone: Path, photos: Path, tmp_path: Path
) -> None:
    if kind == "a model file":
        model = BackboneFeatures(backbone, "last:avg", cache_dir=tmp_path / "cache")
    else:
        model = BackboneFeatures(
            "mobilenet(alpha=0.25)",
            "conv_pw_1_relu:avg",
            weights="random",
            size=32,
            cache_dir=tmp_path / "cache",
        )
    paths = sorted(photos.rglob("*.jpg"))
    level = logging.getLogger(LOGGER).level
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        keras.utils.set_random_seed(7)
        expected = draw()
        for _ in range(2):  # computed, and then from the cache
            keras.utils.set_random_seed(7)
            features = model.fit(paths).transform(paths)
            assert draw() == expected
            assert features.dtype == np.float32
            assert keras.config.dtype_policy().name == "mixed_bfloat16"
            assert logging.getLogger(LOGGER).level == level
    finally:
        keras.config.set_dtype_policy("float32")
