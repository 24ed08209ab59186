"""``file://`` means the same in Python as on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from permafrost import BackboneFeatures
from permafrost.cache.views.features import Features
from tests.helpers.answers import Command


def test_a_file_url_is_the_file_in_python_too(
    extract: Command, photos: Path, backbone: Path, tmp_path: Path
) -> None:
    odd = photos.rename(tmp_path / "my photos")
    assert extract(images=odd.as_uri(), layers="last:avg").figures["computed"] == 12
    with Features(tmp_path / "features.h5") as features:
        paths, expected = features.paths, features.read("last:avg")
    transformer = BackboneFeatures(str(backbone), "last:avg", cache_dir=tmp_path / "cache")
    for urls in (
        [(odd / path).as_uri() for path in paths],
        [f"file://{odd}/{path}" for path in paths],
        [str(odd / path) for path in paths],
    ):
        np.testing.assert_array_equal(transformer.fit_transform(urls), expected)
