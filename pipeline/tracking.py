"""What `fit`, `sweep` and `run` found, told to MLflow as well, once it is on disk."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from permafrost.pipeline.errors import PipelineError, UnavailableError
from permafrost.pipeline.options import declare
from permafrost.pipeline.outputs import read_json

# Of a leaderboard, the first so many are runs of their own; all are in the artifacts.
MOST_CHILDREN = 100
_PARAMS = ("head", "layer", "task", "target", "seed")
_MODEL = ("model.json", "metrics.json", "predictions.csv", "epochs.csv", "backbone.keras", "head")
_TABLES = ("leaderboard.csv", "results.csv", "folds.csv", "sweep.json", "summary.json")
_KEY = "permafrost.key"
# Unless the user says otherwise: a silent server gets minutes, MLflow's makers are told nothing.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackOptions:
    """Where else to tell of what was found: `track`, the URI of MLflow's database or server."""

    track: str | None = declare(
        None, metavar="URI", help="log it in MLflow too: sqlite:///mlflow.db or http://HOST:5000"
    )

    def __post_init__(self) -> None:
        if self.track == "":  # as a shell makes it of a variable that is not set
            raise PipelineError("--track '': name a store, as sqlite:///mlflow.db, or drop it")

    def open(self) -> Tracker:
        """Open the store before anything is computed, so that a wrong name costs nothing.

        Raises
        ------
        PipelineError
            MLflow is not installed, or knows no such store.
        """
        return Tracker(self.track)


class Tracker:
    """Logs what was found as runs of MLflow, each only once; without a URI it does nothing."""

    def __init__(self, uri: str | None) -> None:
        self._uri = uri
        self._client: Any = _open_client(uri) if uri else None

    def log_fit(self, out: Path, figures: Mapping[str, Any]) -> None:
        """Log a fitted head: settings, metrics, and its folder."""
        record = read_json(out / "model.json") or {}
        self._log(out, record.get("fit"), figures, lambda run: self._add_files(run, out, _MODEL))

    def log_sweep(self, out: Path, figures: Mapping[str, Any], *tables: Path) -> None:
        """Log a sweep: its best head, its tables, and its first configurations as runs within."""
        entries, best = figures["configurations"], Path(figures["best"])

        def fill(run: Any) -> None:
            for entry in entries[:MOST_CHILDREN]:
                self._add_child(run, entry)
            self._add_files(run, best, _MODEL, folder=best.name)
            for table in (*(out / name for name in _TABLES), *tables):
                self._add_files(run, table.parent, [table.name])

        self._log(out, entries, entries[0] | figures["best_metrics"], fill)

    def _log(
        self, out: Path, facts: object, figures: Mapping[str, Any], fill: Callable[[Any], None]
    ) -> None:
        if self._client is None:
            return
        key = hashlib.sha256(json.dumps([out.name, facts], sort_keys=True).encode()).hexdigest()
        is_there = f"tags.`{_KEY}` = '{key}' AND attributes.status = 'FINISHED'"
        try:
            experiment = self._find_experiment()
            if not self._client.search_runs([experiment], is_there, max_results=1):
                run = self._client.create_run(experiment, run_name=out.name, tags={_KEY: key})
                self._add_figures(run, figures)
                fill(run)
                self._client.set_terminated(run.info.run_id)
        except Exception as error:
            told = f"what was found is in {str(out)!r}, but is not logged at {self._uri!r}: {error}"
            if getattr(error, "get_http_status_code", int)() in (400, 401, 403, 404):
                raise PipelineError(f"{told}; see to it, and run again") from error
            raise UnavailableError(f"{told}; run again when it answers") from error

    def _find_experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "permafrost")
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def _add_child(self, parent: Any, entry: Mapping[str, Any]) -> None:
        run = self._client.create_run(
            parent.info.experiment_id,
            run_name=f"{entry['head']} on {entry['layer']}",
            tags={"mlflow.parentRunId": parent.info.run_id},
        )
        self._add_figures(run, entry)
        self._client.set_terminated(run.info.run_id, "FAILED" if entry["error"] else None)

    def _add_figures(self, run: Any, figures: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param

        told = {key: figures[key] for key in _PARAMS if key in figures} | figures["settings"]
        now_ms = int(time.time() * 1000)
        numbers = {
            key: value
            for key, value in figures.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and key not in told
        }
        self._client.log_batch(
            run.info.run_id,
            metrics=[Metric(key, float(value), now_ms, 0) for key, value in numbers.items()],
            params=[Param(key, str(value)[:6000]) for key, value in told.items()],
        )

    def _add_files(self, run: Any, home: Path, names: Sequence[str], folder: str = "") -> None:
        for name in names:
            if (home / name).is_dir():
                place = f"{folder}/{name}".lstrip("/")
                self._client.log_artifacts(run.info.run_id, str(home / name), place)
            elif (home / name).exists():
                self._client.log_artifact(run.info.run_id, str(home / name), folder or None)


def _open_client(uri: str) -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise PipelineError(
            f'--track needs MLflow ({error}); install it with: pip install "permafrost[mlflow]"'
        ) from error
    try:
        return MlflowClient(tracking_uri=uri)
    except Exception as error:
        # MLflow's own errors are about the name; others, as SQLAlchemy's, about a silent database.
        kind = PipelineError if hasattr(error, "get_http_status_code") else UnavailableError
        raise kind(f"--track {uri!r}: {error}") from error
