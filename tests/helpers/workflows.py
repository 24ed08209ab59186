"""A folder with the recipes of ``examples/workflows``, small data for them, and real runners."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml

from tests.helpers import ROOT
from tests.helpers.inputs import write_model, write_photos

EXAMPLES = ROOT / "examples" / "workflows"
N_IMAGES = 24
Features = dict[tuple[str, str], dict[str, np.ndarray]]
CONFIG: dict[str, Any] = {
    "cache": "cache",
    "datasets": [
        {"name": "photos", "images": "photos", "options": "--split test=0.3"},
        {"name": "crops", "images": "crops", "options": "--split test=0.25 --seed 3"},
    ],
    "backbones": [
        {"name": "small", "options": "--backbone small.keras --layers first:avg,last:avg"},
        {"name": "pixels", "options": "--backbone none --size 16 --layers pixels"},
    ],
    "sweep": "--heads logreg --set C=0.1,1 --cv 2",
}
PAIRS = [(dataset, backbone) for dataset in ("photos", "crops") for backbone in ("small", "pixels")]
# The command that recipes call. It says what it was called with, and can be told to fail once.
_COMMAND = """#!/bin/sh
echo "$@" >>'{root}/calls'
if [ -e '{root}/fail' ]; then
    status=$(cat '{root}/fail'); rm '{root}/fail'; exit $status
fi
exec '{python}' '{run}' "$@"
"""


def find_runner(name: str) -> Path:
    """Return the executable of a runner that is installed, wherever; skip the test if none is."""
    variable = f"PERMAFROST_{name.upper()}"
    found = os.environ.get(variable) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; name one of any environment with {variable}")
    return Path(found).absolute()


@dataclass(frozen=True, slots=True)
class Workshop:
    """A folder in which a runner runs a recipe."""

    root: Path

    def call(self, *command: object, fails: bool = False, **variables: str) -> str:
        """Run a command to its end, and return what it printed."""
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.root,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout

    def start(self, *command: object) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=self.root,
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the variables that runners get: all that they keep, they keep here."""
        path = f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return os.environ | {"PATH": path, "HOME": str(self.root)} | variables

    def take_calls(self) -> list[str]:
        """Return what `permafrost` was called with since this was asked last."""
        calls = self.root / "calls"
        if not calls.exists():
            return []
        lines = calls.read_text().splitlines()
        calls.unlink()
        return lines

    def fail_once(self, status: int) -> None:
        """Let the next call of `permafrost` end with this status."""
        (self.root / "fail").write_text(str(status))

    def read_features(self) -> Features:
        """Return each layer of each ``features.h5``."""
        return {pair: _read_layers(self.folder(*pair) / "features.h5") for pair in PAIRS}

    def list_shards(self, cache: str = "cache") -> dict[str, int]:
        """Return the shards with their times: of other times, if any row was computed anew."""
        return {one.name: one.stat().st_mtime_ns for one in (self.root / cache).rglob("shard-*")}

    def folder(self, dataset: str, backbone: str) -> Path:
        """Return where the results of a pair are."""
        return self.root / "results" / dataset / backbone

    def configure(self, **replaced: Any) -> None:
        """Write config.yaml, with the keys of the example."""
        config = CONFIG | replaced
        assert config.keys() == yaml.safe_load((EXAMPLES / "config.yaml").read_text()).keys()
        (self.root / "config.yaml").write_text(yaml.safe_dump(config))

    def copy(self, root: Path) -> Workshop:
        """Copy all that is there, times included."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return _equip(root)


def set_up(root: Path, *recipes: str) -> Workshop:
    """Make a folder with recipes of the examples, images, a backbone and a command."""
    root.mkdir(parents=True, exist_ok=True)
    for recipe in recipes:
        shutil.copy(EXAMPLES / recipe, root)
    write_photos(root / "photos", n_each=N_IMAGES // 2)
    write_photos(root / "crops", n_each=N_IMAGES // 2, side=40)
    # Whatever batches a run has that goes on after a kill: the numbers are the same.
    write_model(root / "small.keras", exact=True)
    workshop = _equip(root)
    workshop.configure()
    return workshop


def read_summary(text: str) -> dict[str, Any]:
    """Read what a command with ``--json`` printed last."""
    figures: dict[str, Any] = json.loads(text.splitlines()[-1])
    return figures


def assert_same_features(one: Features, other: Features) -> None:
    """Compare all values of all layers of all pairs."""
    assert one.keys() == other.keys() == set(PAIRS)
    for pair in PAIRS:
        assert one[pair].keys() == other[pair].keys()
        for layer, values in one[pair].items():
            np.testing.assert_array_equal(values, other[pair][layer])


def _equip(root: Path) -> Workshop:
    command = root / "bin" / "permafrost"
    command.parent.mkdir(exist_ok=True)
    run = ROOT / "run.py"
    command.write_text(_COMMAND.format(root=root, python=sys.executable, run=run))
    command.chmod(0o755)
    return Workshop(root)


def _read_layers(view: Path) -> dict[str, np.ndarray]:
    with h5py.File(view) as file:
        return {name: layer[()] for name, layer in file["features"].items()}
