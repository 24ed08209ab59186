"""What a page is made of, and how numbers are written on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from permafrost.pipeline.models.measure import name_metric

# Shares of rows, which people read as per cent.
_SHARES = {"accuracy", "balanced_accuracy", "precision", "recall"}
_SPELT = (("f1", "F1"), ("roc auc", "ROC AUC"), ("mae", "MAE"), ("rmse", "RMSE"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Key figures: name, value, and a few words on it."""

    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart; `legend` is what each colour, a custom property of the page, stands for."""

    title: str
    svg: str
    legend: Sequence[tuple[str, str]] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of a chart: its title, and how its numbers are written, as d3-format has it."""

    title: str
    form: str = ",~r"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; `is_folded` where it is shown only when asked for.

    Attributes
    ----------
    header : sequence of str
        A name that begins with ``>`` is that of a column of numbers, set to the right.
    rows : sequence of sequence of str
        The first cell names its row.
    shades : sequence of sequence of float, optional
        How dark each cell but the first of its row is, from 0 to 1; the diagonal is what is right.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
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

    title: str
    pictures: Sequence[Picture]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointMap:
    """Points that show their images; `data` is what the page's script reads."""

    title: str
    data: Mapping[str, object]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Text to copy; `is_folded` where it is shown only when asked for."""

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
    parts: Sequence[Part]

    @property
    def shown(self) -> list[Part]:
        """The parts in which there is anything."""
        return [part for part in self.parts if not _is_empty(part)]


def _is_empty(part: Part) -> bool:
    if isinstance(part, Table):
        return not part.rows and not part.note
    return isinstance(part, Gallery) and not part.pictures


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that heads are measured by, and how a page writes it."""

    name: str

    @property
    def is_share(self) -> bool:
        """Whether it is a share of rows."""
        return self.name in _SHARES

    @property
    def title(self) -> str:
        """What people call it, to begin with."""
        name = name_metric(self.name)
        for word, spelt in _SPELT:
            name = name.replace(word, spelt)
        return name[:1].upper() + name[1:]

    @property
    def axis(self) -> Axis:
        """The axis of a chart that shows it."""
        return Axis(self.title, "~%" if self.is_share else ",~r")

    def show(self, value: float | None) -> str:
        """Write a score: a share of rows in per cent."""
        if value is None:
            return "undefined"
        return show_share(value) if self.is_share else show_number(value)

    def show_interval(self, interval: Sequence[float] | None) -> str:
        """Write the 95 % interval of a score; "" where there is none."""
        if not interval:
            return ""
        low, high = (self.show(bound).removesuffix(" %") for bound in interval)
        return f"{low} to {high}{' %' if self.is_share else ''}"


def show_share(value: float) -> str:
    """Write a share in per cent."""
    return f"{value:.1%}".replace("%", " %")


def show_number(value: float) -> str:
    """Write a number with three or four digits that count."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 0.9995 <= abs(value) < 1:
        return f"{value:.5f}"  # it would read as 1.000
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 10 else f"{value:.3g}"
