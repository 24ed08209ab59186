"""The DAG of the examples, run by Airflow in an environment of its own."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.workflows import CONFIG, N_IMAGES, PAIRS, Workshop, find_runner, set_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Airflow:
    """Airflow with a database of its own, in a workshop."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self._command = find_runner("airflow")
        self._home = workshop.root / "airflow"
        self._call(self._command, "db", "migrate")

    def run(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Run the DAG; return the state of each task, and what it told."""
        self._call(self._command.with_name("python"), "airflow_dag.py")
        with closing(sqlite3.connect(self._home / "airflow.db")) as database:
            (run,) = database.execute(
                "SELECT run_id FROM dag_run ORDER BY id DESC LIMIT 1"
            ).fetchone()
            states = database.execute(
                "SELECT task_id, state FROM task_instance WHERE run_id = ?", (run,)
            )
            told = database.execute(
                "SELECT task_id, value FROM xcom WHERE run_id = ? AND key = 'return_value'", (run,)
            )
            return dict(states), {task: json.loads(value) for task, value in told}

    def _call(self, *command: object) -> None:
        self.workshop.call(
            *command,
            AIRFLOW_HOME=str(self._home),
            AIRFLOW__CORE__DAGS_FOLDER=str(self.workshop.root),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
        )


def test_tasks_tell_their_figures_and_are_skipped_where_nothing_is_new(tmp_path: Path) -> None:
    find_runner("airflow")
    workshop = set_up(tmp_path, "airflow_dag.py")
    airflow = Airflow(workshop)
    names = [f"{dataset}-{backbone}" for dataset, backbone in PAIRS]
    tasks = [
        *("index-photos", "index-crops"),
        *(f"{command}-{name}" for command in ("extract", "sweep") for name in names),
    ]
    states, told = airflow.run()
    assert states == dict.fromkeys(tasks, "success")
    assert [told[f"extract-{name}"]["computed"] for name in names] == [N_IMAGES] * 4
    assert all(told[f"sweep-{name}"]["fitted"] == 4 * (1 + ("small" in name)) for name in names)
    assert airflow.run() == (dict.fromkeys(tasks, "skipped"), {})
    check_what_follows_a_skipped_task(airflow, states)


def check_what_follows_a_skipped_task(airflow: Airflow, first: dict[str, str]) -> None:
    airflow.workshop.configure(sweep=CONFIG["sweep"].replace("C=0.1,1", "C=0.1,2"))
    states, _ = airflow.run()
    assert states == {task: "success" if task.startswith("sweep") else "skipped" for task in first}
