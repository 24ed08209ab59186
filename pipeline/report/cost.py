"""What it cost, and how to repeat it."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import MISSING, fields
from importlib.metadata import PackageNotFoundError, version

from permafrost.cache.store.records import Cost, read_record
from permafrost.command import COMMAND
from permafrost.pipeline.advice.known import look_up
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import FeatureOptions, name_key
from permafrost.pipeline.report.chapter import Chapter
from permafrost.pipeline.report.parts import (
    Code,
    Section,
    Table,
    Tiles,
    count,
    show_number,
    show_seconds,
)
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.stages.errors import StageError

_PACKAGES = ("permafrost", "tensorflow", "keras", "scikit-learn", "numpy", "pillow", "h5py")


def tell_cost(chapter: Chapter, files: FeatureFiles | None) -> Section:
    """Say what the features and the fits took, with all that it takes to repeat them."""
    seconds = sum(entry.seconds for entry in chapter.entries) or chapter.metrics["seconds"]
    fits = len(chapter.entries) * max(1, len(chapter.folds)) or 1
    tiles = [("Fits", f"{fits:,}", ""), ("Seconds of fits", show_seconds(seconds), "all together")]
    costs = dict(_list_costs(files)) if files else {}
    for name, cost in costs.items():
        tiles += [
            ("Images a second", show_number(cost.images / cost.seconds), name),
            ("Features took", show_seconds(cost.seconds), _tell_shares(cost)),
        ]
    finding = f"{count(fits, 'fit')} on cached features took {show_seconds(seconds)} of computing"
    for name, cost in costs.items():
        finding += (
            f"; the features of {name} took {show_seconds(cost.seconds)} for"
            f" {count(cost.images, 'image')}, once"
        )
    parts: list[Tiles | Table | Code] = [Tiles(items=tiles)]
    if len({entry.kind for entry in chapter.entries}) > 1:
        parts.append(_list_heads(chapter))
    parts += [
        Code(title="To repeat it", text="\n".join(_list_commands(chapter, files))),
        Code(
            title="The recipe of the features",
            text=json.dumps([part["recipe"] for part in chapter.record["parts"]], indent=2),
            is_folded=True,
        ),
        Code(
            title="The head's settings",
            text=json.dumps(chapter.metrics["settings"], indent=2),
            is_folded=True,
        ),
        Code(
            title="Versions that wrote this page", text="\n".join(_list_versions()), is_folded=True
        ),
    ]
    title = "What it cost, and how to repeat it"
    return Section(name="cost", title=title, finding=f"{finding}.", parts=parts)


def _list_costs(files: FeatureFiles) -> Iterator[tuple[str, Cost]]:
    """Yield what each backbone's features cost; layers that were computed together, once."""
    for file in files.opened:
        folders = filter(None, map(file.folder, file.layers))
        costs = [cost for folder in folders if (cost := read_record(folder, Cost)) and cost.seconds]
        if costs:
            yield look_up(file).name, max(costs, key=lambda cost: cost.seconds)


def _tell_shares(cost: Cost) -> str:
    names = ("loading", "backbone", "disk", "building")
    shares = [f"{name} {getattr(cost, name) / cost.seconds:.0%}" for name in names]
    return ", ".join(shares)


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
    header = ("Head", "Configurations", "Seconds", "Seconds a fit")
    return Table(title="Seconds of each kind of head", header=header, rows=rows)


def _list_commands(chapter: Chapter, files: FeatureFiles | None) -> Iterator[str]:
    for file in files.opened if files else ():
        try:
            options = FeatureOptions.from_json(file.origin)
        except (PipelineError, StageError, ValueError):
            continue
        given = " ".join(_list_options(options))
        root, out = shlex.quote(file.root), shlex.quote(str(file.path))
        yield f"{COMMAND} extract --images {root} {given} --out {out}"
    yield f"{COMMAND} report {shlex.quote(str(chapter.folder))} --out report.html"


def _list_options(options: FeatureOptions) -> Iterator[str]:
    """Yield the options of an extraction that are not the default."""
    for option in fields(options):
        value = getattr(options, option.name)
        if option.default is not MISSING and value == option.default:
            continue
        if isinstance(value, tuple):
            value = ("x" if option.name == "size" else ",").join(map(str, value))
        yield f"--{name_key(option).replace('_', '-')} {shlex.quote(str(value))}"


def _list_versions() -> Iterator[str]:
    for name in _PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
