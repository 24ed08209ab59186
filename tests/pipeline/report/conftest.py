"""A sweep of digits, fitted once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.reports import LABELS, call, sweep, write_digits


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sweep digits of which a third are for testing."""
    folder = tmp_path_factory.mktemp("report")
    return sweep(write_digits(folder), folder / "runs")


@pytest.fixture(scope="session")
def odd_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of digits whose names are hard to show."""
    folder = tmp_path_factory.mktemp("odd")
    names = {"digit 1": "é" * 90, "digit 2": "<b>&\"'</b>", "digit 3": "raw \udcff byte"}
    labels = [names.get(label, label) for label in LABELS]
    runs = sweep(write_digits(folder, labels=labels), folder / "runs", heads="nearest_mean")
    out = folder / "report.html"
    call("report", runs, "--out", out)
    return out


@pytest.fixture(scope="session")
def page(swept: Path) -> Path:
    """The page of that sweep."""
    out = swept.parent / "report.html"
    call("report", swept, "--out", out)
    return out
