"""What changes a fit makes it be fitted anew, and nothing else does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from permafrost.pipeline.models.fit import find_fit, fit
from permafrost.pipeline.models.record import FitOptions
from permafrost.pipeline.tasks.task import TaskOptions
from permafrost.stages.evaluation import metrics
from permafrost.stages.heads import HEADS, registry
from tests.helpers.views import write_features

DIGITS = load_digits()
N = 400
SPLITS = np.array(["train", "test", "train", "train"] * (N // 4))


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digest") / "features.h5"
    values = DIGITS.data[:N].astype(np.float32)
    labels = [f"digit {digit}" for digit in DIGITS.target[:N]]
    return write_features(path, {"late:avg": values}, labels=labels, splits=list(SPLITS))


def ask(view: Path, out: Path, head: str = "ridge", **data: Any) -> FitOptions:
    return FitOptions(
        data=TaskOptions(features=(view,), **data), layer="late:avg", head=head, out=out
    )


def test_memory_counts_where_it_decides_how_a_head_is_fitted(view: Path, tmp_path: Path) -> None:
    options = ask(view, tmp_path)
    fit(options)
    large = dataclasses.replace(options.data, memory_bytes=10**10)
    assert find_fit(dataclasses.replace(options, data=large)) is not None
    # Too little for 300 rows of 64 features and a ridge: there is room for neither way.
    small = dataclasses.replace(options.data, memory_bytes=500_000)
    assert find_fit(dataclasses.replace(options, data=small)) is None


def test_memory_that_reduces_the_rows_is_another_fit(tmp_path: Path) -> None:
    values = np.tile(DIGITS.data[:N].astype(np.float32), (1, 30))
    labels = [f"digit {digit}" for digit in DIGITS.target[:N]]
    view = write_features(
        tmp_path / "wide.h5", {"late:avg": values}, labels=labels, splits=list(SPLITS)
    )
    dense = ask(view, tmp_path / "out", memory_bytes=10**9)
    fit(dense)
    reduced = ask(view, tmp_path / "out", memory_bytes=15_000_000)
    assert find_fit(reduced) is None
    fit(reduced)
    assert find_fit(reduced) is not None
    assert find_fit(dense) is None


def test_memory_does_not_change_a_streamed_head_which_stays_a_hit(
    view: Path, tmp_path: Path
) -> None:
    fit(ask(view, tmp_path, "sgd"))
    assert find_fit(ask(view, tmp_path, "sgd", memory_bytes=600_000)) is not None


@pytest.mark.parametrize("what", ["scikit-learn", "tensorflow", "numerics", "metrics"])
def test_other_code_fits_anew_but_not_what_it_does_not_fit(
    what: str, view: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ask(view, tmp_path)
    fit(options)
    if what == "numerics":
        other = dataclasses.replace(HEADS["ridge"], numerics=99)
        monkeypatch.setitem(HEADS, "ridge", other)
    elif what == "metrics":
        monkeypatch.setattr(metrics, "NUMERICS", 99)
    else:
        real = registry.version
        monkeypatch.setattr(registry, "version", lambda name: "99" if name == what else real(name))
        registry._find_versions.cache_clear()
    found = find_fit(options)
    monkeypatch.undo()
    registry._find_versions.cache_clear()
    assert (found is not None) == (what == "tensorflow")
    assert find_fit(options) is not None


def test_every_head_names_the_packages_that_fit_it() -> None:
    for kind, head_kind in HEADS.items():
        assert "scikit-learn" in head_kind.packages
        assert ("tensorflow" in head_kind.packages) == (kind in ("mlp", "cnn", "finetune"))
        numerics, versions = registry.describe_code(kind)
        assert numerics >= 1
        assert len(versions) == len(head_kind.packages)
