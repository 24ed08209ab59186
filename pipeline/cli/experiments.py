"""The commands `run`, `advise`, `report` and `demo`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from permafrost.pipeline.cli.groups import (
    Outcome,
    add_options,
    add_run_options,
    add_skip_status,
    read_run_options,
)
from permafrost.pipeline.options import read_options
from permafrost.pipeline.tracking import TrackOptions


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Add the options of `demo`."""
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="a folder for all of it"
    )


def run_demo(parsed: argparse.Namespace) -> Outcome:
    """Run `demo`."""
    from permafrost.pipeline.experiments.demo import demo

    result = demo(parsed.out)
    return Outcome(result.describe(), result.to_dict())


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument(
        "experiment", type=Path, metavar="experiment.yaml", help="what to do; see docs/options.md"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="say what each step would do; do none")
    what.add_argument(
        "--plan-json", action="store_true",
        help="print the steps as JSON, each with inputs, outputs and command, for workflow runners",
    )  # fmt: skip
    what.add_argument("--step", metavar="NAME", help="do one of these steps alone")
    add_options(parser, TrackOptions)
    add_run_options(parser)
    add_skip_status(parser)


def run_experiment(parsed: argparse.Namespace) -> Outcome:
    """Run `run`."""
    from permafrost.pipeline.experiments.experiment import read_experiment
    from permafrost.pipeline.experiments.run import run_experiment as run
    from permafrost.pipeline.experiments.steps import describe_steps, rehearse, run_step

    experiment = read_experiment(parsed.experiment)
    if "track" in parsed:
        experiment = replace(experiment, tracking=read_options(TrackOptions, vars(parsed)))
    experiment = experiment.with_run(read_run_options(parsed, experiment.run))
    if parsed.plan_json:
        # What was typed without this option, which may be abbreviated.
        arguments = [one for one in parsed.arguments if not one.startswith("--pl")]
        return Outcome(*describe_steps(experiment, arguments), is_dry=True)
    if parsed.dry_run:
        return Outcome(*rehearse(experiment), is_dry=True)
    if parsed.step is not None:
        return Outcome(*run_step(experiment, parsed.step))
    result = run(experiment)
    return Outcome(result.describe(), result.to_dict())


def add_advise(parser: argparse.ArgumentParser) -> None:
    """Add the options of `advise`."""
    from permafrost.pipeline.sweeps.plan import SweepOptions
    from permafrost.pipeline.tasks.task import TaskOptions

    add_options(parser, TaskOptions)
    add_options(parser, SweepOptions, "jobs")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/advice"),
        metavar="DIR",
        help="a folder for what is found",
    )
    add_skip_status(parser)


def run_advise(parsed: argparse.Namespace) -> Outcome:
    """Run `advise`."""
    from permafrost.pipeline.advice.advise import AdviseOptions, advise

    advice = advise(read_options(AdviseOptions, vars(parsed)))
    return Outcome(advice.describe(), advice.to_dict())


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the options of `report`."""
    from permafrost.pipeline.report.report import ReportOptions

    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="what sweep, fit, run, advise or audit wrote",
    )
    add_options(parser, ReportOptions)
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="report.html", help="the page"
    )


def run_report(parsed: argparse.Namespace) -> Outcome:
    """Run `report`."""
    from permafrost.pipeline.report.report import ReportOptions, describe_report, write_report

    figures = write_report(read_options(ReportOptions, vars(parsed)))
    return Outcome(describe_report(figures), figures)
