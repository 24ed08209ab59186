"""What can be typed: one parser a command, options in groups that commands share."""

from __future__ import annotations

import argparse
from typing import NoReturn

from permafrost.pipeline.cli import data, experiments, extraction, models, upkeep
from permafrost.pipeline.errors import PipelineError

# As `--help` lists them. Each names the function that its command calls.
_COMMANDS = (
    experiments.add_demo,
    data.add_layers,
    data.add_index,
    extraction.add_extract,
    extraction.add_plan,
    models.add_fit,
    models.add_sweep,
    models.add_predict,
    models.add_export,
    experiments.add_run,
    upkeep.add_verify,
    upkeep.add_repair,
    upkeep.add_gc,
    upkeep.add_compact,
)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise PipelineError(f"{message}; see: python {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """Build the whole command line."""
    parser: argparse.ArgumentParser = _Parser(
        prog="run.py",
        description="Push images through a frozen network once, keep the activations, and fit as"
        " many light heads on them as you like.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in _COMMANDS:
        command = add(commands)
        command.add_argument(
            "--json", action="store_true", help="print one JSON object as the last line of stdout"
        )
    return parser
