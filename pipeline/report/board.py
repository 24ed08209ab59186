"""The verdict, the leaderboard, and several chapters compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from permafrost.pipeline.models.kept import shorten_layers
from permafrost.pipeline.models.measure import name_metric
from permafrost.pipeline.report.chapter import Chapter, Entry
from permafrost.pipeline.report.charts import SERIES, plot_intervals
from permafrost.pipeline.report.parts import (
    Chart,
    Metric,
    Part,
    Section,
    Table,
    Tiles,
    show_number,
)
from permafrost.pipeline.sweeps.leaderboard import SIGNIFICANCE, write_p
from permafrost.pipeline.units import count, describe_seconds

_CHARTED = 12
_SHOWN = 12
_MOST = 300
BARS = "Bars: 95 % interval, by bootstrap over rows."
TIED, BEHIND = "as good as the first", "behind it"


def tell_verdict(chapter: Chapter) -> Section:
    """Say which head on which layer, how good it is, and how far that can be trusted."""
    metric, (score, interval) = chapter.metric, chapter.best_score
    bounds = f" (95 %: {metric.show_interval(interval)})" if interval else ""
    said = (
        "was not measured, as no row is in the test split: what follows is said out of fold"
        if score is None
        else f"has {name_metric(metric.name)} {metric.show(score)}{bounds},"
        f" {_tell_rows(chapter)}; {_tell_ties(chapter)}"
    )
    finding = f"{chapter.head} on {shorten_layers(chapter.layer)} {said}."
    tiles = Tiles(items=list(_list_tiles(chapter)))
    return Section(name="verdict", title="Verdict", finding=finding, parts=[tiles])


def _tell_rows(chapter: Chapter) -> str:
    found, chosen = chapter.metrics, ", on which it was also chosen" * (len(chapter.entries) > 1)
    if chapter.test_score is not None:
        return f"on {count(found['n_test'], 'test row')} that were never used for choosing"
    n_folds = len(chapter.folds)
    if n_folds > 1:
        return f"cross-validated in {n_folds} folds of {count(found['n_train'], 'row')}{chosen}"
    return f"on the rows of the val split{chosen}"


def _tell_ties(chapter: Chapter) -> str:
    others = chapter.fitted[1:]
    if not others:
        return "nothing else was tried"
    n_tied = sum(entry.is_tied for entry in others)
    are = "are" if n_tied > 1 else "is"
    return f"{n_tied or 'none'} of {len(others)} others {are} as good, as far as the folds can tell"


def _list_tiles(chapter: Chapter) -> Iterator[tuple[str, str, str]]:
    found, metric, (score, interval) = chapter.metrics, chapter.metric, chapter.best_score
    bounds = f"95 %: {metric.show_interval(interval)}" if interval else ""
    yield metric.title, metric.show(score), bounds
    if found.get("per_class") and metric.is_share:
        sizes = [one["support"] for one in found["per_class"]]
        chance = Metric("accuracy").show(max(sizes) / sum(sizes))
        yield "By chance", chance, "always the commonest class"
    means = chapter.entries[0].scores if chapter.entries else {}
    for name in ("balanced_accuracy", "macro_f1", "log_loss", "roc_auc", "mae", "rmse"):
        value = found.get(name, found.get(f"cv_{name}_mean", means.get(name)))
        if value is not None:
            yield Metric(name).title, Metric(name).show(value), ""
    yield "Training rows", f"{found['n_train']:,}", ""
    if found["n_test"]:
        yield "Test rows", f"{found['n_test']:,}", "never used for choosing"
    if chapter.entries:
        yield "Tried", f"{len(chapter.entries):,}", "layers, heads and settings"
        seconds = sum(entry.seconds for entry in chapter.entries)
        yield "All fits", describe_seconds(seconds), "on cached features"


def tell_board(chapter: Chapter) -> Section | None:
    """Rank what was tried, and say which differences are noise."""
    if len(chapter.entries) < 2:
        return None
    others = chapter.fitted[1:]
    better = [one for one in others if not one.is_tied]
    n_tied, n_failed = len(others) - len(better), len(chapter.entries) - len(chapter.fitted)
    if better and n_tied:
        finding = (
            f"Of {len(others)} others, {n_tied} cannot be told from the first (p ≥ {SIGNIFICANCE})"
        )
    elif better:
        finding = f"All {len(others)} others can be told from the first (p < {SIGNIFICANCE})"
    else:
        finding = (
            f"None of {count(len(others), 'other')} can be told from the first on"
            f" {_count_rows(chapter)} (p ≥ {SIGNIFICANCE})."
        )
    if better:
        finding += (
            f"; the best that is really behind it is {better[0].head} on {better[0].layer} with"
            f" {chapter.metric.show(better[0].score)}."
        )
    if n_failed:
        finding += f" {n_failed} could not be fitted."
    shown, more = chapter.entries[:_SHOWN], chapter.entries[_SHOWN:_MOST]
    parts: list[Part] = [
        _plot_board(chapter),
        _list_board(chapter, shown, "Leaderboard"),
        _list_board(chapter, more, count(len(more), "more row"), is_folded=True),
    ]
    return Section(name="leaderboard", title="Leaderboard", finding=finding, parts=parts)


def _count_rows(chapter: Chapter) -> str:
    n_rows = sum(int(fold.get("n_test", 0)) for fold in chapter.folds)
    where = f"in {len(chapter.folds)} folds" if len(chapter.folds) > 1 else "of the val split"
    return f"{n_rows:,} rows {where}"


def draw_entry(entry: Entry, metric: Metric, **more: str) -> dict[str, Any]:
    """Return the row of a chart that shows an entry's score with its interval."""
    low, high = entry.interval or (entry.score, entry.score)
    said = f"{entry.rank}. {entry.layer}, {entry.head}: {metric.show(entry.score)}"
    if entry.interval:
        said += f" ({metric.show_interval(entry.interval)})"
    return {"x": entry.score, "low": low, "high": high, "said": said, **more}


def _plot_board(chapter: Chapter) -> Chart:
    first, metric = chapter.fitted[:_CHARTED], chapter.metric
    rows = [
        draw_entry(
            entry,
            metric,
            y=f"{entry.rank}. {shorten_layers(entry.layer)}|{entry.head}",
            series=TIED if entry.is_tied else BEHIND,
        )
        for entry in first
    ]
    title = f"{metric.title} of the first {len(first)}, over {_count_rows(chapter)}"
    colours = {TIED: SERIES[0], BEHIND: "var(--faint)"}
    return plot_intervals(title, rows, x=metric.axis, colours=colours, note=BARS)


def _list_board(
    chapter: Chapter, entries: Sequence[Entry], title: str, *, is_folded: bool = False
) -> Table:
    metric = chapter.metric
    header = ("Rank", "Layer", "Head", f">{metric.title}", ">95 %", "Difference, p", ">Seconds")
    rows = [
        (
            str(one.rank),
            shorten_layers(one.layer),
            one.head,
            metric.show(one.score) if not one.error else "",
            metric.show_interval(one.interval),
            one.error or _tell_difference(one),
            show_number(one.seconds),
        )
        for one in entries
    ]
    return Table(title=title, header=header, rows=rows, is_folded=is_folded)


def _tell_difference(entry: Entry) -> str:
    if entry.p_value is None:
        return "first"
    return f"{'noise' if entry.is_tied else 'real'}\N{NO-BREAK SPACE}{write_p(entry.p_value)}"


def compare_chapters(chapters: Sequence[Chapter]) -> Table:
    """Put the best of several chapters into one table."""
    rows = []
    for one in chapters:
        score, interval = one.best_score
        where, name = ("folds", "n_train") if one.test_score is None else ("test rows", "n_test")
        rows.append(
            (
                *(one.name, shorten_layers(one.layer), one.head, one.metric.title),
                *(one.metric.show(score), one.metric.show_interval(interval)),
                f"{one.metrics[name]:,} {where}",
            )
        )
    header = ("Chapter", "Layer", "Head", "Figure", ">Score", ">95 %", "Measured on")
    return Table(title="The best of each", header=header, rows=rows)
