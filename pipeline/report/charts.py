"""Charts as SVG whose colours are the page's own, so that one drawing suits light and dark."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

from permafrost.pipeline.report.parts import Chart

if TYPE_CHECKING:
    import altair as alt

Rows = Sequence[Mapping[str, Any]]

# As wide as a phone shows without shrinking it.
WIDTH = 360
ROW_HEIGHT = 30
_LABEL_WIDTH = 176
_CHARACTER_WIDTH = 6.8
SERIES = tuple(f"var(--series-{number})" for number in range(1, 9))
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_MUTED, _INK, _GRID = "var(--muted)", "var(--ink)", "var(--grid)"
_HIDDEN_LABEL = re.compile(r'<text [^>]*opacity="0"[^>]*>[^<]*</text>')
_SIZE = re.compile(r'(<svg [^>]*?)width="(\d+)" height="\d+"')
_IDS = re.compile(r'(id="|url\(#|href="#)')


def paint(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name, in the order of the page's series."""
    return dict(zip(dict.fromkeys(names), itertools.cycle(SERIES), strict=False))


def plot_intervals(rows: Rows, *, x: str, colours: Mapping[str, str], form: str) -> str:
    """Draw a point and its interval for each row of a ranking or a depth, from top to bottom.

    Parameters
    ----------
    rows : sequence of mapping
        ``y``: the label, "|" between its lines; ``x``, ``low``, ``high``; ``series``; ``said``:
        what a reader is told.
    x : str
        Title of the x axis.
    colours : mapping of str to str
        By series.
    form : str
        Of numbers on the x axis, as d3-format has it.
    """
    import altair as alt

    y = alt.Y("y:N", sort=None, title=None, axis=_label_rows(rows))
    nice, axis = alt.Scale(zero=False), alt.Axis(format=form, tickCount=5)
    base = _begin(rows, colours).encode(y=y)
    bars = base.mark_rule(strokeWidth=3, opacity=0.45, strokeCap="round").encode(
        x=alt.X("low:Q", title=x, scale=nice, axis=axis), x2="high:Q"
    )
    dots = base.mark_point(filled=True, size=64, opacity=1).encode(
        x=alt.X("x:Q", title=x, scale=nice, axis=axis)
    )
    n_labels = len({row["y"] for row in rows})
    return render(bars + dots, height=ROW_HEIGHT * n_labels)


def plot_curves(rows: Rows, *, x: str, y: str, colours: Mapping[str, str], form: str) -> str:
    """Draw curves with a mark at each step, and single points of other shape.

    Parameters
    ----------
    rows : sequence of mapping
        ``x``, ``y``, ``series``, ``said``; ``dashed`` where the curve is; ``low`` and ``high``
        where there is a band.
    x, y : str
        Titles of the axes.
    colours, form
        As `plot_intervals` has them; `form` is of the y axis.
    """
    import altair as alt

    base = _begin(rows, colours).encode(
        x=alt.X("x:Q", title=x, axis=alt.Axis(tickCount=5, format=",~r")),
        y=alt.Y("y:Q", title=y, scale=alt.Scale(zero=False), axis=alt.Axis(format=form)),
    )
    curves = base.mark_line(strokeWidth=2, aria=False).encode(
        strokeDash=alt.StrokeDash(
            "dashed:N", legend=None, scale=alt.Scale(domain=[False, True], range=[[1, 0], [5, 4]])
        )
    )
    dots = base.mark_point(filled=True, size=36, opacity=1)
    layers = [curves, dots]
    if any("low" in row for row in rows):
        layers.insert(0, base.mark_rule(opacity=0.45).encode(y="low:Q", y2="high:Q"))
    return render(alt.layer(*layers), height=240)


def plot_points(rows: Rows, *, x: str, y: str, line: Rows, form: str = ",~r") -> str:
    """Draw points of one colour, and a line for them to be on.

    Parameters
    ----------
    rows : sequence of mapping
        ``x``, ``y``, ``said``; ``size`` where that is to be seen.
    x, y, form
        As `plot_curves` has them, of both axes.
    line : sequence of mapping
        ``x`` and ``y`` of its ends.
    """
    import altair as alt

    nice = alt.Scale(zero=False)
    across = alt.X("x:Q", title=x, scale=nice, axis=alt.Axis(format=form, tickCount=5))
    up = alt.Y("y:Q", title=y, scale=nice, axis=alt.Axis(format=form))
    ideal = alt.Chart(alt.Data(values=line)).mark_line(
        color=_MUTED, strokeDash=[4, 4], strokeWidth=1.5, aria=False
    )
    dots = (
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, color=SERIES[0], size=28, opacity=0.6)
        .encode(description="said:N")
    )
    if any("size" in row for row in rows):
        dots = dots.encode(size=alt.Size("size:Q", legend=None, scale=alt.Scale(range=[30, 300])))
    return render((ideal + dots).encode(x=across, y=up), height=260)


def plot_bars(rows: Rows, *, x: str, colours: Mapping[str, str]) -> str:
    """Draw stacked bars from left to right: ``y``, ``x``, ``series``, ``said`` of each piece."""
    import altair as alt

    y = alt.Y("y:N", sort=None, title=None, axis=_label_rows(rows))
    across = alt.X("x:Q", title=x, axis=alt.Axis(tickCount=4, format=",~r"))
    bars = _begin(rows, colours).mark_bar(size=14).encode(x=across, y=y)
    n_labels = len({row["y"] for row in rows})
    return render(bars, height=max(2, n_labels) * 22)


def _label_rows(rows: Rows) -> alt.Axis:
    """Give the labels of rows the room that they take in the widest of the usual fonts."""
    import altair as alt

    n_characters = max(len(line) for row in rows for line in str(row["y"]).split("|"))
    width = min(_LABEL_WIDTH, round(n_characters * _CHARACTER_WIDTH) + 8)
    return alt.Axis(
        labelExpr="split(datum.label, '|')",
        labelLimit=width * 0.85,
        minExtent=width,
        maxExtent=width,
        ticks=False,
        domain=False,
    )


def _begin(rows: Rows, colours: Mapping[str, str]) -> alt.Chart:
    import altair as alt

    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Chart(alt.Data(values=list(rows))).encode(
        color=alt.Color("series:N", scale=scale, legend=None), description="said:N"
    )


def render(chart: alt.LayerChart | alt.FacetChart | alt.Chart, *, height: int) -> str:
    """Draw a chart as SVG that is as wide as its place."""
    import altair as alt
    import vl_convert

    spec = chart.properties(
        width=WIDTH, height=height, autosize=alt.AutoSizeParams(type="fit-x", contains="padding")
    ).configure(
        background="transparent",
        font=FONT,
        padding=4,
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            labelColor=_MUTED,
            titleColor=_INK,
            gridColor=_GRID,
            tickColor=_GRID,
            domainColor=_GRID,
            labelFontSize=11,
            titleFontSize=11,
            titleFontWeight="normal",
            labelPadding=5,
            labelFlush=False,
            labelSeparation=12,
            titlePadding=8,
        ),
    )
    # A file's name may hold bytes that are no text.
    text = json.dumps(spec.to_dict(), ensure_ascii=False).encode("utf-8", "replace").decode()
    svg: str = vl_convert.vegalite_to_svg(text)
    return _fit_page(svg)


def _fit_page(svg: str) -> str:
    """Let a drawing shrink, and make its names its own: all stand in one page."""
    svg = _HIDDEN_LABEL.sub("", svg)
    svg = _IDS.sub(rf"\g<1>chart{crc32(svg.encode()):08x}-", svg)
    return _SIZE.sub(r'\1width="\2" focusable="false"', svg, count=1)


def list_colours(colours: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the legend of a chart: none where there is one colour."""
    return list(colours.items()) if len(colours) > 1 else []


def make_chart(title: str, svg: str, colours: Mapping[str, str], note: str = "") -> Chart:
    """Put a chart together."""
    return Chart(title=title, svg=svg, legend=list_colours(colours), note=note)
