"""What a page is made of, and how numbers are written on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from permafrost.pipeline.models.measure import name_metric

# Shares of rows, which people read as per cent.
_SHARES = {"accuracy", "balanced_accuracy", "precision", "recall"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Key figures: name, value, and a few words on it."""

    kind: ClassVar[str] = "tiles"
    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart.

    Attributes
    ----------
    title : str
    svg : str
        Whose colours are the page's.
    legend : sequence of (str, str)
        What each colour, a custom property of the page, stands for.
    note : str
    """

    kind: ClassVar[str] = "chart"
    title: str
    svg: str
    legend: Sequence[tuple[str, str]] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table.

    Attributes
    ----------
    title : str
    header : sequence of str
    rows : sequence of sequence of str
        The first cell names its row.
    texts : frozenset of int
        Columns that hold words; all others hold numbers.
    shades : sequence of sequence of float, optional
        How dark each cell but the first of its row is, from 0 to 1.
    right : str
        What the diagonal is, of shades that tell right from wrong.
    is_folded : bool
        Whether it is shown only when asked for.
    note : str
    """

    kind: ClassVar[str] = "table"
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: frozenset[int] = frozenset({0})
    shades: Sequence[Sequence[float]] = ()
    is_folded: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image, as a data URI, with what is said under it; "" where it cannot be read."""

    uri: str
    path: str
    lines: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Images beside one another."""

    kind: ClassVar[str] = "gallery"
    title: str
    pictures: Sequence[Picture]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointMap:
    """Points that show their images; `data` is what the page's script reads."""

    kind: ClassVar[str] = "map"
    title: str
    data: Mapping[str, object]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Text to copy; `is_folded` where it is shown only when asked for."""

    kind: ClassVar[str] = "code"
    title: str
    text: str
    is_folded: bool = False


Part = Tiles | Chart | Table | Gallery | PointMap | Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a chapter; `finding` is one sentence that says it in numbers."""

    name: str
    title: str
    finding: str
    parts: Sequence[Part] = field(default_factory=list)


def is_share(metric: str) -> bool:
    """Tell whether a metric is a share of rows."""
    return metric in _SHARES


def show_score(metric: str, value: float | None) -> str:
    """Write a score: a share of rows in per cent."""
    if value is None:
        return "undefined"
    return show_share(value) if is_share(metric) else show_number(value)


def show_share(value: float) -> str:
    """Write a share in per cent."""
    return f"{value:.1%}".replace("%", " %")


def show_interval(metric: str, interval: Sequence[float] | None) -> str:
    """Write the 95 % interval of a score; "" where there is none."""
    if not interval:
        return ""
    low, high = (show_score(metric, bound).removesuffix(" %") for bound in interval)
    return f"{low} to {high}{' %' if is_share(metric) else ''}"


def show_number(value: float) -> str:
    """Write a number with three or four digits that count."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 0.9995 <= abs(value) < 1:
        return f"{value:.5f}"  # it would read as 1.000
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 10 else f"{value:.3g}"


def title_metric(metric: str) -> str:
    """Return what people call a metric, to begin with."""
    name = name_metric(metric)
    for word, spelt in (("f1", "F1"), ("roc auc", "ROC AUC"), ("mae", "MAE"), ("rmse", "RMSE")):
        name = name.replace(word, spelt)
    return name[:1].upper() + name[1:]
