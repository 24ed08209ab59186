"""Accuracy against depth: what a backbone knows of these images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from permafrost.pipeline.advice.known import look_up
from permafrost.pipeline.report.board import BARS, draw_entry
from permafrost.pipeline.report.chapter import Chapter, Entry
from permafrost.pipeline.report.charts import paint, plot_intervals
from permafrost.pipeline.report.parts import Chart, Section, Table
from permafrost.pipeline.tasks.rows import FeatureFiles

_DOMAINS = {
    "similar": "the images are of a domain like the one that it learnt from",
    "different": "the images are of another domain than the one that it learnt from",
}
# The best head on one pooling of one layer of a backbone: layer, pooling, entry.
Rung = tuple[str, str, Entry]


def tell_depth(chapter: Chapter, files: FeatureFiles) -> Section | None:
    """Show the best head of each layer and pooling in the order of depth, for each backbone."""
    ladders = {
        name: rungs
        for name, rungs in _build_ladders(chapter, files)
        if len({layer for layer, *_ in rungs}) > 1
    }
    if not ladders:
        return None
    finding = " ".join(_tell(chapter, name, rungs) for name, rungs in ladders.items())
    parts = [
        part
        for name, rungs in ladders.items()
        for part in (_plot(chapter, name, rungs), _list_rungs(chapter, name, rungs))
    ]
    title = f"{chapter.metric.title} against depth"
    return Section(name="depth", title=title, finding=finding, parts=parts)


def _build_ladders(chapter: Chapter, files: FeatureFiles) -> Iterator[tuple[str, list[Rung]]]:
    """Yield each backbone's name and rungs, from the input on; joined layers have no depth."""
    found: dict[int, dict[tuple[str, str], Rung]] = {}
    for entry in chapter.fitted:
        stored, *others = files.find_layers(entry.layer)
        if others or stored.spec.is_pixels:
            continue
        key = stored.spec.layer, stored.spec.pooling
        found.setdefault(stored.file, {}).setdefault(key, (*key, entry))
    for number, rungs in sorted(found.items()):
        known = look_up(files.opened[number])
        yield known.name, sorted(rungs.values(), key=lambda rung: known.place(rung[0]))


def _tell(chapter: Chapter, name: str, rungs: Sequence[Rung]) -> str:
    best: dict[str, Entry] = {}
    for layer, _, entry in rungs:
        best[layer] = min(best.get(layer, entry), entry, key=lambda one: one.rank)
    layers = list(best)
    peak = min(layers, key=lambda layer: best[layer].rank)
    metric, first, last = chapter.metric, best[layers[0]], best[layers[-1]]
    said = (
        f"{name}: {metric.title} begins with {metric.show(first.score)} on {layers[0]} and is"
        " highest there"
        if peak == layers[0]
        else f"{name}: from {metric.show(first.score)} on {layers[0]} it goes to"
        f" {metric.show(best[peak].score)} on {peak}, layer {layers.index(peak) + 1} of"
        f" {len(layers)}"
    )
    if peak == layers[-1]:
        said += ", the last one: what it learnt elsewhere serves here up to its end"
    elif last.is_tied and best[peak].rank == 1:
        said += f", of which the last, {layers[-1]}, cannot be told apart"
    else:
        said += f", and falls to {metric.show(last.score)} on the last, {layers[-1]}"
    return f"{said}{_tell_domain(chapter, name)}."


def _tell_domain(chapter: Chapter, name: str) -> str:
    for one in chapter.advice.get("backbones", ()):
        if one["backbone"] == name and one["domain"] in _DOMAINS:
            return f"; {_DOMAINS[one['domain']]}"
    return ""


def _plot(chapter: Chapter, name: str, rungs: Sequence[Rung]) -> Chart:
    metric, colours = chapter.metric, paint(sorted({pooling for _, pooling, _ in rungs}))
    rows = [draw_entry(entry, metric, y=layer, series=pooling) for layer, pooling, entry in rungs]
    title, note = f"{name}: the best head of each layer and pooling", f"The input is above. {BARS}"
    return plot_intervals(title, rows, x=metric.axis, colours=colours, note=note)


def _list_rungs(chapter: Chapter, name: str, rungs: Sequence[Rung]) -> Table:
    metric = chapter.metric
    rows = [
        (
            *(layer, pooling, entry.head),
            *(metric.show(entry.score), metric.show_interval(entry.interval), str(entry.rank)),
        )
        for layer, pooling, entry in rungs
    ]
    header = ("Layer", "Pooling", "Best head", f">{metric.title}", ">95 %", ">Rank")
    return Table(title=f"{name}, from the input on", header=header, rows=rows)
