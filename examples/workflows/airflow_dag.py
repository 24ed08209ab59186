"""Each dataset of config.yaml through each backbone, with Airflow 3.

Airflow and Permafrost live in environments of their own: tasks call the command `permafrost`.
Try it with: python airflow_dag.py
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import yaml
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

HOME = Path(__file__).parent
CONFIG = yaml.safe_load((HOME / "config.yaml").read_text())
# 99 is a skipped task: the command found its work done, and left its outputs as they were.
SKIP_STATUS = 99


def add_task(task_id: str, command: str) -> BashOperator:
    """Make a task whose XCom is the JSON object that the command prints as its last line."""
    return BashOperator(
        task_id=task_id,
        bash_command=f"permafrost {command} --json --skip-status {SKIP_STATUS}",
        skip_on_exit_code=SKIP_STATUS,
        output_processor=json.loads,
        trigger_rule="none_failed",  # what is skipped upstream is there
        cwd=str(HOME),
    )


with DAG(
    dag_id="permafrost",
    schedule=None,
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
) as dag:
    for dataset in CONFIG["datasets"]:
        name, manifest = dataset["name"], f"results/{dataset['name']}/manifest.csv"
        index = add_task(
            f"index-{name}", f"index {dataset['images']} {dataset['options']} --out {manifest}"
        )
        for backbone in CONFIG["backbones"]:
            pair, out = f"{name}-{backbone['name']}", f"results/{name}/{backbone['name']}"
            extract = add_task(
                f"extract-{pair}",
                f"extract --manifest {manifest} {backbone['options']} --cache {CONFIG['cache']}"
                f" --out {out}/features.h5",
            )
            sweep = add_task(
                f"sweep-{pair}",
                f"sweep --features {out}/features.h5 {CONFIG['sweep']} --out {out}",
            )
            index >> extract >> sweep

if __name__ == "__main__":
    dag.test()
