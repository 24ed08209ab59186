"""The commands `run` and `demo`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from permafrost.pipeline.cli.command import Outcome
from permafrost.pipeline.cli.groups import add_run_options, read_run_options

if TYPE_CHECKING:
    from permafrost.pipeline.cli.groups import Commands


def add_demo(commands: Commands) -> argparse.ArgumentParser:
    """Add the parser of `demo`."""
    parser = commands.add_parser(
        "demo", help="see all of it work, offline, on embedded data, in about a minute"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR")
    parser.set_defaults(call=run_demo)
    return parser


def run_demo(parsed: argparse.Namespace) -> Outcome:
    """``demo``."""
    from permafrost.pipeline.experiments.demo import demo

    result = demo(parsed.out)
    return Outcome(result.describe(), result.to_dict())


def add_run(commands: Commands) -> argparse.ArgumentParser:
    """Add the parser of `run`."""
    parser = commands.add_parser(
        "run", help="do all of it from one file, computing only what is missing"
    )
    parser.add_argument("experiment", type=Path, metavar="experiment.yaml")
    add_run_options(parser)
    parser.set_defaults(call=run_experiment)
    return parser


def run_experiment(parsed: argparse.Namespace) -> Outcome:
    """``run``."""
    from permafrost.pipeline.experiments.run import run_experiment as run
    from permafrost.pipeline.experiments.schema import read_experiment

    result = run(read_experiment(parsed.experiment), read_run_options(parsed))
    return Outcome(result.describe(), result.to_dict())
