"""The commands `extract` and `plan`."""

from __future__ import annotations

import argparse
from pathlib import Path

from permafrost.pipeline.cli.command import Outcome
from permafrost.pipeline.cli.groups import (
    add_extraction_options,
    add_skip_status,
    read_extract_options,
)


def add_extract(parser: argparse.ArgumentParser) -> None:
    """Add the options of `extract`."""
    add_extraction_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="features.h5")
    parser.add_argument("--dry-run", action="store_true", help="say what plan says; do nothing")
    add_skip_status(parser)


def run_extract(parsed: argparse.Namespace) -> Outcome:
    """Run `extract`."""
    if parsed.dry_run:
        return run_plan(parsed)
    from permafrost.pipeline.extraction.extract import extract

    summary = extract(read_extract_options(parsed), parsed.out)
    return Outcome(summary.describe(), summary.to_dict())


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add the options of `plan`."""
    add_extraction_options(parser)
    parser.add_argument("--out", type=Path, metavar="features.h5", help="ignored here")
    parser.add_argument(
        "--compare", action="store_true",
        help="time all engines and precisions on some of the images, in about a minute",
    )  # fmt: skip


def run_plan(parsed: argparse.Namespace) -> Outcome:
    """Run `plan`."""
    from permafrost.pipeline.extraction.plan import preview

    found = preview(read_extract_options(parsed), compares=getattr(parsed, "compare", False))
    return Outcome(found.describe(), found.to_dict(), is_dry=True)
