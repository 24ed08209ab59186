"""Each dataset of config.yaml through each backbone, with Prefect 3.

Try it with: python prefect_flow.py
"""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml
from prefect import flow, task
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner

HOME = Path(__file__).parent
CONFIG = yaml.safe_load((HOME / "config.yaml").read_text())
# Status 75 says that a later run may do: a full disk, a silent server. Bad input stays bad.
TRY_AGAIN_STATUS = 75


def may_help_later(_task: Any, _run: Any, state: Any) -> bool:
    """Tell whether to retry."""
    error = state.result(raise_on_failure=False)
    return getattr(error, "returncode", None) == TRY_AGAIN_STATUS


@task(
    task_run_name="{name}",
    retries=3,
    retry_delay_seconds=[60, 600, 3600],
    retry_condition_fn=may_help_later,
)
def permafrost(name: str, command: str) -> dict[str, Any]:
    """Run a command, and return the JSON object that it prints as its last line."""
    done = subprocess.run(
        ["permafrost", *shlex.split(command), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=HOME,
    )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
def compare_backbones() -> dict[str, float]:
    """Return the best accuracy of each pair."""
    sweeps = {}
    for dataset in CONFIG["datasets"]:
        name, manifest = dataset["name"], f"results/{dataset['name']}/manifest.csv"
        index = permafrost.submit(
            f"index-{name}", f"index {dataset['images']} {dataset['options']} --out {manifest}"
        )
        for backbone in CONFIG["backbones"]:
            pair, out = f"{name}-{backbone['name']}", f"results/{name}/{backbone['name']}"
            extract = permafrost.submit(
                f"extract-{pair}",
                f"extract --manifest {manifest} {backbone['options']} --cache {CONFIG['cache']}"
                f" --out {out}/features.h5",
                wait_for=[index],
            )
            sweeps[pair] = permafrost.submit(
                f"sweep-{pair}",
                f"sweep --features {out}/features.h5 {CONFIG['sweep']} --out {out}",
                wait_for=[extract],
            )
    wait(list(sweeps.values()))  # so that one that fails does not end the others
    return {
        pair: sweep.result()["configurations"][0]["accuracy_mean"] for pair, sweep in sweeps.items()
    }


if __name__ == "__main__":
    print(json.dumps(compare_backbones()))
