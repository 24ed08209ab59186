"""What it cost, and how to repeat it."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields

from permafrost.about import find_version
from permafrost.cache.store.records import Cost, read_record
from permafrost.command import COMMAND
from permafrost.pipeline.advice.known import look_up
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import FeatureOptions, name_key
from permafrost.pipeline.report.chapter import Chapter
from permafrost.pipeline.report.parts import Code, Part, Section, Table, Tiles, show_number
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.pipeline.units import count, describe_seconds
from permafrost.stages.backbones.applications import NO_BACKBONE
from permafrost.stages.backbones.layers import PIXELS
from permafrost.stages.errors import StageError
from permafrost.stages.heads import HEADS

_SHARES = ("loading", "backbone", "disk", "building")
_PACKAGES = ("permafrost", "tensorflow", "keras", "scikit-learn", "numpy", "pillow", "h5py")


def tell_cost(chapter: Chapter, files: FeatureFiles | None) -> Section:
    """Say what the features and the fits took, with all that it takes to repeat them."""
    seconds = sum(entry.seconds for entry in chapter.entries) or chapter.metrics["seconds"]
    fits = len(chapter.entries) * max(1, len(chapter.folds)) or 1
    took = describe_seconds(seconds)
    tiles = [("Fits", f"{fits:,}", ""), ("Seconds of fits", took, "all together")]
    costs = dict(_list_costs(files)) if files else {}
    finding = f"{count(fits, 'fit')} on cached features took {took} of computing"
    for name, cost in costs.items():
        finding += (
            f"; the features of {name} took {describe_seconds(cost.seconds)} for"
            f" {count(cost.images, 'image')} in the cache"
        )
    parts: list[Part] = [Tiles(items=tiles)]
    if costs:
        parts.append(_list_backbones(costs))
    parts.append(_list_extractions(chapter))
    if len({entry.kind for entry in chapter.entries}) > 1:
        parts.append(_list_heads(chapter))
    commands = "\n".join(_list_commands(chapter, files))
    parts.append(
        Code(title="To repeat it, with your own options for labels and split", text=commands)
    )
    recipes = [part["recipe"] for part in chapter.record["parts"]]
    versions = {name: find_version(name) for name in _PACKAGES}
    for title, text in (
        ("The recipe of the features", json.dumps(recipes, indent=2)),
        ("The head's settings", json.dumps(chapter.metrics["settings"], indent=2)),
        (
            "Versions that wrote this page",
            "\n".join(f"{name} {found}" for name, found in versions.items() if found),
        ),
    ):
        parts.append(Code(title=title, text=text, is_folded=True))
    title = "What it cost, and how to repeat it"
    return Section(name="cost", title=title, finding=f"{finding}.", parts=parts)


def _list_costs(files: FeatureFiles) -> Iterator[tuple[str, Cost]]:
    """Yield what each backbone's features cost; layers that were computed together, once."""
    for file in files.opened:
        folders = filter(None, map(file.folder, file.layers))
        costs = [cost for folder in folders if (cost := read_record(folder, Cost)) and cost.seconds]
        if costs:
            name = look_up(file).name
            yield (
                PIXELS if name == NO_BACKBONE else name,
                max(costs, key=lambda cost: cost.seconds),
            )


def _list_backbones(costs: Mapping[str, Cost]) -> Table:
    shares = (f">{share.capitalize()}" for share in _SHARES)
    header = ("Features of", ">Images", ">Seconds", ">Images/s", *shares)
    rows = [
        (
            name,
            f"{cost.images:,}",
            show_number(cost.seconds),
            show_number(cost.images / cost.seconds),
            *(f"{getattr(cost, share) / cost.seconds:.0%}" for share in _SHARES),
        )
        for name, cost in costs.items()
    ]
    note = "Of all rows in the cache, each computed once, whatever is fitted on them."
    return Table(title="What the features cost", header=header, rows=rows, note=note)


def _list_extractions(chapter: Chapter) -> Table:
    """Return what a run found in the cache, and what it computed."""
    rows = [
        tuple(f"{one.get(name) or 0:,}" for name in ("images", "reused", "computed", "failed"))
        for one in chapter.summary.get("extractions", ())
    ]
    header = (">Images", ">Hits", ">Computed", ">Failed")
    title = "What this run found in the cache, for each backbone"
    return Table(title=title, header=header, rows=rows)


def _list_heads(chapter: Chapter) -> Table:
    spent: Counter[str] = Counter()
    for entry in chapter.entries:
        spent[entry.kind] += entry.seconds  # type: ignore[assignment]
    tried = Counter(entry.kind for entry in chapter.entries)
    n_folds = max(1, len(chapter.folds))
    rows = [
        (kind, f"{tried[kind]:,}", show_number(s), show_number(s / tried[kind] / n_folds))
        for kind, s in spent.most_common()
    ]
    header = ("Head", ">Tried", ">Seconds", ">Seconds a fit")
    return Table(title="Seconds of each kind of head", header=header, rows=rows)


def _list_commands(chapter: Chapter, files: FeatureFiles | None) -> Iterator[str]:
    for file in files.opened if files else ():
        try:
            options = FeatureOptions.from_json(file.origin)
        except (PipelineError, StageError, ValueError):
            continue
        given = " ".join(_list_options(options))
        root, out = shlex.quote(file.place), shlex.quote(os.path.normpath(file.path))
        yield f"{COMMAND} extract --images {root} {given} --out {out}"
    yield f"{COMMAND} fit {' '.join(_list_fit_options(chapter))}"
    yield f"{COMMAND} report {shlex.quote(str(chapter.folder))}"


def _list_fit_options(chapter: Chapter) -> Iterator[str]:
    asked = chapter.metrics.get("data", {})
    for file in asked.get("features", ("features.h5",)):
        yield f"--features {shlex.quote(os.path.normpath(chapter.model / file))}"
    yield f"--layer {shlex.quote(str(asked.get('layer', chapter.layer)))}"
    yield f"--head {chapter.metrics['head']}"
    defaults = asdict(HEADS[chapter.metrics["head"]].settings())
    for name, value in chapter.metrics["settings"].items():
        text = json.dumps(value, separators=(",", ":")).strip('"')
        if text != json.dumps(defaults.get(name), separators=(",", ":")).strip('"'):
            yield f"--set {shlex.quote(f'{name}={text}')}"
    for name in ("task", "target", "seed", "cv", "group"):
        if asked.get(name) is not None:
            yield f"--{name} {shlex.quote(str(asked[name]))}"
    yield f"--out {shlex.quote(str(chapter.model))}"


def _list_options(options: FeatureOptions) -> Iterator[str]:
    """Yield the options of an extraction that are not the default."""
    for option in fields(options):
        value = getattr(options, option.name)
        if option.default is not MISSING and value == option.default:
            continue
        if isinstance(value, tuple):
            value = ("x" if option.name == "size" else ",").join(map(str, value))
        yield f"--{name_key(option).replace('_', '-')} {shlex.quote(str(value))}"
