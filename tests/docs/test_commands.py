"""Every command in the README and in docs is one that the command line takes."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator

import pytest

from permafrost.cache.errors import CacheError
from permafrost.pipeline.cli.groups import read_extract_options, read_settings
from permafrost.pipeline.cli.parser import build_parser, list_parsers
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.sweeps.grid import HeadGrid
from permafrost.pipeline.tasks.task import make_candidate
from permafrost.stages.errors import StageError
from tests.helpers import ROOT
from tests.helpers.pages import PAGES, find_commands, list_commands, read_blocks

ALL_PAGES = [*PAGES, ROOT / "CONTRIBUTING.md"]
BLOCKS = [block for page in ALL_PAGES for block in read_blocks(page)]
COMMANDS = [
    pytest.param(arguments, id=place)
    for block in BLOCKS
    if block.language == "sh"
    for place, arguments in list_commands(block)
]
PYTHON = [
    pytest.param(block.text, id=block.place) for block in BLOCKS if block.language == "python"
]
# What … in a command stands for.
USUAL = {
    "--images": "photos/",
    "--backbone": "vgg16",
    "--layers": "block5_pool:avg",
    "--out": "features.h5",
}
# Options of others that pages speak of.
THEIRS = {
    *("--array", "--cores", "--lifetime", "--memory-limit", "--no-deps", "--nthreads"),
    *("--only", "--resources", "--retries", "--torch-python", "--minutes"),
}


def check(arguments: list[str]) -> None:
    """Read a command as the command line does, as far as that needs no file."""
    if "…" in arguments:
        missing = [] if "--manifest" in arguments else [*USUAL]
        added = [(flag, USUAL[flag]) for flag in missing if flag not in arguments]
        arguments = [*(one for one in arguments if one != "…"), *sum(added, ())]
    parsed = build_parser().parse_args(arguments)
    if parsed.command in ("extract", "plan"):
        read_extract_options(parsed)
    settings = read_settings(getattr(parsed, "settings", []))
    task = getattr(parsed, "task", "classification")
    if parsed.command == "fit":
        make_candidate(parsed.head, settings, task=task)
    if parsed.command == "sweep":
        HeadGrid(heads=parsed.heads, settings=tuple(settings.items())).expand(task)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_every_command_is_one_that_the_command_line_takes(arguments: list[str]) -> None:
    check(arguments)


@pytest.mark.parametrize(
    "line",
    [
        "python run.py extrakt --images photos/",
        "python run.py extract --images photos/ --backbone vgg16 --layers a --out f.h5 --sizes 64",
        "permafrost extract --images photos/ --backbone vgg16 --out f.h5",
        "sbatch --wrap 'permafrost extract … --resize bilinera'",
        "until permafrost plan … --batch-size few; do sleep 60; done",
        "python run.py plan … --memory much | cat",
        "python run.py fit --features f.h5 --layer a --head logreg --set D=1 --out runs/a",
        "python run.py fit --features f.h5 --layer a --head logref --out runs/a",
        "python run.py sweep --features f.h5 --heads mlp --set mlp.dropout=2 --out runs/a",
        "python run.py sweep --features f.h5 --heads logreg --set alpha=2 --out runs/a",
        "seq 8 | parallel -j 8 permafrost verify --cache",
    ],
)
def test_a_wrong_command_would_be_found(line: str) -> None:
    (arguments,) = find_commands(line)
    with pytest.raises((PipelineError, StageError, CacheError, argparse.ArgumentError)):
        check(arguments)


def test_commands_are_found_in_loops_pipes_and_quotes_and_nowhere_else() -> None:
    assert [*find_commands("a && permafrost gc --dry-run; python run.py demo # or not")] == [
        ["gc", "--dry-run"],
        ["demo"],
    ]
    assert not [*find_commands('pip install "permafrost[s3]" && python -m pytest tests/permafrost')]
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("code", PYTHON)
def test_every_python_block_compiles(code: str) -> None:
    assert ast.parse(code).body


def list_options() -> Iterator[str]:
    for command in list_parsers(build_parser()).values():
        yield from command._option_string_actions


def test_every_option_that_a_page_names_is_one() -> None:
    known = {*list_options(), *THEIRS}
    for page in ALL_PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            for option in re.findall(r"(?<=`)--[a-z][a-z-]+", line):
                assert option in known, f"{page.relative_to(ROOT)}:{number}: {option}"
