"""A ``features.h5`` with several layers, and the command that sweeps over them."""

from __future__ import annotations

import pytest

from tests.helpers.sweeps import HALVES, LABELS, MAPS, PIXELS, SPLITS
from tests.helpers.views import write_features


@pytest.fixture(scope="session")
def view(tmp_path_factory):
    layers = {"late:avg": PIXELS, "early:avg": HALVES, "maps": MAPS}
    path = tmp_path_factory.mktemp("sweep") / "features.h5"
    return write_features(path, layers, labels=LABELS, splits=SPLITS)


@pytest.fixture
def sweep(command, tmp_path):
    """Call ``sweep``; returns what ``--json`` printed."""

    def call(features, *options, out=tmp_path / "out", jobs=1):
        files = features if isinstance(features, list) else [features]
        named = [text for file in files for text in ("--features", file)]
        answer = command("sweep", *named, "--out", out, "--jobs", jobs, "--json", *options)
        assert answer.status == 0, answer.err
        return answer.figures

    return call
