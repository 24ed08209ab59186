"""Heads fitted on digits."""

from __future__ import annotations

import pytest

from tests.helpers.digits import digit_labels, write_view
from tests.helpers.views import LAYER


@pytest.fixture(scope="session")
def view(tmp_path_factory):
    return write_view(tmp_path_factory.mktemp("digits") / "features.h5", labels=digit_labels())


@pytest.fixture
def fit(command, tmp_path):
    """Fit a logistic regression; returns the metrics that were printed."""

    def call(features, *options, out=tmp_path / "out", layer=LAYER):
        answer = command(
            *("fit", "--features", features, "--layer", layer, "--head", "logreg"),
            *("--out", out, "--json", *options),
        )
        return answer.figures

    return call


@pytest.fixture
def refused(command, tmp_path):
    """Call something wrong; returns the one line that was answered."""

    def call(*arguments, status=2):
        answer = command(*arguments)
        assert (answer.status, answer.out) == (status, "")
        assert answer.err.startswith("permafrost: ") and answer.err.count("\n") == 1
        return answer.err

    return call


@pytest.fixture
def refused_fit(refused, tmp_path):
    def call(features, *options, layer=LAYER, head="logreg", out=tmp_path / "out", status=2):
        arguments = ("--features", features, "--layer", layer, "--head", head, "--out", out)
        return refused("fit", *arguments, *options, status=status)

    return call
