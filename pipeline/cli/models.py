"""The commands `fit`, `sweep`, `predict` and `export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from permafrost.cores import count_cores
from permafrost.pipeline.cli.command import Outcome
from permafrost.pipeline.cli.groups import (
    add_cache,
    add_run_options,
    add_task_options,
    read_run_options,
    read_settings,
    read_task_options,
    split_names,
)
from permafrost.pipeline.options import SOURCES, read_whole


def add_fit(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fit`."""
    from permafrost.stages.heads import HEADS

    add_task_options(parser)
    parser.add_argument(
        "--layer", required=True, metavar="SPEC", help="as block5_pool:avg; A+B joins two"
    )
    parser.add_argument("--head", required=True, metavar="|".join(HEADS))
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
        help="a setting of the head, as C=0.1 or hidden=256,128; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def run_fit(parsed: argparse.Namespace) -> Outcome:
    """Run `fit`."""
    from permafrost.pipeline.models.fit import FitOptions, fit

    options = FitOptions(
        data=read_task_options(parsed),
        layer=parsed.layer,
        head=parsed.head,
        settings=read_settings(parsed.settings),
        out=parsed.out,
    )
    result = fit(options)
    return Outcome(result.describe(), result.metrics)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sweep`."""
    from permafrost.stages.heads import HEADS

    add_task_options(parser)
    parser.add_argument(
        "--layers", metavar="SPEC,SPEC", help="as block2_pool:avg,A+B (default: all there are)"
    )
    parser.add_argument(
        "--poolings", metavar="avg,max,flatten", help="try these on every layer that is a map"
    )
    parser.add_argument("--heads", required=True, metavar=",".join(HEADS))
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=V1,V2",
        help="values to try, of all heads that have the setting, as C=0.1,1, or of one, as"
        " mlp.hidden=[256],[256,128]; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=read_whole, metavar="N", help="processes (default: the cores)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def run_sweep(parsed: argparse.Namespace) -> Outcome:
    """Run `sweep`."""
    from permafrost.pipeline.sweeps.grid import HeadGrid
    from permafrost.pipeline.sweeps.sweep import SweepOptions, sweep

    options = SweepOptions(
        data=read_task_options(parsed),
        layers=split_names(parsed.layers, "--layers"),
        poolings=split_names(parsed.poolings, "--poolings"),
        heads=HeadGrid(
            heads=split_names(parsed.heads, "--heads") or (),
            settings=tuple(read_settings(parsed.settings).items()),
        ),
        jobs=count_cores() if parsed.jobs is None else parsed.jobs,
        out=parsed.out,
    )
    result = sweep(options)
    return Outcome(result.describe(), result.to_dict())


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the options of `export`."""
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="what fit wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="classifier.keras")


def run_export(parsed: argparse.Namespace) -> Outcome:
    """Run `export`."""
    from permafrost.pipeline.models.export import export

    figures = export(parsed.model, parsed.out)
    return Outcome(f"{parsed.model} → {parsed.out}", figures)


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Add the options of `predict`."""
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="what fit wrote")
    parser.add_argument("--images", required=True, metavar="SOURCE", help=SOURCES)
    parser.add_argument("--out", type=Path, required=True, metavar="predictions.csv")
    add_cache(parser)
    add_run_options(parser)


def run_predict(parsed: argparse.Namespace) -> Outcome:
    """Run `predict`."""
    from permafrost.pipeline.models.predict import predict

    figures = predict(
        parsed.model,
        parsed.images,
        out=parsed.out,
        cache=parsed.cache,
        run=read_run_options(parsed),
    )
    return Outcome(f"{figures['images']} images → {parsed.out}", figures)
