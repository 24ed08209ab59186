"""How heads learn: from more rows, over epochs and seconds, with what was learnt elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from permafrost.pipeline.models.kept import shorten_layers
from permafrost.pipeline.models.learning import LearningPoint
from permafrost.pipeline.report.chapter import Chapter, Entry, read_float
from permafrost.pipeline.report.charts import SERIES, paint, plot_curves
from permafrost.pipeline.report.parts import (
    Axis,
    Chart,
    Metric,
    Part,
    Section,
    Table,
    show_number,
)
from permafrost.pipeline.units import describe_seconds

# The best of each kind; more curves would hide one another.
_CURVES = 3
_ACCURACY, _LOSS = "held_out_accuracy", "held_out_loss"
Row = Mapping[str, Any]


def tell_learning(chapter: Chapter, points: Sequence[LearningPoint]) -> Section | None:
    """Say whether more labelled images would help."""
    metric = chapter.metric
    known = [
        (one, mean, one.scores.get(f"{metric.name}_std") or 0.0)
        for one in points
        if (mean := one.scores.get(f"{metric.name}_mean")) is not None
    ]
    if len(known) < 2:
        return None
    rows = [
        {
            "x": one.n_train,
            "y": mean,
            "low": mean - std,
            "high": mean + std,
            "series": chapter.head,
            "dashed": False,
            "said": f"{one.n_train:,} training rows: {metric.show(mean)}",
        }
        for one, mean, std in known
    ]
    (before, less, _), (last, most, std) = known[-2:]
    finding = (
        f"From {before.n_train:,} to {last.n_train:,} training rows it gained"
        f" {_show_points(metric, most - less)}:"
        f" {_judge_gain(most - less, std / max(1, len(chapter.folds)) ** 0.5)}."
    )
    chart = plot_curves(
        f"{metric.title} on held-out folds, by training rows",
        rows,
        axes=(Axis("Training rows"), metric.axis),
        colours=paint([chapter.head]),
        note="Mean over the folds, with one standard deviation to each side.",
    )
    cells = [(f"{p.n_train:,}", f"{p.share:.0%}", metric.show(mean)) for p, mean, _ in known]
    table = Table(title="Its points", header=(">Rows", ">Share", f">{metric.title}"), rows=cells)
    return Section(name="learning", title="Learning curve", finding=finding, parts=[chart, table])


def _judge_gain(gain: float, error: float) -> str:
    """Say what a gain means, given the standard error of the mean over the folds."""
    if gain > error:
        return "it still rises, so more labelled images would probably help"
    if gain > 0:
        return "within the standard error of the mean, so whether more would help cannot be told"
    return "more like these would hardly help"


def tell_training(chapter: Chapter) -> Section | None:
    """Compare what was learnt elsewhere with what starts from scratch, and show how."""
    transfer = chapter.board.get("transfer")
    learnt = [entry for entry in chapter.fitted if not entry.is_from_scratch]
    scratch = [entry for entry in chapter.fitted if entry.is_from_scratch]
    chosen = _choose(chapter, learnt) + _choose(chapter, scratch)
    curves = {_name(one): _average(_find_epochs(chapter, one)) for one in chosen}
    if not chapter.entries:
        curves = {chapter.head: _average([row for row in chapter.epochs if not row["fold"]])}
    curves = {name: rows for name, rows in curves.items() if rows}
    if not transfer and not curves:
        return None
    parts: list[Part] = []
    if curves:
        parts += [_plot(chapter, chosen, curves, x) for x in ("epoch", "seconds")]
    if transfer:
        parts.append(_compare(chapter, learnt[0], scratch[0]))
    finding = _tell_transfer(chapter.metric, transfer) if transfer else _tell_curves(curves)
    title = "Transferred against from scratch" if transfer else "Training"
    return Section(name="training", title=title, finding=finding, parts=parts)


def _choose(chapter: Chapter, entries: Sequence[Entry]) -> list[Entry]:
    """Return the best entry, and the best others that were trained over epochs."""
    return [*entries[:1], *(one for one in entries[1:] if _find_epochs(chapter, one))][:_CURVES]


def _tell_transfer(metric: Metric, found: Row) -> str:
    kind = f"{found['verdict'].capitalize()} transfer"
    if found["verdict"] == "undecided":
        kind = "Neither positive nor negative transfer can be shown"
    gain = _show_points(metric, found["difference"])
    if found["interval"]:
        low, high = (_show_points(metric, one).removesuffix(" points") for one in found["interval"])
        gain += f" (95 %: {low} to {high})"
    return (
        f"{kind}: {found['transferred']} against the best from scratch, {found['from_scratch']}:"
        f" {gain}."
    )


def _show_points(metric: Metric, value: float) -> str:
    return f"{100 * value:+.1f} points" if metric.name == "accuracy" else f"{value:+.2g}"


def _tell_curves(curves: Mapping[str, Sequence[Row]]) -> str:
    name, rows = next(iter(curves.items()))
    seconds = describe_seconds(rows[-1]["seconds"])
    return f"{name} was trained for {len(rows)} epochs, in {seconds} each time."


def _name(entry: Entry) -> str:
    return f"{entry.head} on {shorten_layers(entry.layer)}"


def _find_epochs(chapter: Chapter, entry: Entry) -> list[dict[str, str]]:
    own = (entry.layer, entry.kind, entry.settings)
    return [one for one in chapter.epochs if (one["layer"], one["head"], one["settings"]) == own]


def _average(epochs: Sequence[Mapping[str, str]]) -> list[Row]:
    """Return the mean over folds of what is known after each epoch, as far as all folds went."""
    column = _ACCURACY if any(row[_ACCURACY] for row in epochs) else _LOSS
    by_fold: defaultdict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in epochs:
        by_fold[row["fold"]].append(row)
    rows: list[Row] = []
    seconds = 0.0
    for several in zip(*by_fold.values(), strict=False):
        seconds += sum(read_float(row["seconds"]) or 0.0 for row in several) / len(several)
        values = [value for row in several if (value := read_float(row[column])) is not None]
        if values:
            value = sum(values) / len(values)
            rows.append({"epoch": len(rows) + 1, "seconds": seconds, "value": value, "of": column})
    return rows


def _plot(
    chapter: Chapter, chosen: Sequence[Entry], curves: Mapping[str, Sequence[Row]], x: str
) -> Chart:
    column = next(iter(curves.values()))[0]["of"]
    metric = Metric("accuracy" if column == _ACCURACY else "loss")
    scratch = [_name(one) for one in chosen if one.is_from_scratch]
    names = [_name(one) for one in chosen] or list(curves)
    colours = paint([name for name in names if name not in scratch])
    colours |= dict(zip(scratch, reversed(SERIES), strict=False))
    rows = [
        {
            "x": row[x],
            "y": row["value"],
            "series": name,
            "dashed": name in scratch,
            "said": f"{name}, epoch {row['epoch']}, {describe_seconds(row['seconds'])}:"
            f" {metric.show(row['value'])}",
        }
        for name, several in curves.items()
        for row in several
        if row["of"] == column
    ]
    if x == "seconds" and metric == chapter.metric:
        rows += [_point(chapter, one) for one in chosen if _name(one) not in curves]
    drawn = {row["series"] for row in rows}
    notes = ["Mean over the folds."] * bool(chapter.entries)
    notes += ["Dashed: from scratch."] * bool(scratch)
    notes += ["A single point: a head without epochs, on its folds."] * (len(drawn) > len(curves))
    across = {"epoch": "Epoch", "seconds": "Seconds of training"}[x]
    return plot_curves(
        f"{metric.title} on rows held out, by {x}",
        rows,
        axes=(Axis(across), metric.axis),
        colours={name: colour for name, colour in colours.items() if name in drawn},
        note=" ".join(notes),
    )


def _point(chapter: Chapter, entry: Entry) -> dict[str, Any]:
    seconds, name = entry.seconds / max(1, len(chapter.folds)), _name(entry)
    said = f"{name}, {describe_seconds(seconds)}: {chapter.metric.show(entry.score)}"
    return {"x": seconds, "y": entry.score, "series": name, "dashed": False, "said": said}


def _compare(chapter: Chapter, learnt: Entry, scratch: Entry) -> Table:
    metric, n_folds = chapter.metric, max(1, len(chapter.folds))
    rows = [
        (f"{kind}: {_name(one)}", metric.show(one.score), show_number(one.seconds / n_folds))
        for kind, one in (("transferred", learnt), ("from scratch", scratch))
    ]
    header = ("The best", f">{metric.title}", ">Seconds a fold")
    return Table(title="The best of both kinds, on the same folds", header=header, rows=rows)
