"""The commands `layers`, `index`, `extract`, `plan`, `audit` and `select`."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from permafrost.pipeline.cli.groups import (
    Outcome,
    add_extraction_options,
    add_options,
    add_settings,
    add_skip_status,
    read_extract_options,
    read_settings,
)
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import (
    OUT,
    SOURCES,
    DatasetOptions,
    FeatureOptions,
    RunOptions,
    read_options,
)
from permafrost.pipeline.units import describe_bytes


def add_layers(parser: argparse.ArgumentParser) -> None:
    """Add the options of `layers`."""
    parser.add_argument("backbone", metavar="BACKBONE", help="vgg16, …, or a model file")
    add_options(parser, FeatureOptions, "weights", "size")


def run_layers(parsed: argparse.Namespace) -> Outcome:
    """Run `layers`."""
    from permafrost.pipeline.planning.backbone import Backbone
    from permafrost.stages.backbones.applications import parse_backbone
    from permafrost.stages.backbones.layers import PIXELS

    options = read_options(FeatureOptions, vars(parsed) | {"layers": ("-",)})
    # Layers and shapes are the same with any weights; there is no need to download half a gigabyte.
    if options.weights == "imagenet" and not parse_backbone(options.backbone).is_saved:
        options = replace(options, weights="random")
    card = Backbone(options).describe_all()
    shared = {name: layer.n_calls for name, layer in card.layers.items() if layer.n_calls > 1}
    images = {} if PIXELS in card.layers else {PIXELS: card.find_layer(PIXELS)}
    listed = images | {name: one for name, one in card.layers.items() if name not in shared}
    layers: list[dict[str, Any]] = [
        {
            "name": name,
            "shape": list(one.shape),
            "bytes": math.prod(one.shape) * (1 if name in images else 4),
            "number": one.number,
            "is_cut": one.is_cut,
        }
        for name, one in listed.items()
    ]
    width = max(map(len, listed), default=0)
    lines = [f"{card.name}, input {card.size[0]}x{card.size[1]}x{card.channels}"]
    lines += [
        f"  {'' if one['number'] is None else one['number']:>4} {one['name']:<{width}}"
        f"  {'x'.join(map(str, one['shape'])):>14}  {describe_bytes(one['bytes']):>9} an image"
        f"{'  cut' * one['is_cut']}"
        for one in layers
    ]
    if any(one["is_cut"] for one in layers):
        lines.append("  cut: everything passes this layer, so `finetune` can train what lies above")
    lines += [
        f"  {name} is called {n} times, and gives no one output" for name, n in shared.items()
    ]
    figures = {"backbone": card.name, "size": list(card.size), "layers": layers}
    return Outcome("\n".join(lines), figures)


def add_index(parser: argparse.ArgumentParser) -> None:
    """Add the options of `index`."""
    parser.add_argument("images", metavar="SOURCE", help=SOURCES)
    parser.add_argument("--out", type=Path, required=True, metavar="manifest.csv", help="the table")
    names = ("labels", "split", "split_names", "seed", "group", "classes")
    add_options(parser, DatasetOptions, *names)
    parser.add_argument(
        "--stats",
        action="store_true",
        help="decode the training images: their sizes, and figures to give --preprocess",
    )
    add_options(parser, RunOptions, "workers")
    add_skip_status(parser)


def run_index(parsed: argparse.Namespace) -> Outcome:
    """Run `index`."""
    from permafrost.cache.disk.publish import make_folder, published
    from permafrost.pipeline.planning.dataset import open_dataset
    from permafrost.pipeline.planning.statistics import measure_images
    from permafrost.stages.datasets.manifest import write_manifest

    if parsed.out.is_dir():
        raise PipelineError(f"--out {str(parsed.out)!r} is a folder; name a file in it")
    options = read_options(DatasetOptions, vars(parsed))
    workers = read_options(RunOptions, vars(parsed)).n_threads
    dataset = open_dataset(options, None, workers=workers)
    stats = measure_images(dataset, workers=workers) if parsed.stats else None
    make_folder(parsed.out.absolute().parent)
    with published(parsed.out) as temporary:
        write_manifest(dataset.manifest, temporary)
    labels = Counter(dataset.manifest.labels)
    splits = Counter(dataset.manifest.splits)
    n_images = len(dataset.manifest)
    figures = {
        "images": n_images,
        "unreadable": len(dataset.unreadable),
        "ignored": asdict(dataset.ignored),
        "labels": dict(sorted(labels.items())),
        "splits": dict(sorted(splits.items())),
        "manifest": str(parsed.out),
    }
    lines = [f"{n_images} images → {parsed.out}"]
    lines += [
        f"  {name}: {_list_counts(c)}" for name, c in (("labels", labels), ("splits", splits))
    ]
    lines += [f"  cannot read {path!r}: {why}" for path, why in dataset.unreadable.items()]
    if stats is not None:
        figures["stats"] = stats.to_dict()
        lines += stats.describe()
    return Outcome("\n".join(lines), figures)


def _list_counts(counts: Counter[str], limit: int = 12) -> str:
    named = [f"{name or '(none)'} {n}" for name, n in sorted(counts.items())]
    return ", ".join(named[:limit]) + (f", … {len(named)} in all" if len(named) > limit else "")


def add_extract(parser: argparse.ArgumentParser) -> None:
    """Add the options of `extract`."""
    add_extraction_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="features.h5", help="the file")
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


def add_audit(parser: argparse.ArgumentParser) -> None:
    """Add the options of `audit`."""
    from permafrost.pipeline.audit.options import AuditOptions
    from permafrost.pipeline.tasks.task import TaskOptions

    add_options(parser, TaskOptions)
    add_options(parser, AuditOptions)
    add_settings(parser)
    parser.add_argument("--out", required=True, **OUT)
    add_skip_status(parser)


def run_audit(parsed: argparse.Namespace) -> Outcome:
    """Run `audit`."""
    from permafrost.pipeline.audit.audit import audit
    from permafrost.pipeline.audit.options import AuditOptions
    from permafrost.pipeline.tasks.task import TaskOptions

    settings = read_settings(parsed.settings)
    data = read_options(TaskOptions, vars(parsed))
    given = vars(parsed) | {"data": data, "settings": settings}
    result = audit(read_options(AuditOptions, given))
    return Outcome(result.describe(), result.figures)


def add_select(parser: argparse.ArgumentParser) -> None:
    """Add the options of `select`."""
    from permafrost.pipeline.audit.options import SelectOptions
    from permafrost.pipeline.tasks.task import TaskOptions

    add_options(parser, TaskOptions)
    add_options(parser, SelectOptions)
    parser.add_argument("--out", type=Path, required=True, metavar="next.csv", help="the table")
    add_skip_status(parser)


def run_select(parsed: argparse.Namespace) -> Outcome:
    """Run `select`."""
    from permafrost.pipeline.audit.options import SelectOptions
    from permafrost.pipeline.audit.select import select
    from permafrost.pipeline.tasks.task import TaskOptions

    given = vars(parsed) | {"data": read_options(TaskOptions, vars(parsed))}
    result = select(read_options(SelectOptions, given))
    return Outcome(result.describe(), result.figures)
