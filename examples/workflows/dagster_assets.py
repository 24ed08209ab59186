"""Each dataset of config.yaml through each backbone, as assets of Dagster.

Try it with: dagster dev -f dagster_assets.py
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml
from dagster import (
    AssetsDefinition,
    DataVersion,
    Definitions,
    Failure,
    MaterializeResult,
    RetryRequested,
    asset,
)

HOME = Path(__file__).parent
CONFIG = yaml.safe_load((HOME / "config.yaml").read_text())
# Status 75 says that a later run may do: a full disk, a silent server. Bad input stays bad.
TRY_AGAIN_STATUS = 75
WAIT_S = 600


def permafrost(command: str) -> dict[str, Any]:
    """Run a command, and return the JSON object that it prints as its last line."""
    done = subprocess.run(
        ["permafrost", *shlex.split(command), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=HOME,
    )
    if done.returncode == TRY_AGAIN_STATUS:
        raise RetryRequested(max_retries=3, seconds_to_wait=WAIT_S)
    if done.returncode:
        raise Failure(f"status {done.returncode}; the last line of stderr says why")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def define_asset(out: str, command: str, *inputs: str) -> AssetsDefinition:
    """Define a file that a command writes, with the figures that it tells.

    Its version is what `extract` says of features.h5, wherever it lies; of tables, their bytes.
    """

    @asset(key=_name_key(out), deps=[_name_key(one) for one in inputs], code_version=command)
    def write() -> MaterializeResult:
        figures = permafrost(command)
        version = figures.get("digest") or hashlib.sha256((HOME / out).read_bytes()).hexdigest()
        told = {key: value for key, value in figures.items() if isinstance(value, int | float)}
        return MaterializeResult(data_version=DataVersion(version), metadata=told)

    return write


def _name_key(out: str) -> list[str]:
    return list(Path(out).with_suffix("").parts[1:])


def define_assets() -> list[AssetsDefinition]:
    """Define manifest, features and leaderboard of each pair."""
    assets = []
    for dataset in CONFIG["datasets"]:
        manifest = f"results/{dataset['name']}/manifest.csv"
        index = f"index {dataset['images']} {dataset['options']} --out {manifest}"
        assets.append(define_asset(manifest, index))
        for backbone in CONFIG["backbones"]:
            out = f"results/{dataset['name']}/{backbone['name']}"
            features, board = f"{out}/features.h5", f"{out}/leaderboard.csv"
            extract = f"extract --manifest {manifest} {backbone['options']} --out {features}"
            sweep = f"sweep --features {features} {CONFIG['sweep']} --out {out}"
            assets.append(define_asset(features, f"{extract} --cache {CONFIG['cache']}", manifest))
            assets.append(define_asset(board, sweep, features))
    return assets


defs = Definitions(assets=define_assets())
