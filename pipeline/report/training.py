"""How networks learnt: transferred against from scratch, over epochs and over seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from permafrost.pipeline.models.kept import shorten_layers
from permafrost.pipeline.models.learning import LearningPoint
from permafrost.pipeline.report.board import form_axis
from permafrost.pipeline.report.chapter import Chapter, Entry, read_float
from permafrost.pipeline.report.charts import SERIES, make_chart, paint, plot_curves
from permafrost.pipeline.report.parts import (
    Chart,
    Section,
    Table,
    show_number,
    show_score,
    show_seconds,
    title_metric,
)

# The best of each kind; more curves would hide one another.
_CURVES = 3
_EPOCH, _SECONDS = "Epoch", "Seconds of training"
Row = Mapping[str, object]


def tell_training(chapter: Chapter) -> Section | None:
    """Compare what was learnt elsewhere with what starts from scratch."""
    learnt = [entry for entry in chapter.fitted if not entry.is_from_scratch]
    scratch = [entry for entry in chapter.fitted if entry.is_from_scratch]
    transfer = chapter.board.get("transfer")
    chosen = [*learnt[:1], *(one for one in learnt[1:] if _find_epochs(chapter, one))][:_CURVES]
    chosen += scratch[:_CURVES]
    curves = {_name(one): rows for one in chosen if (rows := _average(chapter, one))}
    if not transfer and not curves:
        return None
    parts: list[Chart | Table] = []
    if curves:
        parts += [_plot(chapter, chosen, curves, x) for x in (_EPOCH, _SECONDS)]
    if transfer:
        parts.append(_compare(chapter, learnt[0], scratch[0]))
    finding = _tell_transfer(chapter, transfer) if transfer else _tell_curves(curves)
    title = "Transferred against from scratch" if transfer else "Training"
    return Section(name="training", title=title, finding=finding, parts=parts)


def tell_learning(chapter: Chapter, points: Sequence[LearningPoint]) -> Section | None:
    """Say whether more labelled images would help."""
    metric = chapter.metric
    known = [(one, one.scores.get(f"{metric}_mean")) for one in points]
    rows = [
        {
            "x": one.n_train,
            "y": mean,
            "low": mean - (one.scores.get(f"{metric}_std") or 0.0),
            "high": mean + (one.scores.get(f"{metric}_std") or 0.0),
            "series": chapter.head,
            "dashed": False,
            "said": f"{one.n_train:,} training rows: {show_score(metric, mean)}",
        }
        for one, mean in known
        if mean is not None
    ]
    if len(rows) < 2:
        return None
    colours = paint([chapter.head])
    name = title_metric(metric)
    svg = plot_curves(rows, x="Training rows", y=name, colours=colours, form=form_axis(metric))
    note = "Mean over the folds, with one standard deviation to each side."
    before, last = rows[-2], rows[-1]
    gain = float(str(last["y"])) - float(str(before["y"]))
    finding = (
        f"From {before['x']:,} to {last['x']:,} training rows it gained"
        f" {_show_points(chapter, gain)}:"
        f" {_judge_gain(gain, last)}."
    )
    chart = make_chart(f"{name} on held-out folds, by training rows", svg, colours, note)
    cells = [
        (f"{one.n_train:,}", f"{one.share:.0%}", show_score(metric, mean)) for one, mean in known
    ]
    table = Table(title="Its points", header=("Rows", "Share", name), rows=cells, texts=frozenset())
    return Section(name="learning", title="Learning curve", finding=finding, parts=[chart, table])


def _judge_gain(gain: float, last: Mapping[str, object]) -> str:
    spread = float(str(last["high"])) - float(str(last["y"]))
    if gain > spread:
        return "more labelled images would help"
    return "less than the folds differ among themselves, so more images would hardly help"


def _tell_transfer(chapter: Chapter, found: Mapping[str, object]) -> str:
    verdict = str(found["verdict"])
    kind = {"undecided": "Neither positive nor negative transfer can be shown"}.get(
        verdict, f"{verdict.capitalize()} transfer"
    )
    bounds = found["interval"]
    sure = ""
    if isinstance(bounds, list):
        low, high = (_show_points(chapter, bound) for bound in bounds)
        sure = f" (95 %: {low} to {high})"
    gain = _show_points(chapter, float(str(found["difference"])))
    return (
        f"{kind}: {found['transferred']} is {gain}{sure} {'better' if gain[0] != '−' else 'worse'}"
        f" than the best from scratch, {found['from_scratch']}."
    )


def _show_points(chapter: Chapter, value: float) -> str:
    return f"{100 * value:+.1f} points" if chapter.metric == "accuracy" else f"{value:+.2g}"


def _tell_curves(curves: Mapping[str, Sequence[Row]]) -> str:
    name, rows = next(iter(curves.items()))
    seconds = show_seconds(float(str(rows[-1]["seconds"])))
    return f"{name} was trained for {len(rows)} epochs, in {seconds} a fold."


def _name(entry: Entry) -> str:
    return f"{entry.head} on {shorten_layers(entry.layer)}"


def _find_epochs(chapter: Chapter, entry: Entry) -> list[dict[str, str]]:
    return [
        row
        for row in chapter.epochs
        if not chapter.entries
        or (row["layer"], row["head"], row["settings"]) == (entry.layer, entry.kind, entry.settings)
    ]


def _average(chapter: Chapter, entry: Entry) -> list[Row]:
    """Return the mean over folds of what is known after each epoch, as far as all folds went."""
    by_fold: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _find_epochs(chapter, entry):
        by_fold[row["fold"]].append(row)
    column = "held_out_accuracy" if _has(by_fold, "held_out_accuracy") else "held_out_loss"
    spent = dict.fromkeys(by_fold, 0.0)
    rows: list[Row] = []
    for several in zip(*by_fold.values(), strict=False):
        for row in several:
            spent[row["fold"]] += read_float(row["seconds"]) or 0.0
        values = [value for row in several if (value := read_float(row[column])) is not None]
        if values:
            seconds = sum(spent.values()) / len(spent)
            value = sum(values) / len(values)
            rows.append({"epoch": len(rows) + 1, "seconds": seconds, "value": value, "of": column})
    return rows


def _has(by_fold: Mapping[str, Sequence[Mapping[str, str]]], column: str) -> bool:
    return any(row[column] for rows in by_fold.values() for row in rows)


def _plot(
    chapter: Chapter, chosen: Sequence[Entry], curves: Mapping[str, Sequence[Row]], x: str
) -> Chart:
    learnt = [_name(one) for one in chosen if not one.is_from_scratch]
    scratch = [_name(one) for one in chosen if one.is_from_scratch]
    colours = paint(learnt) | dict(zip(scratch, reversed(SERIES), strict=False))
    column = str(next(iter(curves.values()))[0]["of"])
    metric = "accuracy" if column == "held_out_accuracy" else "loss"
    rows = [
        {
            "x": row["epoch" if x == _EPOCH else "seconds"],
            "y": row["value"],
            "series": name,
            "dashed": name in scratch,
            "said": f"{name}, epoch {row['epoch']}, {show_seconds(float(str(row['seconds'])))}:"
            f" {show_score(metric, float(str(row['value'])))}",
        }
        for name, several in curves.items()
        for row in several
        if row["of"] == column
    ]
    if x == _SECONDS and metric == chapter.metric:
        rows += [_point(chapter, one) for one in chosen if _name(one) not in curves]
    shown = {
        name: colour for name, colour in colours.items() if any(r["series"] == name for r in rows)
    }
    title = f"{title_metric(metric)} on rows held out of the training"
    svg = plot_curves(rows, x=x, y=title_metric(metric), colours=shown, form=form_axis(metric))
    notes = ["Mean over the folds."] * (len({row["fold"] for row in chapter.epochs}) > 1)
    notes += ["Dashed: from scratch."] * bool(scratch)
    notes += ["A single point: a head without epochs, on its folds."] * (x == _SECONDS)
    return make_chart(f"{title}, by {x.lower().split()[0]}", svg, shown, " ".join(notes))


def _point(chapter: Chapter, entry: Entry) -> dict[str, object]:
    seconds = entry.seconds / max(1, len(chapter.folds))
    said = f"{_name(entry)}, {show_seconds(seconds)}: {show_score(chapter.metric, entry.score)}"
    name = _name(entry)
    return {"x": seconds, "y": entry.score, "series": name, "dashed": False, "said": said}


def _compare(chapter: Chapter, learnt: Entry, scratch: Entry) -> Table:
    metric = chapter.metric
    n_folds = max(1, len(chapter.folds))
    rows = [
        (
            what,
            _name(one),
            show_score(metric, one.score),
            show_number(one.seconds / n_folds),
        )
        for what, one in (("transferred", learnt), ("from scratch", scratch))
    ]
    header = ("The best", "Head and layer", title_metric(metric), "Seconds a fold")
    return Table(
        title="The best of both kinds, on the same folds",
        header=header,
        rows=rows,
        texts=frozenset({0, 1}),
    )
