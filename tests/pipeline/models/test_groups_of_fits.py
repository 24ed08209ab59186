"""Fits and sweeps tell their heads which rows belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.views import write_features
from tests.stages.heads.test_held_out_groups import make_copies


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same rows with and without a column that says which are copies of one thing."""
    x, labels, groups = make_copies()
    folder = tmp_path_factory.mktemp("groups")
    splits = ["train" if group < 120 else "test" for group in groups]
    columns = {"group": [f"thing {group}" for group in groups]}
    return {
        name: write_features(
            folder / f"{name}.h5", {"x": x}, labels=list(labels), splits=splits, columns=given
        )
        for name, given in (("told", columns), ("untold", {}))
    }


SETTINGS = ("--set", "hidden=64", "--set", "dropout=0", "--set", "epochs=60")


def test_fit_stops_early_by_the_column_group(
    command: Any, views: dict[str, Path], tmp_path: Path
) -> None:
    losses = {
        name: command(
            *("fit", "--features", view, "--layer", "x", "--head", "mlp", "--json"),
            *("--out", tmp_path / name, *SETTINGS),
        ).figures["log_loss"]
        for name, view in views.items()
    }
    assert losses["told"] < 0.75 * losses["untold"]


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_folds_of_a_sweep_stop_early_by_the_column_group(
    command: Any, views: dict[str, Path], tmp_path: Path, jobs: int
) -> None:
    found = command(
        *("sweep", "--features", views["told"], "--layers", "x", "--heads", "mlp", "--json"),
        *("--out", tmp_path / "out", "--cv", 2, "--jobs", jobs, *SETTINGS),
    ).figures
    # Stopped by copies it is 1.4 and more, as in the test above.
    assert np.mean([fold["log_loss"] for fold in found["configurations"][0]["folds"]]) < 1.1
