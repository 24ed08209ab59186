"""The commands `verify`, `repair`, `gc` and `compact`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from permafrost.pipeline.cli.command import Outcome
from permafrost.pipeline.cli.groups import (
    add_cache,
    add_run_options,
    read_number,
    read_run_options,
    read_whole,
)

if TYPE_CHECKING:
    from permafrost.pipeline.cli.groups import Commands


def add_verify(commands: Commands) -> argparse.ArgumentParser:
    """Add the parser of `verify`."""
    parser = commands.add_parser("verify", help="read all of a cache, and name all damage")
    add_cache(parser)
    parser.add_argument(
        "--sample", type=read_number, metavar="P",
        help="also compute this share of the rows again from their images, as 0.01, and compare",
    )  # fmt: skip
    parser.add_argument("--seed", type=read_whole, default=0, metavar="N", help="of the sample")
    add_run_options(parser)
    parser.set_defaults(call=run_verify)
    return parser


def run_verify(parsed: argparse.Namespace) -> Outcome:
    """``verify``."""
    from permafrost.pipeline.upkeep.sample import SampleOptions
    from permafrost.pipeline.upkeep.verify import verify

    sample = None
    if parsed.sample is not None:
        run = read_run_options(parsed)
        sample = SampleOptions(share=parsed.sample, seed=parsed.seed, run=run)
    found = verify(parsed.cache, sample)
    return Outcome(found.describe(), found.to_dict(), found.status)


def add_repair(commands: Commands) -> argparse.ArgumentParser:
    """Add the parser of `repair`."""
    parser = commands.add_parser("repair", help="mend what verify finds; compute what is damaged")
    add_cache(parser)
    add_run_options(parser)
    parser.set_defaults(call=run_repair)
    return parser


def run_repair(parsed: argparse.Namespace) -> Outcome:
    """``repair``."""
    from permafrost.pipeline.upkeep.repair import repair

    found = repair(parsed.cache, read_run_options(parsed))
    return Outcome(found.describe(), found.to_dict(), found.status)


def add_gc(commands: Commands) -> argparse.ArgumentParser:
    """Add the parser of `gc`."""
    parser = commands.add_parser(
        "gc",
        help="drop what nobody needs from a cache: by rule; and always what killed runs left, and"
        " rows that are there twice",
    )
    add_cache(parser)
    parser.add_argument(
        "--keep-days", type=read_number, metavar="N", help="drop feature sets not used for N days"
    )
    parser.add_argument(
        "--unused-by", type=Path, nargs="+", action="extend", default=[], metavar="MANIFEST",
        help="drop the rows of images that are in none of these manifests or features.h5",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would go; touch nothing")
    parser.set_defaults(call=run_gc)
    return parser


def run_gc(parsed: argparse.Namespace) -> Outcome:
    """``gc``."""
    from permafrost.pipeline.upkeep.gc import GcOptions, collect

    options = GcOptions(
        root=parsed.cache,
        keep_days=parsed.keep_days,
        unused_by=tuple(parsed.unused_by),
        dry_run=parsed.dry_run,
    )
    result = collect(options)
    return Outcome(result.describe(), result.to_dict())


def add_compact(commands: Commands) -> argparse.ArgumentParser:
    """Add the parser of `compact`."""
    parser = commands.add_parser("compact", help="merge the small shards of a cache")
    add_cache(parser)
    parser.set_defaults(call=run_compact)
    return parser


def run_compact(parsed: argparse.Namespace) -> Outcome:
    """``compact``."""
    from permafrost.pipeline.upkeep.compact import compact

    result = compact(parsed.cache)
    return Outcome(result.describe(), result.to_dict())
