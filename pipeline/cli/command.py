"""One function a command: options out of arguments, the work, and what to tell."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from permafrost.pipeline.cli.groups import (
    read_extract_options,
    read_run_options,
    read_settings,
    read_task_options,
    read_workers,
    split_names,
)
from permafrost.pipeline.options import DatasetOptions, FeatureOptions
from permafrost.stages.cores import count_cores


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command has to say: to a person, and to a program with ``--json``.

    `status` is not 0 where it did its work and what it found is bad.
    """

    text: str
    figures: Mapping[str, object]
    status: int = 0


def run_index(parsed: argparse.Namespace) -> Outcome:
    """``index``."""
    from permafrost.cache.disk.publish import make_folder, published
    from permafrost.pipeline.planning.dataset import open_dataset
    from permafrost.stages.datasets.manifest import write_manifest

    options = DatasetOptions(
        images=parsed.images, labels=parsed.labels, split=parsed.split, seed=parsed.seed
    )
    dataset = open_dataset(options, None, workers=read_workers(parsed))
    make_folder(parsed.out.absolute().parent)
    with published(parsed.out) as temporary:
        write_manifest(dataset.manifest, temporary)
    labels = Counter(dataset.manifest.labels)
    splits = Counter(dataset.manifest.splits)
    n_images = len(dataset.manifest)
    figures = {
        "images": n_images,
        "unreadable": len(dataset.unreadable),
        "labels": dict(sorted(labels.items())),
        "splits": dict(sorted(splits.items())),
        "manifest": str(parsed.out),
    }
    lines = [f"{n_images} images → {parsed.out}"]
    lines += [
        f"  {name}: {_list_counts(c)}" for name, c in (("labels", labels), ("splits", splits))
    ]
    lines += [f"  cannot read {path!r}: {why}" for path, why in dataset.unreadable.items()]
    return Outcome("\n".join(lines), figures)


def _list_counts(counts: Counter[str], limit: int = 12) -> str:
    named = [f"{name or '(none)'} {n}" for name, n in sorted(counts.items())]
    return ", ".join(named[:limit]) + (f", … {len(named)} in all" if len(named) > limit else "")


def run_layers(parsed: argparse.Namespace) -> Outcome:
    """``layers``."""
    from permafrost.pipeline.planning.backbone import Backbone
    from permafrost.stages.backbones.applications import parse_backbone

    # Layers and shapes are the same with any weights; there is no need to download half a gigabyte.
    weights = "random" if parsed.weights == "imagenet" else parsed.weights
    if parse_backbone(parsed.backbone).is_file:
        weights = parsed.weights
    options = FeatureOptions(
        backbone=parsed.backbone, layers=("-",), weights=weights, size=parsed.size
    )
    card = Backbone(options).describe_all()
    rows = [
        (name, "x".join(map(str, layer.shape)), 4 * math.prod(layer.shape))
        for name, layer in card.layers.items()
    ]
    width = max(len(name) for name, *_ in rows)
    lines = [f"{card.name}, input {card.size[0]}x{card.size[1]}x{card.channels}"]
    lines += [f"  {name:<{width}}  {shape:>14}  {n:>12,} bytes an image" for name, shape, n in rows]
    layers = [
        {"name": name, "shape": list(card.layers[name].shape), "bytes": n} for name, _, n in rows
    ]
    return Outcome(
        "\n".join(lines), {"backbone": card.name, "size": list(card.size), "layers": layers}
    )


def run_extract(parsed: argparse.Namespace) -> Outcome:
    """``extract``."""
    from permafrost.pipeline.extraction.extract import extract

    summary = extract(read_extract_options(parsed), parsed.out)
    return Outcome(summary.describe(), summary.to_dict())


def run_plan(parsed: argparse.Namespace) -> Outcome:
    """``plan``."""
    from permafrost.pipeline.extraction.plan import preview

    found = preview(read_extract_options(parsed))
    return Outcome(found.describe(), found.to_dict())


def run_fit(parsed: argparse.Namespace) -> Outcome:
    """``fit``."""
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


def run_sweep(parsed: argparse.Namespace) -> Outcome:
    """``sweep``."""
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


def run_predict(parsed: argparse.Namespace) -> Outcome:
    """``predict``."""
    from permafrost.pipeline.models.predict import predict

    figures = predict(
        parsed.model,
        parsed.images,
        out=parsed.out,
        cache=parsed.cache,
        run=read_run_options(parsed),
    )
    return Outcome(f"{figures['images']} images → {parsed.out}", figures)


def run_export(parsed: argparse.Namespace) -> Outcome:
    """``export``."""
    from permafrost.pipeline.models.export import export

    figures = export(parsed.model, parsed.out)
    return Outcome(f"{parsed.model} → {parsed.out}", figures)


def run_experiment(parsed: argparse.Namespace) -> Outcome:
    """``run``."""
    from permafrost.pipeline.experiments.run import run_experiment as run
    from permafrost.pipeline.experiments.schema import read_experiment

    result = run(read_experiment(parsed.experiment), read_run_options(parsed))
    return Outcome(result.describe(), result.to_dict())


def run_demo(parsed: argparse.Namespace) -> Outcome:
    """``demo``."""
    from permafrost.pipeline.experiments.demo import demo

    result = demo(parsed.out)
    return Outcome(result.describe(), result.to_dict())


def run_verify(parsed: argparse.Namespace) -> Outcome:
    """``verify``."""
    from permafrost.pipeline.upkeep.sample import SampleOptions
    from permafrost.pipeline.upkeep.shared import verify

    sample = None
    if parsed.sample is not None:
        run = read_run_options(parsed)
        sample = SampleOptions(share=parsed.sample, seed=parsed.seed, run=run)
    found = verify(parsed.cache, sample)
    return Outcome(found.describe(), found.to_dict(), found.status)


def run_repair(parsed: argparse.Namespace) -> Outcome:
    """``repair``."""
    from permafrost.pipeline.upkeep.repair_report import repair

    found = repair(parsed.cache, read_run_options(parsed))
    return Outcome(found.describe(), found.to_dict(), found.status)


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


def run_compact(parsed: argparse.Namespace) -> Outcome:
    """``compact``."""
    from permafrost.pipeline.upkeep.compact import compact

    result = compact(parsed.cache)
    return Outcome(result.describe(), result.to_dict())


COMMANDS: Mapping[str, Callable[[argparse.Namespace], Outcome]] = {
    "demo": run_demo,
    "layers": run_layers,
    "index": run_index,
    "extract": run_extract,
    "plan": run_plan,
    "fit": run_fit,
    "sweep": run_sweep,
    "predict": run_predict,
    "export": run_export,
    "run": run_experiment,
    "verify": run_verify,
    "repair": run_repair,
    "gc": run_gc,
    "compact": run_compact,
}
