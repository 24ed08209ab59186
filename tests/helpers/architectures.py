"""One Keras Application of each architecture, for tests that hold for all of them."""

from __future__ import annotations

import pytest

# One of each function that builds a graph; the others pass it numbers.
_BUILDS = (
    "convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_b0 inception_resnet_v2 inception_v3"
    " mobilenet mobilenet_v2 mobilenet_v3_small nasnet_mobile resnet50 resnet50_v2 vgg16 vgg19"
    " xception"
)
_HEAVY = {
    "densenet121",
    "inception_resnet_v2",
    "inception_v3",
    "nasnet_mobile",
    "efficientnet_v2_b0",
}
EVERY_ARCHITECTURE = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in _HEAVY else name
        for name in _BUILDS.split()
    ],
)
