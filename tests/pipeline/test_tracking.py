"""What is found is told to MLflow too, which is asked here what it was told."""

from __future__ import annotations

import csv
import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from tests.helpers.answers import Answer, Command

HEADS = [{"kind": "logreg", "C": [0.1, 1]}, {"kind": "nearest_mean"}]


@pytest.fixture(autouse=True)
def _work_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # beside a database MLflow makes a folder for artifacts


@pytest.fixture
def features(extract: Command, tmp_path: Path) -> Path:
    """Extract pixels, which loads no network."""
    extract("--size", 16, "--split", "test=0.5", model="none", layers="pixels")
    return tmp_path / "features.h5"


@pytest.fixture
def fit(command: Command, features: Path) -> Command:
    def call(*options: object, out: str = "runs/first") -> Answer:
        return command(
            *("fit", "--features", features, "--layer", "pixels", "--head", "logreg"),
            *("--set", "C=0.1", "--out", out, "--json", *options),
        )

    return call


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """MLflow's own client, of a database."""
    client = pytest.importorskip("mlflow").MlflowClient
    # With its folder: MLflow keeps stores open by their names.
    return client(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")


def list_runs(store: Any, experiment: str = "permafrost") -> list[Any]:
    found = store.get_experiment_by_name(experiment)
    return list(store.search_runs([found.experiment_id], order_by=["attributes.start_time"]))


def test_without_mlflow_the_line_names_the_extra_before_anything_is_fitted(
    fit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
    answer = fit("--track", "sqlite:///mlflow.db")
    assert answer.status == 2
    assert 'pip install "permafrost[mlflow]"' in answer.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_fit_is_logged_with_its_settings_its_metrics_and_its_folder(
    store: Any, fit: Command, tmp_path: Path
) -> None:
    figures = fit("--track", store.tracking_uri).figures
    (run,) = list_runs(store)
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    expected = {"head": "logreg", "layer": "pixels", "task": "classification", "C": "0.1"}
    assert expected.items() <= run.data.params.items()
    numbers = {
        key: value
        for key, value in figures.items()
        if isinstance(value, int | float) and key != "seed"
    }
    assert run.data.metrics == numbers
    assert run.data.metrics["accuracy"] == figures["accuracy"]
    kept = Path(store.download_artifacts(run.info.run_id, "", str(make(tmp_path / "down"))))
    for name in ("model.json", "metrics.json", "predictions.csv", "head/head.skops"):
        assert (kept / name).read_bytes() == (tmp_path / "runs/first" / name).read_bytes()


@pytest.mark.slow
def test_the_same_is_logged_once(store: Any, fit: Command) -> None:
    for options in [(), (), ("--set", "max_iter=500")]:
        assert fit("--track", store.tracking_uri, *options).status == 0
    assert [run.data.params["max_iter"] for run in list_runs(store)] == ["1000", "500"]


@pytest.mark.slow
def test_each_configuration_of_a_sweep_is_a_run_within_that_of_the_best(
    store: Any,
    command: Command,
    features: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "photos")
    arguments = [
        *("sweep", "--features", features, "--heads", "logreg,nearest_mean", "--set", "C=0.1,1"),
        *("--cv", 2, "--jobs", 1, "--out", "sweep", "--track", store.tracking_uri, "--json"),
    ]
    figures = command(*arguments).figures
    command(*arguments)
    parent, *children = list_runs(store, "photos")
    assert parent.info.run_name == "sweep"
    first = figures["configurations"][0]
    assert parent.data.metrics["accuracy_mean"] == first["accuracy_mean"]
    assert parent.data.metrics["accuracy"] == figures["best_metrics"]["accuracy"]
    assert {one.data.tags["mlflow.parentRunId"] for one in children} == {parent.info.run_id}
    told = [(one.data.params["head"], one.data.metrics["accuracy_mean"]) for one in children]
    entries = [(one["head"], one["accuracy_mean"]) for one in figures["configurations"]]
    assert sorted(told) == sorted(entries)
    assert len(entries) == 3
    kept = Path(store.download_artifacts(parent.info.run_id, "", str(make(tmp_path / "down"))))
    with (kept / "leaderboard.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 3
    assert json.loads((kept / "best/metrics.json").read_text()) == figures["best_metrics"]


@pytest.mark.slow
def test_an_experiment_file_says_where(
    store: Any, command: Command, features: Path, tmp_path: Path
) -> None:
    written = {
        "images": "photos",
        "split": "test=0.5",
        "cache": "cache",
        "backbones": [{"name": "none", "size": 16, "layers": ["pixels"]}],
        "heads": HEADS,
        "cv": 2,
        "jobs": 1,
        "out": "runs/photos",
        "track": store.tracking_uri,
    }
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(written))
    assert command("run", "e.yaml", "--json").figures["extractions"][0]["computed"] == 0
    parent, *children = list_runs(store)
    assert (parent.info.run_name, len(children)) == ("photos", 3)
    names = {one.path for one in store.list_artifacts(parent.info.run_id)}
    assert {"leaderboard.csv", "summary.json", "e.yaml", "best"} <= names
    other = f"sqlite:///{tmp_path}/other.db"
    assert command("run", "e.yaml", "--track", other).status == 0
    assert len(list_runs(type(store)(tracking_uri=other))) == 4
    assert len(list_runs(store)) == 4


@pytest.mark.slow
def test_a_silent_server_costs_no_fit(
    store: Any, fit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        server = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        answer = fit("--track", server)
    assert answer.status == 75
    last = answer.err.splitlines()[-1]
    assert last.startswith("permafrost: ")
    assert server in last
    assert "what was found is in 'runs/first'" in last
    assert (tmp_path / "runs/first/model.json").exists()
    assert fit("--track", store.tracking_uri).status == 0
    assert len(list_runs(store)) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_a_server_that_refuses_is_a_line_for_a_person(fit: Command, tmp_path: Path) -> None:
    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusal) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        answer = fit("--track", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert answer.status == 2
    assert "403" in answer.err.splitlines()[-1]
    assert (tmp_path / "runs/first/model.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_a_store_that_mlflow_has_not_is_refused_before_anything_is_fitted(
    fit: Command, tmp_path: Path
) -> None:
    answer = fit("--track", "nosuch://place")
    assert answer.status == 2
    assert "--track 'nosuch://place'" in answer.err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder
