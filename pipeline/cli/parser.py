"""The table of commands, and the parser of the command line that is built from it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from permafrost.about import NAME
from permafrost.command import COMMAND
from permafrost.pipeline.cli import data, experiments, looking, models, upkeep
from permafrost.pipeline.cli.groups import Outcome, add_cache
from permafrost.pipeline.cli.help import HelpFormatter, write_examples
from permafrost.pipeline.cli.reporting import add_reporting
from permafrost.pipeline.errors import PipelineError

AddOptions = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], Outcome]
_SHELLS = ("bash", "zsh", "tcsh")
# Options that may name a file, among other things.
_PATHS = ("images", "backbone", "weights")


def _add_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=" or ".join(_SHELLS))


def _run_completion(parsed: argparse.Namespace) -> Outcome:
    try:
        import shtab
    except ImportError:
        raise PipelineError(
            'completion needs the package shtab; get it with: pip install "permafrost[completion]"'
        ) from None
    parser = build_parser(NAME)
    for command in list_parsers(parser).values():
        for action in command._actions:
            if action.type is Path or action.dest in _PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    script = shtab.complete(parser, parsed.shell)
    return Outcome(script, {"shell": parsed.shell, "script": script})


# What `--help` lists a command with, what adds its options, and what does its work.
_COMMANDS: Mapping[str, tuple[str, AddOptions, Run]] = {
    "demo": (
        "see all of it work, offline, on embedded data, in about a minute",
        experiments.add_demo,
        experiments.run_demo,
    ),
    "layers": ("list a backbone's layers, shapes and sizes", data.add_layers, data.run_layers),
    "index": ("list a dataset's images, labels and splits", data.add_index, data.run_index),
    "extract": ("compute activations, and write features.h5", data.add_extract, data.run_extract),
    "plan": ("say what extract would do; compute nothing", data.add_plan, data.run_plan),
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
    "report": (
        "write one page that shows what sweeps, fits, runs and advice found",
        experiments.add_report,
        experiments.run_report,
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
    "show": (
        "say what a thing is made of; or, of an image, where a head looks",
        looking.add_show,
        looking.run_show,
    ),
    "search": (
        "list the images that are most like an image, or like what a text says",
        looking.add_search,
        looking.run_search,
    ),
    "doctor": (
        "say what is wrong here, which engines work, and what each extra would bring",
        add_cache,
        looking.run_doctor,
    ),
    "completion": (
        "write what completes this command in your shell",
        _add_completion,
        _run_completion,
    ),
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

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse what a shell makes of variables that are not set, and what Python takes so."""
        if action.type is Path and "" in arg_strings:
            raise argparse.ArgumentError(action, "'' is no name; give that of a file or folder")
        if action.option_strings and arg_strings == ["--"]:  # of --option=--
            raise argparse.ArgumentError(action, "'--' is no value; give one")
        return super()._get_values(action, arg_strings)


class _CommandParser(_Parser):
    """The parser of one command; it gets its options when asked, as naming heads takes long."""

    add_options: AddOptions | None = None

    def fill(self) -> None:
        """Add the options, if that was not done yet."""
        if self.add_options is not None:
            add_options, self.add_options = self.add_options, None
            add_options(self)
            add_reporting(self)

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        self.fill()
        return super().parse_known_args(*args, **kwargs)


class _Version(argparse.Action):
    """Says the version, which is only looked up then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from permafrost.about import read_version

        print(f"{NAME} {read_version()}")
        parser.exit()


def build_parser(prog: str = COMMAND) -> argparse.ArgumentParser:
    """Build the whole command line, under the name that messages call it by."""
    parser: argparse.ArgumentParser = _Parser(
        prog=prog,
        description="Push images through a frozen network once, keep the activations, and fit as"
        " many light heads on them as you like.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="say the version, and exit")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_CommandParser
    )
    for name, (help_, add_options, run) in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=help_,
            description=f"{help_[0].upper()}{help_[1:]}.",
            epilog=write_examples(name),
            formatter_class=HelpFormatter,
        )
        command.set_defaults(call=run)
        command.add_options = add_options
    return parser


def list_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command, with all its options."""
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    parsers: dict[str, _CommandParser] = dict(commands.choices)
    for command in parsers.values():
        command.fill()
    return dict(parsers)
