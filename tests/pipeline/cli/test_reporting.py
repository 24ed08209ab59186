"""What is told while a command runs: lines of JSON for programs, and a log; real processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT
from tests.helpers.answers import Command
from tests.helpers.inputs import LAYERS
from tests.helpers.serving import serve_silence
from tests.resilience.child import Child

_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}"


def call(*arguments: object, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, after some Python `code` of a test."""
    start = f"import sys\n{code}\nfrom permafrost.pipeline.cli.main import main\nsys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", start, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def read_events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


@pytest.fixture
def asked(photos: Path, backbone: Path, tmp_path: Path) -> list[object]:
    """Return an extraction of photos with an empty class folder, which is warned of."""
    (photos / "nothing").mkdir()
    return [
        *("extract", "--images", photos, "--backbone", backbone, "--layers", LAYERS),
        *("--cache", tmp_path / "cache", "--out", tmp_path / "features.h5"),
    ]


def test_every_line_on_stderr_is_json(asked: list[object]) -> None:
    done = call(*asked, "--progress", "json", "--batch-size", 4)
    assert done.returncode == 0
    events = read_events(done.stderr)
    progress = [one for one in events if one["event"] == "progress" and one["total"] == 12]
    keys = ["event", "done", "total", "unit", "per_second", "seconds_left", "note"]
    assert [list(one) for one in progress] == [keys] * len(progress)
    assert (progress[-1]["done"], progress[-1]["unit"], progress[-1]["seconds_left"]) == (
        *(12, "images", 0),
    )
    assert [one["done"] for one in progress].count(12) == 1
    (warning,) = [one for one in events if one["event"] == "warning"]
    assert "'nothing'" in warning["message"]
    last = events[-1]
    assert (last["event"], last["command"], last["status"]) == ("done", "extract", 0)
    assert last["seconds"] > 0
    assert json.loads(call(*asked, "--progress=json", "--json").stdout)["computed"] == 0


@pytest.mark.parametrize(
    ("options", "status"), [(["--size", "x"], 2), (["--nonsense"], 2), (["--cache", "run.py"], 2)]
)
def test_what_is_wrong_is_json_too(asked: list[object], options: list[str], status: int) -> None:
    done = call(*asked, "--progress", "json", *options)
    (event,) = [one for one in read_events(done.stderr) if one["event"] == "error"]
    assert (done.returncode, event["status"]) == (status, status)
    assert options[-1].lstrip("-") in event["message"]


def test_a_bug_is_json_with_its_traceback(tmp_path: Path) -> None:
    code = (
        "import permafrost.pipeline.upkeep.verify as room\n"
        "def verify(*_, **__): raise LookupError('a bug')\n"
        "room.verify = verify"
    )
    done = call("verify", "--cache", tmp_path, "--progress", "json", code=code)
    (event,) = read_events(done.stderr)
    assert (done.returncode, event["status"], event["message"]) == (1, 1, "LookupError: a bug")
    assert "Traceback" in event["traceback"]
    log = tmp_path / "log"
    done = call("verify", "--cache", tmp_path, "--log", log, code=code)
    assert (done.returncode, "Traceback" in done.stderr) == (1, True)
    assert "LookupError: a bug" in log.read_text()


def test_what_other_code_and_other_processes_write_is_json_and_in_the_log(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, warnings\n"
        "import permafrost.pipeline.upkeep.verify as room\n"
        "find_cache = room.find_cache\n"
        "def chatter(root):\n"
        "    os.write(2, b'from a library\\n')\n"
        "    subprocess.run(['sh', '-c', 'echo from a child >&2'], check=True)\n"
        "    warnings.warn('from Python')\n"
        "    print('from print', file=sys.stderr)\n"
        "    return find_cache(root)\n"
        "room.find_cache = chatter"
    )
    done = call("verify", "--cache", tmp_path / "no", "--progress", "json", code=code)
    events = read_events(done.stderr)
    told = {one["message"] for one in events if one["event"] == "log"}
    assert told == {"from a library", "from a child", "from print"}
    (warning,) = [one for one in events if one["event"] == "warning"]
    assert "UserWarning: from Python" in warning["message"]
    log = tmp_path / "log"
    done = call("verify", "--cache", tmp_path / "no", "--log", log, code=code)
    assert told <= set(done.stderr.splitlines())
    for text in (*told, "UserWarning: from Python"):
        assert text in log.read_text()


@pytest.mark.slow
def test_the_last_word_of_a_run_that_is_interrupted_twice_is_json(
    photos: Path, backbone: Path, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp")
    with serve_silence(photos, 0) as (url, is_silent):
        arguments = [
            *("extract", "--images", f"{url}/", "--backbone", backbone, "--layers", LAYERS),
            *("--cache", tmp_path / "cache", "--out", tmp_path / "f.h5", "--progress", "json"),
        ]
        child = Child(arguments, output=tmp_path / "output")
        assert is_silent.wait(60)
        child.signal(signal.SIGINT)
        assert not child.wait(0.5)
        for _ in range(40):
            child.signal(signal.SIGINT)
            if child.wait(0.5):
                break
        ending = child.end()
    last = read_events(ending.err)[-1]
    assert (ending.status, last["event"], last["status"]) == (130, "error", 130)


def test_a_log_gets_what_stderr_gets_each_line_with_its_time(
    asked: list[object], tmp_path: Path
) -> None:
    log = tmp_path / "logs/run.log"
    done = call(*asked, "--log", log)
    lines = log.read_text().splitlines()
    assert all(re.fullmatch(f"{_TIME} [a-z]+: .+", line) for line in lines)
    told = [line.partition(": ")[2] for line in lines]
    assert told[:-1] == done.stderr.splitlines()
    assert any(re.match(f"{_TIME} warning: .*'nothing'", line) for line in lines)
    assert told[-1].startswith("extract ended with status 0 after")
    # It is appended to, and has what a quiet run does not show.
    quiet = call(*asked, "--log", log, "--progress", "none", "--view", "hflip")
    assert (quiet.returncode, len(quiet.stderr.splitlines())) == (0, 1)
    wrong = call(*asked, "--log", log, "--size", "x")
    again = log.read_text().splitlines()
    assert again[: len(lines)] == lines
    assert "progress: 12/12 images" in "\n".join(again[len(lines) :])
    assert again[-1].partition(" error: ")[2] == wrong.stderr.rstrip()


@pytest.mark.slow
def test_progress_none_leaves_warnings_and_a_bar_is_a_bar_anywhere(asked: list[object]) -> None:
    assert "12/12" not in call(*asked, "--progress", "none").stderr
    (asked[2] / "china/0000.jpg").write_bytes(b"no image")  # type: ignore[operator]
    for mode, is_bar in (("lines", False), ("bar", True)):
        (asked[-1].parent / "cache/index.sqlite").unlink()  # type: ignore[attr-defined]
        told = call(*asked, "--progress", mode).stderr
        assert ("\x1b[" in told) == is_bar
        assert "'nothing'" in told


def test_a_log_that_cannot_be_written_is_one_line(photos: Path) -> None:
    answer = call("index", photos, "--out", photos / "m.csv", "--log", photos)
    (line,) = answer.stderr.splitlines()
    assert (answer.returncode, "--log" in line, str(photos) in line) == (2, True, True)
    assert not (photos / "m.csv").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has it")
def test_a_full_disk_under_the_log_stops_nothing(command: Command, photos: Path) -> None:
    (photos / "nothing").mkdir()
    answer = command("index", photos, "--out", photos / "m.csv", "--log", "/dev/full")
    assert answer.status == 0
    assert (photos / "m.csv").exists()


def test_quiet_leaves_nothing_but_errors_and_the_log_has_all_of_it(
    photos: Path, tmp_path: Path
) -> None:
    (photos / "nothing").mkdir()
    log, asked = tmp_path / "log", ("index", photos, "--out", tmp_path / "manifest.csv")
    code = "import logging, os, threading\nos.write(2, b'before')"
    done = call(*asked, "--quiet", "--log", log, code=code)
    assert (done.returncode, done.stderr) == (0, "before")
    assert "12 images" in done.stdout
    assert "'nothing'" in log.read_text()
    wrong = call(*asked, "-q", "--split", "test=2")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    events = read_events(call(*asked, "-q", "--progress", "json").stderr)
    assert {"warning", "done"} <= {one["event"] for one in events}
    assert call(*asked, "-q", "-v").returncode == 2


def test_verbose_tells_what_otherwise_programs_alone_are_told(photos: Path, tmp_path: Path) -> None:
    asked = ("index", photos, "--out", tmp_path / "manifest.csv")
    end = "index ended with status 0 after"
    assert end in call(*asked, "--verbose").stderr
    assert end not in call(*asked).stderr


def test_a_command_in_a_notebook_draws_no_bar(tmp_path: Path) -> None:
    """A notebook runs commands on a terminal of its own, which cannot go back."""
    script = (
        "import os, pty, sys\n"
        "os.environ.update(notebook)\n"
        f"sys.exit(os.waitstatus_to_exitcode(pty.spawn([{sys.executable!r}, '-c', child])))"
    )
    child = (
        "from permafrost.pipeline.progress import show_progress\n"
        "with show_progress(2, unit='fits', note=lambda: 'fast') as advance:\n"
        "    advance(1); advance(1)"
    )
    for notebook, has_bar in (({}, True), ({"JPY_PARENT_PID": "1"}, False)):
        code = f"child = {child!r}\nnotebook = {notebook!r}\n{script}"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, stdin=subprocess.DEVNULL,
            check=True, env={"PATH": "/usr/bin:/bin", "TERM": "xterm", "HOME": str(tmp_path)},
        )  # fmt: skip
        assert (b"\x1b[" in done.stdout) is has_bar
        assert has_bar or b"2/2 fits" in done.stdout
