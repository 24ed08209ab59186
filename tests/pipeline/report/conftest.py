"""A sweep of digits, fitted once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.helpers.reports import LABELS, call, sweep, write_digits
from tests.helpers.spoilt import spoil_digits, write_digit_folders


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


@pytest.fixture(scope="session")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run an experiment with an audit of spoilt digits."""
    folder = tmp_path_factory.mktemp("audited")
    write_digit_folders(folder / "digits")
    spoil_digits(folder / "digits")
    experiment = {
        "images": str(folder / "digits"),
        "split": {"test": 0.3},
        "backbones": [{"name": "none", "size": 16, "layers": ["pixels"]}],
        "heads": [{"kind": "nearest_mean"}],
        "cv": 3,
        "jobs": 1,
        "cache": str(folder / "cache"),
        "out": str(folder / "runs"),
        "audit": {},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    call("run", folder / "experiment.yaml")
    return folder / "runs"


@pytest.fixture(scope="session")
def audited_page(audited: Path) -> Path:
    """The page of that experiment, and of its audit alone."""
    out = audited.parent / "report.html"
    call("report", audited, audited / "audit", "--out", out)
    return out
