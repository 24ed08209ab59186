"""Charts as SVG whose colours are the page's own, so that one drawing suits light and dark.

Rows of a chart have ``x``, ``y``, ``said`` (what a reader is told of the mark) and the name of
their ``series``, whose colours are given.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from permafrost.pipeline.report.parts import Axis, Chart

Rows = Sequence[Mapping[str, Any]]
# A piece of a specification of Vega-Lite, https://vega.github.io/vega-lite/docs/.
Spec = dict[str, Any]

# As wide as a phone shows without shrinking it.
_WIDTH = 360
_ROW_HEIGHT = 30
_LABEL_WIDTH = 176
_CHARACTER_WIDTH = 6.8
SERIES = tuple(f"var(--series-{number})" for number in range(1, 9))
_MUTED, _GRID = "var(--muted)", "var(--grid)"
_HIDDEN_LABEL = re.compile(r'<text [^>]*opacity="0"[^>]*>[^<]*</text>')
_SIZE = re.compile(r'(<svg [^>]*?)width="(\d+)" height="\d+"')
_IDS = re.compile(r'(id="|url\(#|href="#)')
_SAID: Spec = {"field": "said", "type": "nominal"}
# An axis that need not begin at zero.
_NEAR: Spec = {"scale": {"zero": False}}
_CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif",
    "padding": 4,
    "view": {"stroke": None},
    "axis": {
        "labelColor": _MUTED,
        "titleColor": "var(--ink)",
        "gridColor": _GRID,
        "tickColor": _GRID,
        "domainColor": _GRID,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelPadding": 5,
        "labelFlush": False,
        "labelSeparation": 12,
        "titlePadding": 8,
    },
}


def paint(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name, in the order of the page's series."""
    return dict(zip(dict.fromkeys(names), itertools.cycle(SERIES), strict=False))


def plot_intervals(
    title: str, rows: Rows, *, x: Axis, colours: Mapping[str, str], note: str
) -> Chart:
    """Draw a point and its interval for each row of a ranking or a depth, from top to bottom.

    Rows are labelled by ``y``, "|" between lines, and tell ``low`` and ``high`` besides.
    """
    bars = {"type": "rule", "strokeWidth": 3, "opacity": 0.45, "strokeCap": "round"}
    layers: list[Spec] = [
        {"mark": bars, "encoding": {"x": _show("low", x, **_NEAR), "x2": {"field": "high"}}},
        {"mark": _dot(64), "encoding": {"x": _show("x", x, **_NEAR)}},
    ]
    told = {"y": _label_rows(rows), **_tell(colours)}
    height = _ROW_HEIGHT * len({row["y"] for row in rows})
    svg = _render(rows, layers, told, height=height)
    return Chart(title=title, svg=svg, legend=_list_colours(colours), note=note)


def plot_curves(
    title: str, rows: Rows, *, axes: tuple[Axis, Axis], colours: Mapping[str, str], note: str
) -> Chart:
    """Draw curves with a mark at each step, and single points of other shape.

    Rows tell ``dashed`` besides, and ``low`` and ``high`` where there is a band.
    """
    scale = {"domain": [False, True], "range": [[1, 0], [5, 4]]}
    dash = {"field": "dashed", "type": "nominal", "legend": None, "scale": scale}
    line = {"type": "line", "strokeWidth": 2, "aria": False}
    layers: list[Spec] = [{"mark": line, "encoding": {"strokeDash": dash}}, {"mark": _dot(36)}]
    if any("low" in row for row in rows):
        ends = {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}}
        layers.insert(0, {"mark": {"type": "rule", "opacity": 0.45}, "encoding": ends})
    told = {"x": _show("x", axes[0]), "y": _show("y", axes[1], None, **_NEAR), **_tell(colours)}
    svg = _render(rows, layers, told, height=240)
    return Chart(title=title, svg=svg, legend=_list_colours(colours), note=note)


def plot_points(title: str, rows: Rows, *, axes: tuple[Axis, Axis], line: Rows, note: str) -> Chart:
    """Draw points of one colour, and a line for them to be on, given its ends.

    Rows tell ``size`` where that is to be seen, and have no ``series``.
    """
    ideal = {"type": "line", "color": _MUTED, "strokeDash": [4, 4], "strokeWidth": 1.5}
    told: Spec = {"description": _SAID}
    if any("size" in row for row in rows):
        scale = {"range": [30, 300]}
        told["size"] = {"field": "size", "type": "quantitative", "legend": None, "scale": scale}
    layers: list[Spec] = [
        {"mark": ideal | {"aria": False}, "data": {"values": line}},
        {"mark": _dot(28) | {"color": SERIES[0], "opacity": 0.6}, "encoding": told},
    ]
    places = {"x": _show("x", axes[0], **_NEAR), "y": _show("y", axes[1], None, **_NEAR)}
    return Chart(title=title, svg=_render(rows, layers, places, height=260), note=note)


def plot_bars(title: str, rows: Rows, *, x: Axis, colours: Mapping[str, str], note: str) -> Chart:
    """Draw stacked bars from left to right."""
    told = {"x": _show("x", x, 4), "y": _label_rows(rows), **_tell(colours)}
    height = max(2, len({row["y"] for row in rows})) * 22
    svg = _render(rows, [{"mark": {"type": "bar", "size": 14}}], told, height=height)
    return Chart(title=title, svg=svg, legend=_list_colours(colours), note=note)


def _show(column: str, axis: Axis, n_ticks: int | None = 5, **more: Any) -> Spec:
    """Let an axis show the numbers in a column."""
    ticks = {} if n_ticks is None else {"tickCount": n_ticks}
    marks = {"format": axis.form, **ticks}
    return {"field": column, "type": "quantitative", "title": axis.title, "axis": marks, **more}


def _dot(size: int) -> Spec:
    return {"type": "point", "filled": True, "size": size, "opacity": 1}


def _tell(colours: Mapping[str, str]) -> Spec:
    """Colour marks by series, and let them say what they are."""
    scale = {"domain": list(colours), "range": list(colours.values())}
    colour = {"field": "series", "type": "nominal", "scale": scale, "legend": None}
    return {"color": colour, "description": _SAID}


def _label_rows(rows: Rows) -> Spec:
    """Give the labels of rows the room that they take in the widest of the usual fonts."""
    n_characters = max(len(line) for row in rows for line in str(row["y"]).split("|"))
    width = min(_LABEL_WIDTH, round(n_characters * _CHARACTER_WIDTH) + 8)
    axis = {
        "labelExpr": "split(datum.label, '|')",
        "labelLimit": width * 0.85,
        "minExtent": width,
        "maxExtent": width,
        "ticks": False,
        "domain": False,
    }
    return {"field": "y", "type": "nominal", "sort": None, "title": None, "axis": axis}


def _list_colours(colours: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the legend of a chart: none where there is one colour."""
    return list(colours.items()) if len(colours) > 1 else []


def _render(rows: Rows, layers: Sequence[Spec], encoding: Spec, *, height: int) -> str:
    """Draw layers with channels in common, as SVG that is as wide as its place."""
    import vl_convert

    spec = {
        "data": {"values": rows},
        "encoding": encoding,
        "layer": layers,
        "width": _WIDTH,
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _CONFIG,
    }
    # A file's name may hold bytes that are no text.
    text = json.dumps(spec, ensure_ascii=False).encode("utf-8", "replace").decode()
    svg = _HIDDEN_LABEL.sub("", vl_convert.vegalite_to_svg(text))
    # All charts stand in one page: their names are made their own, and they may shrink.
    svg = _IDS.sub(rf"\g<1>chart{crc32(svg.encode()):08x}-", svg)
    return _SIZE.sub(r'\1width="\2" focusable="false"', svg, count=1)
