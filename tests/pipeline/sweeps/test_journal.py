"""What was fitted once is not fitted again, whatever ended the sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tests.helpers import ROOT
from tests.helpers.sweeps import LABELS, PIXELS, SPLITS
from tests.helpers.views import write_features


def test_a_second_sweep_fits_nothing_and_a_wider_one_what_is_new(view, sweep):
    options = ("--layers", "late:avg", "--heads", "logreg", "--cv", 3)
    first = sweep(view, *options, "--set", "C=0.1,1")
    again = sweep(view, *options, "--set", "C=0.1,1")
    wider = sweep(view, *options, "--set", "C=0.1,1,10")
    other_seed = sweep(view, *options, "--set", "C=0.1", "--seed", 1)
    assert [found["fitted"] for found in (first, again, wider, other_seed)] == [6, 0, 3, 3]
    assert again["configurations"] == first["configurations"]
    assert len(wider["configurations"]) == 3


def test_changed_features_are_fitted_anew(sweep, tmp_path):
    layers = {"a": PIXELS}
    path = write_features(tmp_path / "v.h5", layers, labels=LABELS, splits=SPLITS)
    options = (path, "--heads", "nearest_mean", "--cv", 2)
    assert sweep(*options)["fitted"] == 2
    write_features(path, layers, labels=LABELS[::-1], splits=SPLITS)
    assert sweep(*options)["fitted"] == 2


def test_a_killed_sweep_goes_on_where_it_was(view, sweep, tmp_path):
    options = (
        *("--layers", "late:avg,early:avg", "--heads", "logreg", "--cv", "5"),
        *("--set", f"C={','.join(str(2.0**k) for k in range(-6, 6))}"),
    )
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [
            *(sys.executable, "run.py", "sweep", "--features", str(view), "--out", str(out)),
            *("--jobs", "1", *options),
        ],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    journal = out / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 2000):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    n_kept = sum(bool(line) for line in journal.read_text().splitlines())
    with journal.open("a") as stream:
        stream.write('{"key": "torn')
    resumed = sweep(view, *options, out=out)
    whole = sweep(view, *options, out=tmp_path / "whole")
    assert 0 < n_kept < 120
    assert resumed["fitted"] == 120 - n_kept
    assert _scores(resumed) == _scores(whole)
    assert not list(out.glob(".tmp-*"))


def _scores(found):
    return {
        (one["layer"], one["settings"]["C"]): [fold["log_loss"] for fold in one["folds"]]
        for one in found["configurations"]
    }


def test_nothing_to_do_loads_nothing_heavy(view, sweep, tmp_path):
    options = ["--layers", "late:avg", "--heads", "logreg,mlp", "--set", "epochs=1", "--cv", "2"]
    sweep(view, *options)
    code = (
        "import sys; from permafrost.pipeline.cli.main import main; status = main(sys.argv[1:]);"
        "print(*{'tensorflow', 'keras', 'distributed', 'skops'} & set(sys.modules));"
        "sys.exit(status)"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-c", code, "sweep", "--features", str(view)),
            *("--out", str(tmp_path / "out"), *options),
        ],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == ""
