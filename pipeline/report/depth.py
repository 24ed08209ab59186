"""Accuracy against depth: what a backbone knows of these images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from permafrost.pipeline.advice.known import KnownBackbone, look_up
from permafrost.pipeline.report.board import BARS, draw_entry, form_axis
from permafrost.pipeline.report.chapter import Chapter, Entry
from permafrost.pipeline.report.charts import make_chart, paint, plot_intervals
from permafrost.pipeline.report.parts import (
    Chart,
    Section,
    Table,
    show_interval,
    show_score,
    title_metric,
)
from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.pipeline.tasks.rows import FeatureFiles

_WORDS = frozenset({0, 1, 2})
_DOMAINS = {
    "similar": "the images are of a domain like the one that it learnt from",
    "different": "the images are of another domain than the one that it learnt from",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rung:
    """The best head on one pooling of one layer of a backbone."""

    layer: str
    pooling: str
    entry: Entry


def tell_depth(chapter: Chapter, files: FeatureFiles) -> Section | None:
    """Show the best head of each layer and pooling in the order of depth, for each backbone."""
    ladders = {
        known.name: rungs
        for known, rungs in _build_ladders(chapter, files)
        if len({rung.layer for rung in rungs}) > 1
    }
    if not ladders:
        return None
    finding = " ".join(_tell(chapter, name, rungs) for name, rungs in ladders.items())
    parts = [
        part
        for name, rungs in ladders.items()
        for part in (_plot(chapter, name, rungs), _list_rungs(chapter, name, rungs))
    ]
    title = f"{title_metric(chapter.metric)} against depth"
    return Section(name="depth", title=title, finding=finding, parts=parts)


def _build_ladders(
    chapter: Chapter, files: FeatureFiles
) -> Iterator[tuple[KnownBackbone, list[_Rung]]]:
    found: dict[int, dict[tuple[str, str], _Rung]] = {}
    for entry in chapter.fitted:
        stored = _find_one(files, entry.layer)
        if stored is None or stored.spec.is_pixels:
            continue
        rung = _Rung(layer=stored.spec.layer, pooling=stored.spec.pooling, entry=entry)
        found.setdefault(stored.file, {}).setdefault((rung.layer, rung.pooling), rung)
    for number, rungs in sorted(found.items()):
        known = look_up(files.opened[number])
        yield known, sorted(rungs.values(), key=lambda rung: known.place(rung.layer))


def _find_one(files: FeatureFiles, expression: str) -> StoredLayer | None:
    """Find the one layer that an expression names; None where it joins several."""
    layers = files.find_layers(expression)
    return layers[0] if len(layers) == 1 else None


def _tell(chapter: Chapter, name: str, rungs: Sequence[_Rung]) -> str:
    layers = list(dict.fromkeys(rung.layer for rung in rungs))
    best: Mapping[str, Entry] = {
        layer: min((one.entry for one in rungs if one.layer == layer), key=lambda one: one.rank)
        for layer in layers
    }
    peak = min(layers, key=lambda layer: best[layer].rank)
    first, last = best[layers[0]], best[layers[-1]]
    metric = chapter.metric
    said = (
        f"{name}: {title_metric(metric)} begins with {show_score(metric, first.score)} on"
        f" {layers[0]} and is highest there"
        if peak == layers[0]
        else f"{name}: from {show_score(metric, first.score)} on {layers[0]} it goes to"
        f" {show_score(metric, best[peak].score)} on {peak}, layer {layers.index(peak) + 1} of"
        f" {len(layers)}"
    )
    if peak == layers[-1]:
        said += ", the last one: what it learnt elsewhere serves here up to its end"
    elif last.is_tied and best[peak].rank == 1:
        said += f", of which the last, {layers[-1]}, cannot be told apart"
    else:
        said += f", and falls to {show_score(metric, last.score)} on the last, {layers[-1]}"
    return f"{said}{_tell_domain(chapter, name)}."


def _tell_domain(chapter: Chapter, name: str) -> str:
    for one in chapter.advice.get("backbones", ()):
        if one["backbone"] == name and one["domain"] in _DOMAINS:
            return f"; {_DOMAINS[one['domain']]}"
    return ""


def _plot(chapter: Chapter, name: str, rungs: Sequence[_Rung]) -> Chart:
    colours = paint(sorted({rung.pooling for rung in rungs}))
    rows = [
        draw_entry(rung.entry, chapter.metric, y=rung.layer, series=rung.pooling) for rung in rungs
    ]
    metric = title_metric(chapter.metric)
    svg = plot_intervals(rows, x=metric, colours=colours, form=form_axis(chapter.metric))
    title = f"{name}: the best head of each layer and pooling"
    return make_chart(title, svg, colours, f"The input is above. {BARS}")


def _list_rungs(chapter: Chapter, name: str, rungs: Sequence[_Rung]) -> Table:
    rows = [
        (
            rung.layer,
            rung.pooling,
            rung.entry.head,
            show_score(chapter.metric, rung.entry.score),
            show_interval(chapter.metric, rung.entry.interval),
            f"{rung.entry.rank}",
        )
        for rung in rungs
    ]
    header = ("Layer", "Pooling", "Best head", title_metric(chapter.metric), "95 %", "Rank")
    return Table(title=f"{name}, from the input on", header=header, rows=rows, texts=_WORDS)
