"""What commands share: options, added to their parsers and read as typed values; and an outcome."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from permafrost.pipeline.cli.help import DEFAULT_OF_FIELD
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import (
    DEFAULT_CACHE,
    DatasetOptions,
    ExtractOptions,
    FeatureOptions,
    RunOptions,
    read_options,
)
from permafrost.pipeline.parsers import parse_skip_status, read_number
from permafrost.stages.decoding.choices import Isolation

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command has to say: to a person, and to a program with ``--json``.

    `status` is not 0 where the command did its work and found damage; `is_dry` is true where it was
    asked to do none.
    """

    text: str
    figures: Mapping[str, object]
    status: int = 0
    is_dry: bool = False


def read_extract_options(parsed: argparse.Namespace) -> ExtractOptions:
    """Read the options of `extract` and `plan`, as their parser gave them."""
    return ExtractOptions(
        dataset=read_options(DatasetOptions, vars(parsed)),
        features=read_options(FeatureOptions, vars(parsed)),
        cache=parsed.cache,
        run=read_run_options(parsed),
        part=getattr(parsed, "part", None),
    )


def read_run_options(parsed: argparse.Namespace, defaults: RunOptions | None = None) -> RunOptions:
    """Read the options that change no number, such as batch size and memory."""
    names = {option.name for option in fields(RunOptions)}
    given = {name: value for name, value in vars(parsed).items() if name in names}
    return replace(defaults or RunOptions(), **given, isolation=_read_isolation(parsed))


def _read_isolation(parsed: argparse.Namespace) -> Isolation | None:
    timeout_s = parsed.image_timeout
    if not parsed.isolate:
        if timeout_s is not None:
            raise PipelineError(f"--image-timeout {timeout_s:g} goes with --isolate; add it")
        return None
    return Isolation() if timeout_s is None else Isolation(timeout_s=timeout_s)


def read_settings(pairs: list[str]) -> dict[str, str]:
    """Read ``--set KEY=VALUE``, given any number of times."""
    settings: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = (part.strip() for part in pair.partition("="))
        if not separator or not key:
            raise PipelineError(f"--set {pair!r}: write it as KEY=VALUE, as in --set C=0.1")
        if key in settings:
            raise PipelineError(f"--set {key} is given twice; give it once (to sweep, as C=0.1,1)")
        settings[key] = value
    return settings


def add_options(
    parser: argparse._ActionsContainer, options: type[DataclassInstance], *names: str
) -> None:
    """Add the options that fields declare: those of these names, or all.

    One that is not given has no place in what the parser returns: the field has its default.
    """
    for option in fields(options):
        shown = dict(option.metadata)
        if "options" in shown:
            if not names:
                add_options(parser, shown["options"])
            continue
        flag = shown.pop("flag", f"--{option.name.replace('_', '-')}")
        shown.pop("kind", None)
        required = option.default is option.default_factory is MISSING
        if shown and (not names or option.name in names):
            action = parser.add_argument(
                flag, dest=option.name, required=required, default=argparse.SUPPRESS, **shown
            )
            setattr(action, DEFAULT_OF_FIELD, option.default)


def add_extraction_options(parser: argparse.ArgumentParser) -> None:
    """Add what `extract` and `plan` share."""
    add_options(parser.add_argument_group("which images"), DatasetOptions)
    add_options(parser.add_argument_group("which features"), FeatureOptions)
    add_cache(parser)
    parser.add_argument(
        "--materialize", action="store_true", help="copy the values into features.h5"
    )
    add_options(parser, ExtractOptions, "part")
    add_run_options(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the settings of one head."""
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
        help="a setting of the head, as C=0.1 or hidden=256,128; may be repeated",
    )  # fmt: skip


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add ``--cache``."""
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, metavar="DIR", help="where features are kept"
    )


def add_skip_status(parser: argparse.ArgumentParser) -> None:
    """Add ``--skip-status``, of commands that may find all of their work done."""
    parser.add_argument(
        "--skip-status", type=parse_skip_status, metavar="N",
        help="exit with N instead of 0 when nothing was new: nothing computed, no output changed",
    )  # fmt: skip


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that change no number, such as batch size and memory."""
    how = parser.add_argument_group("how (changes no number)")
    add_options(how, RunOptions)
    how.add_argument(
        "--isolate", action="store_true",
        help="decode in processes of their own: a codec that crashes or hangs loses one image",
    )  # fmt: skip
    how.add_argument(
        "--image-timeout", type=read_number, metavar="SECONDS",
        help="of one image, with --isolate (default: 60)",
    )  # fmt: skip
