"""The table of commands, and the parser of the command line that is built from it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from permafrost.command import COMMAND
from permafrost.pipeline.cli import data, experiments, extraction, models, upkeep
from permafrost.pipeline.cli.command import Outcome
from permafrost.pipeline.cli.groups import add_cache
from permafrost.pipeline.cli.reporting import add_reporting
from permafrost.pipeline.errors import PipelineError

AddOptions = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], Outcome]
# What `--help` lists a command with, what adds its options, and what does its work.
_COMMANDS: Mapping[str, tuple[str, AddOptions, Run]] = {
    "demo": (
        "see all of it work, offline, on embedded data, in about a minute",
        experiments.add_demo,
        experiments.run_demo,
    ),
    "layers": ("list a backbone's layers, shapes and sizes", data.add_layers, data.run_layers),
    "index": ("list a dataset's images, labels and splits", data.add_index, data.run_index),
    "extract": (
        "compute activations, and write features.h5",
        extraction.add_extract,
        extraction.run_extract,
    ),
    "plan": (
        "say what extract would do; compute nothing",
        extraction.add_plan,
        extraction.run_plan,
    ),
    "fit": ("fit a head on cached features", models.add_fit, models.run_fit),
    "sweep": (
        "try layers, poolings, heads and settings on the same folds, and rank them",
        models.add_sweep,
        models.run_sweep,
    ),
    "advise": (
        "say which layer and which recipe, with the evidence; write the next experiment",
        experiments.add_advise,
        experiments.run_advise,
    ),
    "audit": (
        "say which labels are probably wrong, and which images are odd or there twice",
        data.add_audit,
        data.run_audit,
    ),
    "select": ("say which images to label next", data.add_select, data.run_select),
    "predict": ("classify new images with a fitted head", models.add_predict, models.run_predict),
    "export": (
        "write backbone, preprocessing and head as one Keras model",
        models.add_export,
        models.run_export,
    ),
    "run": (
        "do all of it from one file, computing only what is missing",
        experiments.add_run,
        experiments.run_experiment,
    ),
    "verify": ("read all of a cache, and name all damage", upkeep.add_verify, upkeep.run_verify),
    "show": ("say what a features.h5 or a cache is made of", upkeep.add_show, upkeep.run_show),
    "repair": (
        "save the rows that are intact, and put damaged files into quarantine",
        add_cache,
        upkeep.run_repair,
    ),
    "gc": (
        "drop what nobody needs from a cache: by rule; and always what killed runs left, and"
        " rows that are there twice",
        upkeep.add_gc,
        upkeep.run_gc,
    ),
    "compact": ("merge the small shards of a cache", add_cache, upkeep.run_compact),
}


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        raise PipelineError(f"{message}; see: {self.prog} --help")


class _CommandParser(_Parser):
    """The parser of one command; it gets its options when asked, as naming heads takes long."""

    add_options: AddOptions | None = None

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        if self.add_options is not None:
            add_options, self.add_options = self.add_options, None
            add_options(self)
            add_reporting(self)
        return super().parse_known_args(*args, **kwargs)


def build_parser() -> argparse.ArgumentParser:
    """Build the whole command line."""
    parser: argparse.ArgumentParser = _Parser(
        prog=COMMAND,
        description="Push images through a frozen network once, keep the activations, and fit as"
        " many light heads on them as you like.",
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_CommandParser
    )
    for name, (help_, add_options, run) in _COMMANDS.items():
        command = commands.add_parser(name, help=help_)
        command.set_defaults(call=run)
        command.add_options = add_options
    return parser
