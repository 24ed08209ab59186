"""The commands `verify`, `repair`, `gc` and `compact`."""

from __future__ import annotations

import argparse
from pathlib import Path

from permafrost.pipeline.cli.groups import Outcome, add_cache, add_run_options, read_run_options
from permafrost.pipeline.parsers import read_number, read_whole


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Add the options of `verify`."""
    add_cache(parser)
    parser.add_argument(
        "--sample", type=read_number, metavar="P",
        help="also compute this share of the rows again from their images, as 0.01, and compare",
    )  # fmt: skip
    parser.add_argument("--seed", type=read_whole, default=0, metavar="N", help="of the sample")
    parser.add_argument(
        "--features", type=Path, action="append", default=[], metavar="F.h5",
        help="also see whether all that this file needs is there; may be repeated",
    )  # fmt: skip
    add_run_options(parser)


def run_verify(parsed: argparse.Namespace) -> Outcome:
    """Run `verify`."""
    from permafrost.pipeline.upkeep.sample import SampleOptions
    from permafrost.pipeline.upkeep.verify import verify

    sample, run = None, read_run_options(parsed)
    if parsed.sample is not None:
        sample = SampleOptions(share=parsed.sample, seed=parsed.seed, run=run)
    found = verify(parsed.cache, sample, features=parsed.features)
    return Outcome(found.describe(), found.to_dict(), found.status)


def run_repair(parsed: argparse.Namespace) -> Outcome:
    """Run `repair`."""
    from permafrost.pipeline.upkeep.repair import repair

    found = repair(parsed.cache)
    return Outcome(found.describe(), found.to_dict(), found.status)


def add_gc(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gc`."""
    add_cache(parser)
    parser.add_argument(
        "--keep-days", type=read_number, metavar="N", help="drop feature sets not used for N days"
    )
    parser.add_argument(
        "--unused-by", type=Path, nargs="+", action="extend", default=[], metavar="MANIFEST",
        help="drop the rows of images that are in none of these manifests or features.h5",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would go; touch nothing")


def run_gc(parsed: argparse.Namespace) -> Outcome:
    """Run `gc`."""
    from permafrost.pipeline.upkeep.gc import GcOptions, collect

    options = GcOptions(
        root=parsed.cache,
        keep_days=parsed.keep_days,
        unused_by=tuple(parsed.unused_by),
        dry_run=parsed.dry_run,
    )
    result = collect(options)
    return Outcome(result.describe(), result.to_dict())


def run_compact(parsed: argparse.Namespace) -> Outcome:
    """Run `compact`."""
    from permafrost.pipeline.upkeep.compact import compact

    result = compact(parsed.cache)
    return Outcome(result.describe(), result.to_dict())
