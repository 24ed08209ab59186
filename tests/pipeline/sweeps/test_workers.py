"""Processes of a sweep that is interrupted or killed: none stays, nor what they shared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.helpers import ROOT


@pytest.fixture
def long_sweep(view, tmp_path):
    """Start a sweep of many fits in two processes; returns it once the first fits are kept."""
    out = tmp_path / "long"
    values = ",".join(str(2.0**k) for k in range(-20, 20))
    process = subprocess.Popen(
        [
            *(sys.executable, "run.py", "sweep", "--features", str(view), "--out", str(out)),
            *("--layers", "late:avg,early:avg", "--heads", "logreg,ridge", "--cv", "20"),
            *("--set", f"C={values}", "--set", f"alpha={values}", "--jobs", "2"),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    journal = out / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 2000):
        time.sleep(0.005)
    yield process, out
    process.kill()
    process.wait()


def _complaints(process):
    """Wait for the end of all that can write to stderr; returns what is not progress."""
    lines = process.communicate(timeout=60)[1].splitlines()
    return [line for line in lines if "fits/s" not in line]


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_an_interrupted_sweep_leaves_no_process_and_no_scratch(long_sweep, number, status):
    process, out = long_sweep
    os.killpg(process.pid, number)  # as a terminal does
    assert _complaints(process) == ["permafrost: interrupted; what was finished is kept"]
    assert process.returncode == status
    assert {path.name for path in out.iterdir()} == {"journal.jsonl"}


def test_a_killed_process_of_a_sweep_is_one_line(long_sweep):
    process, out = long_sweep
    workers = [
        child.pid
        for child in psutil.Process(process.pid).children(recursive=True)
        if any("evaluation.processes" in word for word in child.cmdline())
    ]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    (line,) = _complaints(process)
    assert "fewer --jobs" in line
    assert process.returncode == 75
    assert {path.name for path in out.iterdir()} == {"journal.jsonl"}


def test_processes_end_with_a_killed_sweep(long_sweep):
    process, _ = long_sweep
    os.kill(process.pid, signal.SIGKILL)
    _complaints(process)  # returns when the last process has closed stderr
