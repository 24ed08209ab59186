"""An experiment that is run once, and copies of what it left."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.experiments import call_main, write_backbone, write_crops, write_experiment


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Run a whole experiment once; each test has a copy of its own."""
    home = tmp_path_factory.mktemp("experiment")
    write_crops(home / "photos", n_each=20)
    write_backbone(home / "tiny.keras", seed=1)
    write_backbone(home / "other.keras", seed=2)
    before = Path.cwd()
    os.chdir(home)
    try:
        write_experiment()
        assert call_main("run", "experiment.yaml") == 0
    finally:
        os.chdir(before)
    return home


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """Work in a copy of the finished experiment's folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def fresh(place):
    """Work where features are cached but nothing is fitted."""
    shutil.rmtree(place / "runs")
    return place


@pytest.fixture
def run(capsys):
    """Write and run an experiment; returns the figures that were printed."""

    def call(**replaced):
        write_experiment(**replaced)
        capsys.readouterr()
        status = call_main("run", "experiment.yaml", "--json")
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return json.loads(captured.out.splitlines()[-1], parse_constant=pytest.fail)

    return call
