"""The commands `fit`, `sweep`, `predict` and `export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from permafrost.pipeline.cli.groups import (
    Outcome,
    add_cache,
    add_options,
    add_run_options,
    add_settings,
    add_skip_status,
    read_run_options,
    read_settings,
)
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import read_options
from permafrost.pipeline.parsers import parse_names
from permafrost.pipeline.tracking import TrackOptions


def add_fit(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fit`."""
    from permafrost.pipeline.models.record import FitOptions

    add_options(parser, FitOptions)
    add_settings(parser)
    add_options(parser, TrackOptions)


def run_fit(parsed: argparse.Namespace) -> Outcome:
    """Run `fit`."""
    from permafrost.pipeline.models.fit import fit
    from permafrost.pipeline.models.record import FitOptions

    given = vars(parsed) | {"settings": read_settings(parsed.settings)}
    options = read_options(FitOptions, given)
    tracker = read_options(TrackOptions, vars(parsed)).open()
    result = fit(options)
    tracker.log_fit(result.out, result.metrics)
    return Outcome(result.describe(), result.metrics)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sweep`."""
    from permafrost.pipeline.sweeps.plan import SweepOptions
    from permafrost.stages.heads import HEADS

    add_options(parser, SweepOptions)
    add_options(parser, TrackOptions)
    parser.add_argument(
        "--heads", required=True, type=parse_names, metavar="HEAD,HEAD", help=", ".join(HEADS)
    )
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=V1,V2",
        help="values to try, of all heads that have the setting, as C=0.1,1, or of one, as"
        " mlp.hidden=[256],[256,128]; may be repeated",
    )  # fmt: skip
    add_skip_status(parser)


def run_sweep(parsed: argparse.Namespace) -> Outcome:
    """Run `sweep`."""
    from permafrost.pipeline.sweeps.grid import HeadGrid
    from permafrost.pipeline.sweeps.plan import SweepOptions
    from permafrost.pipeline.sweeps.sweep import sweep
    from permafrost.pipeline.tasks.task import TaskOptions

    data = read_options(TaskOptions, vars(parsed))
    settings = tuple(read_settings(parsed.settings).items())
    candidates = HeadGrid(heads=parsed.heads, settings=settings).expand(data.task)
    given = vars(parsed) | {"data": data, "candidates": candidates}
    tracker = read_options(TrackOptions, given).open()
    result = sweep(read_options(SweepOptions, given))
    tracker.log_sweep(result.out, result.to_dict())
    return Outcome(result.describe(), result.to_dict())


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the options of `export`."""
    from permafrost.stages.export.formats import FORMATS

    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, metavar="DIR", help="what fit wrote")
    what.add_argument(
        "--features", type=Path, action="append", metavar="F.h5",
        help="in place of a model, a layer of what extract wrote, as a table; may be repeated",
    )  # fmt: skip
    parser.add_argument("--layer", metavar="SPEC", help="of --features, as block5_pool:avg")
    parser.add_argument(
        "--format", metavar="|".join(FORMATS),
        help="of a model (default: by the ending of --out)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE",
        help="as classifier.keras, .onnx, .tflite or .xml; of a layer .parquet or .npy",
    )  # fmt: skip
    add_skip_status(parser)


def run_export(parsed: argparse.Namespace) -> Outcome:
    """Run `export`."""
    if parsed.features:
        return _run_export_layer(parsed)
    from permafrost.pipeline.export.export import export

    if parsed.layer is not None:
        raise PipelineError(f"--layer {parsed.layer} goes with --features, not --model; drop one")
    figures = export(parsed.model, parsed.out, form=parsed.format)
    return Outcome(f"{parsed.model} → {parsed.out}", figures)


def _run_export_layer(parsed: argparse.Namespace) -> Outcome:
    from permafrost.pipeline.tasks.layer_file import export_layer

    if parsed.layer is None or parsed.format is not None:
        raise PipelineError("export --features takes a --layer and no --format; see --help")
    figures = export_layer(tuple(parsed.features), parsed.layer, parsed.out)
    return Outcome(f"{figures['images']} images → {parsed.out}", figures)


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Add the options of `predict`."""
    from permafrost.pipeline.models.predict import PredictOptions

    add_options(parser, PredictOptions)
    add_cache(parser)
    add_run_options(parser)
    add_skip_status(parser)


def run_predict(parsed: argparse.Namespace) -> Outcome:
    """Run `predict`."""
    from permafrost.pipeline.models.predict import PredictOptions, describe_predictions, predict

    given = vars(parsed) | {"run": read_run_options(parsed)}
    figures = predict(read_options(PredictOptions, given))
    return Outcome(describe_predictions(figures, parsed.out), figures)
