"""The commands `extract` and `plan`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from permafrost.pipeline.cli.command import Outcome
from permafrost.pipeline.cli.groups import add_extraction_options, read_extract_options

if TYPE_CHECKING:
    from permafrost.pipeline.cli.groups import Commands


def add_extract(commands: Commands) -> argparse.ArgumentParser:
    """Add the parser of `extract`."""
    parser = commands.add_parser("extract", help="compute activations, and write features.h5")
    add_extraction_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="features.h5")
    parser.set_defaults(call=run_extract)
    return parser


def run_extract(parsed: argparse.Namespace) -> Outcome:
    """``extract``."""
    from permafrost.pipeline.extraction.extract import extract

    summary = extract(read_extract_options(parsed), parsed.out)
    return Outcome(summary.describe(), summary.to_dict())


def add_plan(commands: Commands) -> argparse.ArgumentParser:
    """Add the parser of `plan`."""
    parser = commands.add_parser("plan", help="say what extract would do; compute nothing")
    add_extraction_options(parser)
    parser.add_argument("--out", type=Path, metavar="features.h5", help="ignored here")
    parser.set_defaults(call=run_plan)
    return parser


def run_plan(parsed: argparse.Namespace) -> Outcome:
    """``plan``."""
    from permafrost.pipeline.extraction.plan import preview

    found = preview(read_extract_options(parsed))
    return Outcome(found.describe(), found.to_dict())
