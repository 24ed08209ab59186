"""The verdict, the leaderboard, and several chapters compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from permafrost.pipeline.models.kept import shorten_layers
from permafrost.pipeline.models.measure import name_metric
from permafrost.pipeline.report.chapter import Chapter, Entry
from permafrost.pipeline.report.charts import SERIES, make_chart, plot_intervals
from permafrost.pipeline.report.parts import (
    Chart,
    Section,
    Table,
    Tiles,
    is_share,
    show_interval,
    show_number,
    show_score,
    title_metric,
)
from permafrost.pipeline.sweeps.leaderboard import SIGNIFICANCE
from permafrost.pipeline.units import count, describe_seconds

_CHARTED = 12
_SHOWN = 12
_MOST = 300
_WORDS = frozenset({0, 1, 2, 5})
BARS = "Bars: 95 % interval, by bootstrap over rows."
TIED, BEHIND = "as good as the first", "behind it"


def tell_verdict(chapter: Chapter) -> Section:
    """Say which head on which layer, how good it is, and how far that can be trusted."""
    score, interval = chapter.best_score
    bounds = f" (95 %: {show_interval(chapter.metric, interval)})" if interval else ""
    said = (
        "was not measured, as no row is in the test split: what follows is said out of fold"
        if score is None
        else f"has {name_metric(chapter.metric)} {show_score(chapter.metric, score)}{bounds},"
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
    others = [entry for entry in chapter.fitted if entry.rank > 1]
    if not others:
        return "nothing else was tried"
    n_tied = sum(entry.is_tied for entry in others)
    are = "are" if n_tied > 1 else "is"
    return f"{n_tied or 'none'} of {len(others)} others {are} as good, as far as the folds can tell"


def _list_tiles(chapter: Chapter) -> Iterator[tuple[str, str, str]]:
    found, (score, interval) = chapter.metrics, chapter.best_score
    yield (
        title_metric(chapter.metric),
        show_score(chapter.metric, score),
        f"95 %: {show_interval(chapter.metric, interval)}" if interval else "",
    )
    if found.get("per_class") and is_share(chapter.metric):
        sizes = [one["support"] for one in found["per_class"]]
        chance = max(sizes) / sum(sizes)
        yield "By chance", show_score("accuracy", chance), "always the commonest class"
    for name in ("balanced_accuracy", "macro_f1", "log_loss", "roc_auc", "mae", "rmse"):
        value = found.get(name, found.get(f"cv_{name}_mean", _find_mean(chapter, name)))
        if value is not None:
            yield title_metric(name), show_score(name, value), ""
    yield "Training rows", f"{found['n_train']:,}", ""
    if found["n_test"]:
        yield "Test rows", f"{found['n_test']:,}", "never used for choosing"
    if chapter.entries:
        yield "Tried", f"{len(chapter.entries):,}", "layers, heads and settings"
        seconds = sum(entry.seconds for entry in chapter.entries)
        yield "All fits", describe_seconds(seconds), "on cached features"


def _find_mean(chapter: Chapter, name: str) -> float | None:
    return chapter.entries[0].scores.get(name) if chapter.entries else None


def tell_board(chapter: Chapter) -> Section | None:
    """Rank what was tried, and say which differences are noise."""
    if len(chapter.entries) < 2:
        return None
    others, metric = [one for one in chapter.fitted if one.rank > 1], chapter.metric
    better = [one for one in others if not one.is_tied]
    n_failed = len(chapter.entries) - len(chapter.fitted)
    finding = (
        f"{_tell_noise(len(others) - len(better), len(others))}; the best that is really behind it"
        f" is {better[0].head} on {better[0].layer} with {show_score(metric, better[0].score)}."
        if better
        else f"None of {count(len(others), 'other')} can be told from the first on"
        f" {_count_rows(chapter)} (p ≥ {SIGNIFICANCE})."
    )
    if n_failed:
        finding += f" {n_failed} could not be fitted."
    shown, more = chapter.entries[:_SHOWN], chapter.entries[_SHOWN:_MOST]
    parts: list[Chart | Table] = [_plot_board(chapter), _list_board(chapter, shown, "Leaderboard")]
    if more:
        title = f"{count(len(more), 'more row')}"
        parts.append(_list_board(chapter, more, title, is_folded=True))
    return Section(name="leaderboard", title="Leaderboard", finding=finding, parts=parts)


def _tell_noise(n_tied: int, n_others: int) -> str:
    if not n_tied:
        return f"All {n_others} others can be told from the first (p < {SIGNIFICANCE})"
    return f"Of {n_others} others, {n_tied} cannot be told from the first (p ≥ {SIGNIFICANCE})"


def _count_rows(chapter: Chapter) -> str:
    n_rows = sum(int(fold.get("n_test", 0)) for fold in chapter.folds)
    where = f"in {len(chapter.folds)} folds" if len(chapter.folds) > 1 else "of the val split"
    return f"{n_rows:,} rows {where}"


def form_axis(metric: str) -> str:
    """Return how numbers on the axis of a metric are written."""
    return "~%" if is_share(metric) else ",~r"


def draw_entry(entry: Entry, metric: str, **more: str) -> dict[str, Any]:
    """Return the row of a chart that shows an entry's score with its interval."""
    low, high = entry.interval or (entry.score, entry.score)
    said = f"{entry.rank}. {entry.layer}, {entry.head}: {show_score(metric, entry.score)}"
    if entry.interval:
        said += f" ({show_interval(metric, entry.interval)})"
    return {"x": entry.score, "low": low, "high": high, "said": said, **more}


def _plot_board(chapter: Chapter) -> Chart:
    first = chapter.fitted[:_CHARTED]
    colours = {TIED: SERIES[0], BEHIND: "var(--faint)"}
    rows = [
        draw_entry(
            entry,
            chapter.metric,
            y=f"{entry.rank}. {shorten_layers(entry.layer)}|{entry.head}",
            series=TIED if entry.is_tied else BEHIND,
        )
        for entry in first
    ]
    metric = title_metric(chapter.metric)
    svg = plot_intervals(rows, x=metric, colours=colours, form=form_axis(chapter.metric))
    title = f"{metric} of the first {len(first)}, over {_count_rows(chapter)}"
    return make_chart(title, svg, colours, BARS)


def _list_board(
    chapter: Chapter, entries: Sequence[Entry], title: str, *, is_folded: bool = False
) -> Table:
    metric = chapter.metric
    header = ("Rank", "Layer", "Head", title_metric(metric), "95 %", "Difference, p", "Seconds")
    rows = [
        (
            str(one.rank),
            shorten_layers(one.layer),
            one.head,
            show_score(metric, one.score) if not one.error else "",
            show_interval(metric, one.interval),
            one.error or _tell_difference(one),
            show_number(one.seconds),
        )
        for one in entries
    ]
    return Table(title=title, header=header, rows=rows, texts=_WORDS, is_folded=is_folded)


def _tell_difference(entry: Entry) -> str:
    if entry.p_value is None:
        return "first"
    p_value = "<0.001" if entry.p_value < 0.001 else f"{entry.p_value:.3f}"
    return f"{'noise' if entry.is_tied else 'real'}\N{NO-BREAK SPACE}{p_value}"


def compare_chapters(chapters: Sequence[Chapter]) -> Table:
    """Put the best of several chapters into one table."""
    rows = []
    for one in chapters:
        score, interval = one.best_score
        where = "test rows" if one.test_score is not None else "folds"
        rows.append(
            (
                one.name,
                shorten_layers(one.layer),
                one.head,
                title_metric(one.metric),
                show_score(one.metric, score),
                show_interval(one.metric, interval),
                f"{one.metrics['n_test' if where == 'test rows' else 'n_train']:,} {where}",
            )
        )
    header = ("Chapter", "Layer", "Head", "Figure", "Score", "95 %", "Measured on")
    return Table(
        title="The best of each", header=header, rows=rows, texts=frozenset({0, 1, 2, 3, 6})
    )
