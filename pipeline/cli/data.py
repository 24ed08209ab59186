"""The commands `index` and `layers`."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from permafrost.pipeline.cli.command import Outcome
from permafrost.pipeline.cli.groups import (
    SOURCES,
    add_backbone_options,
    add_label_options,
    add_workers,
    read_workers,
)
from permafrost.pipeline.options import DatasetOptions, FeatureOptions

if TYPE_CHECKING:
    from permafrost.pipeline.cli.groups import Commands


def add_layers(commands: Commands) -> argparse.ArgumentParser:
    """Add the parser of `layers`."""
    parser = commands.add_parser("layers", help="list a backbone's layers, shapes and sizes")
    parser.add_argument("backbone", metavar="BACKBONE")
    add_backbone_options(parser)
    parser.set_defaults(call=run_layers)
    return parser


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


def add_index(commands: Commands) -> argparse.ArgumentParser:
    """Add the parser of `index`."""
    parser = commands.add_parser("index", help="list a dataset's images, labels and splits")
    parser.add_argument("images", metavar="SOURCE", help=SOURCES)
    parser.add_argument("--out", type=Path, required=True, metavar="manifest.csv")
    add_label_options(parser)
    add_workers(parser)
    parser.set_defaults(call=run_index)
    return parser


def run_index(parsed: argparse.Namespace) -> Outcome:
    """``index``."""
    from permafrost.cache.disk.publish import make_folder, published
    from permafrost.pipeline.planning.dataset import open_dataset
    from permafrost.stages.datasets.manifest import write_manifest

    options = DatasetOptions(
        images=parsed.images,
        labels=parsed.labels,
        split=parsed.split,
        split_names=parsed.split_names,
        seed=parsed.seed,
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
    return Outcome("\n".join(lines), figures)


def _list_counts(counts: Counter[str], limit: int = 12) -> str:
    named = [f"{name or '(none)'} {n}" for name, n in sorted(counts.items())]
    return ", ".join(named[:limit]) + (f", … {len(named)} in all" if len(named) > limit else "")
