"""A sweep of digits, fitted once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.reports import call, sweep, write_digits


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sweep digits of which a third are for testing."""
    folder = tmp_path_factory.mktemp("report")
    return sweep(write_digits(folder), folder / "runs")


@pytest.fixture(scope="session")
def page(swept: Path) -> Path:
    """The page of that sweep."""
    out = swept.parent / "report.html"
    call("report", swept, "--out", out)
    return out
