"""`audit` and `select` as parts of an experiment: checked first, done once, told with the rest."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from permafrost.pipeline.experiments import products
from tests.pipeline.audit.test_select import read_rows

BLOCKS = {"audit": {}, "select": {"n": 10, "from_split": "test", "out": "next.csv"}}


@pytest.fixture
def run(spoil, folder, command, tmp_path, monkeypatch):
    """Run an experiment on spoilt digits, with the options given; returns what `command` does."""
    monkeypatch.chdir(tmp_path)

    def call(*options, **replaced):
        content = {
            "images": folder.name,
            "split": {"test": 0.3},
            "backbones": [{"name": "none", "size": 16, "layers": ["pixels"]}],
            "heads": [{"kind": "logreg"}, {"kind": "nearest_mean"}],
            "cv": 3,
            "jobs": 1,
            "cache": "cache",
            "out": "runs",
        }
        Path("experiment.yaml").write_text(yaml.safe_dump(content | BLOCKS | replaced))
        return command("run", "experiment.yaml", *options)

    return call


def test_what_run_writes_is_what_the_two_commands_write(run, command):
    figures = run("--json").figures
    shared = ("--features", "runs/none/features.h5", "--layer", "pixels", "--cv", 3)
    command("audit", *shared, "--out", "alone")
    command("select", *shared, "-n", 10, "--from-split", "test", "--out", "alone.csv")
    table = Path("runs/audit/issues.csv").read_bytes()
    assert table == Path("alone/issues.csv").read_bytes()
    assert Path("next.csv").read_bytes() == Path("alone.csv").read_bytes()
    told = json.loads(Path("runs/summary.json").read_text())
    assert told["audit"]["kinds"] == figures["audit"]["kinds"]
    assert told["audit"]["issues"] == len(read_rows(Path("runs/audit/issues.csv")))
    assert (told["select"]["selected"], told["audit"]["layer"]) == (10, "pixels")
    shown = command("show", "runs").out
    assert "next.csv" in shown and f"{told['audit']['issues']} suspicions" in shown


def test_both_are_done_again_only_where_something_changed(run, folder, monkeypatch):
    done = []

    def count(name):
        make = getattr(products, name)

        def call(options):
            done.append(name)
            return make(options)

        monkeypatch.setattr(products, name, call)

    count("audit")
    count("select")
    first = run("--json").figures
    assert done == ["audit", "select"]
    assert run("--skip-status", "9").status == 9
    again = run("--json", "--memory", "1GB").figures
    assert done == ["audit", "select"]
    assert (again["audit"], again["select"]) == (first["audit"], first["select"])
    run(heads=[{"kind": "logreg", "C": 0.5}])
    assert done == ["audit", "select"]
    run(select=BLOCKS["select"] | {"n": 5})
    assert done == ["audit", "select", "select"]
    assert len(read_rows(Path("next.csv"))) == 5
    Path("runs/audit/audit.json").unlink()
    run(select=BLOCKS["select"] | {"n": 5})
    assert done[3:] == ["audit"]
    next((folder / "one").iterdir()).unlink()
    run(select=BLOCKS["select"] | {"n": 5})
    assert done[4:] == ["audit", "select"]
    run(select=BLOCKS["select"] | {"n": 5}, split={"test": 0.3, "seed": 1})
    assert done[6:] == ["audit", "select"]


def test_settings_of_the_head_that_audits_are_those_that_set_gives(run, command):
    figures = run("--json", audit={"head": "knn", "set": {"neighbors": 3}}).figures["audit"]
    shared = ("--features", "runs/none/features.h5", "--layer", "pixels", "--cv", 3)
    command("audit", *shared, "--head", "knn", "--set", "neighbors=3", "--out", "alone")
    table = Path("runs/audit/issues.csv").read_bytes()
    assert table == Path("alone/issues.csv").read_bytes()
    assert (figures["head"], figures["settings"]["neighbors"]) == ("knn", 3)
    again = run("--json", audit={"head": "knn", "set": {"neighbors": 4}}).figures["audit"]
    assert again["settings"]["neighbors"] == 4


def test_they_are_steps_of_their_own(run):
    run()
    before = Path("next.csv").read_bytes(), Path("runs/audit/issues.csv").read_bytes()
    steps = run("--plan-json", "--json").figures["steps"]
    names = ["extract-none", "sweep", "audit", "select", "summary"]
    assert [one["name"] for one in steps] == names
    rehearsed = run("--dry-run", "--json").figures["steps"]
    assert [one["to_do"] for one in rehearsed] == [0, 0, 124, 10, None]
    for step in steps[2:4]:
        for file in step["outputs"]:
            Path(file).unlink()
        assert run("--step", step["name"]).status == 0
    assert (Path("next.csv").read_bytes(), Path("runs/audit/issues.csv").read_bytes()) == before


@pytest.mark.parametrize(
    ("replaced", "says"),
    [
        ({"audit": {"layr": "pixels"}}, "unknown key 'layr' (audit.layr); did you mean 'layer'?"),
        ({"audit": {"layer": "pixls"}}, "audit.layer: "),
        ({"audit": {"head": "logerg"}}, "audit: unknown head 'logerg'; did you mean 'logreg'?"),
        ({"audit": {"set": {"Q": 1}}}, "audit: unknown setting 'Q' of logreg; there are: C"),
        ({"audit": {"set": {"C": -1}}}, "audit: logreg cannot use C=-1: give a number above 0"),
        ({"audit": {"set": "C=1"}}, "audit.set: "),
        ({"audit": {"images": "absent"}}, "audit.images: "),
        ({"audit": {"out": "experiment.yaml"}}, "audit.out: cannot write into the folder"),
        ({"select": {"out": "next.csv"}}, "select.n is missing"),
        ({"select": {"n": 0, "out": "next.csv"}}, "select: -n 0: select at least 1 row"),
        ({"select": {"n": "ten", "out": "next.csv"}}, "select.n: "),
        ({"select": {"n": 5, "out": "next.csv"}}, "has a label; name a split"),
        ({"select": BLOCKS["select"] | {"strategy": "mixd"}}, "mixd"),
        ({"select": BLOCKS["select"] | {"from_split": "tst"}}, "select: unknown split 'tst'"),
        ({"select": BLOCKS["select"] | {"out": "digits"}}, "select: --out 'digits' is a folder"),
        (
            {"predict": {"images": "digits", "out": "next.csv"}},
            "select.out: 'next.csv' is written by predict.0 already",
        ),
    ],
    ids=str,
)
def test_mistakes_are_one_line_before_anything_starts(run, replaced, says):
    answer = run(**replaced)
    assert (answer.status, answer.out) == (2, "")
    *_, line = answer.err.splitlines()
    assert line.startswith("permafrost: experiment.yaml: ") and says in line
    assert not Path("runs/none").exists()


def test_labels_that_were_filled_in_are_never_written_over(run, command):
    run()
    rows = read_rows(Path("next.csv"))
    with Path("next.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows([rows[0] | {"label": "zero"}, *rows[1:]])
    filled = Path("next.csv").read_bytes()
    answer = run()
    assert answer.status == 2
    assert "select.out: 'next.csv' has labels that were filled in; name another" in answer.err
    features = ("--features", "runs/none/features.h5", "--from-split", "test")
    answer = command("select", *features, "-n", 3, "--out", "next.csv")
    assert answer.status == 2 and "has labels that were filled in" in answer.err
    assert Path("next.csv").read_bytes() == filled
