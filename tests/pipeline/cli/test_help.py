"""Help, version and completion: what people ask before they do anything."""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from permafrost.about import list_requirements, parse_requirement, read_version, sort_requirements
from permafrost.command import COMMAND
from permafrost.pipeline.cli.help import EXAMPLES
from permafrost.pipeline.cli.parser import build_parser, list_parsers
from tests.helpers import ROOT
from tests.helpers.answers import Command

PARSERS = list_parsers(build_parser())


@pytest.mark.parametrize("name", PARSERS)
def test_every_option_says_what_it_is_and_its_default(name: str) -> None:
    text = " ".join(PARSERS[name].format_help().split())
    for action in PARSERS[name]._actions:
        assert (action.help or "").strip(), action
        default = getattr(action, "shown_default", action.default)
        is_said = isinstance(default, str | int | float | Path) and not isinstance(default, bool)
        if action.option_strings and is_said and default != argparse.SUPPRESS:
            start = text.index(f" {action.option_strings[-1]} ", text.index("options:"))
            assert "default" in text[start : start + 400], action
    assert f"examples: {COMMAND} {name}" in text


@pytest.mark.parametrize(
    ("name", "example"), [(name, one) for name, some in EXAMPLES.items() for one in some]
)
def test_every_example_can_be_typed(name: str, example: str) -> None:
    words = shlex.split(example.partition(" > ")[0])
    parsed = build_parser().parse_args(words)
    assert parsed.command == words[0] == name


def test_every_command_has_examples_and_is_in_the_readme() -> None:
    assert set(EXAMPLES) == set(PARSERS)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("| command | what it does |") :]
    assert set(re.findall(r"^\| `(\w+)", table, re.MULTILINE)) >= set(PARSERS)


def test_help_has_no_colours_where_there_is_no_terminal() -> None:
    for arguments in (["--help"], ["sweep", "--help"]):
        done = subprocess.run(
            [sys.executable, ROOT / "run.py", *arguments], capture_output=True, check=True
        )
        assert b"\x1b" not in done.stdout


def test_the_version_is_that_of_the_project(command: Command) -> None:
    answer = command("--version")
    assert (answer.status, answer.out) == (0, f"permafrost {read_version()}\n")
    assert f'version = "{read_version()}"' in (ROOT / "pyproject.toml").read_text()


def test_requirements_are_read_as_projects_and_packages_write_them() -> None:
    one = parse_requirement("tensorflow[and-cuda, more]>=2.17")
    assert (one.name, one.extras, one.at_least) == ("tensorflow", ("and-cuda", "more"), "2.17")
    assert parse_requirement("flask").at_least == ""
    needed = list_requirements()
    assert {"keras", "h5py", "rich"} <= {one.name for one in needed[""]}
    assert [one.name for one in needed["completion"]] == ["shtab"]
    groups = sort_requirements("pytest")
    assert "pluggy" in {one.name for one in groups[""]}
    assert importlib.metadata.version("pluggy")
    assert sort_requirements("no-such-package-here") == {"": []}


def test_completion_knows_commands_options_and_choices(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    script = tmp_path / "completion.bash"
    script.write_text(command("completion", "bash").out)

    def complete(*words: str) -> list[str]:
        code = (
            f"source {shlex.quote(str(script))}; COMP_WORDS=({shlex.join(words)});"
            f' COMP_CWORD={len(words) - 1}; _shtab_permafrost; echo "${{COMPREPLY[@]}}"'
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("permafrost", "do") == ["doctor"]
    assert complete("permafrost", "extract", "--mat") == ["--materialize"]
    assert complete("permafrost", "extract", "--engine", "") == ["tensorflow", "openvino", "keras"]
    assert command("completion", "fish").status == 2


def test_without_its_package_completion_names_the_extra(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    answer = command("completion", "zsh")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert 'pip install "permafrost[completion]"' in answer.err
