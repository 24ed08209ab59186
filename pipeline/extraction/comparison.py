"""What each engine, precision and way of decoding would give, side by side."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass, field

from permafrost.cache.store.records import Parity
from permafrost.cores import count_cores
from permafrost.pipeline.units import describe_seconds

_WIDTH = 100
_HEADER = ("images/s", "forward/s", "takes", "error", "options to add")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRow:
    """One engine, precision and way of decoding.

    Attributes
    ----------
    options, asked : str and bool
        What to type for it, behind the options that were given; whether it is what they ask for.
    missing : int
        Different images that its own feature sets lack.
    images_per_second : float or None
        End to end, estimated from the next two by `estimate_rate`; None where it does not work
        here, as all other figures.
    forward_per_second, decoding_per_second : float or None
        Of the network, its images decoded; of one core.
    seconds : float or None
        Estimated for the missing images.
    errors : dict of str to Parity
        Of each layer, against the reference in float32 on images that are decoded exactly (in
        isolation, as is asked for).
    program : str or None
        The fastest way to compute it, where TensorFlow had the time to find it.
    batches : int
        How many were timed; 0 where the first, with its compiling, took too long for another.
    reason : str or None
        Why it does not work here, or was left out.
    """

    engine: str
    precision: str
    decode: str
    options: str
    asked: bool
    missing: int | None = None
    images_per_second: float | None = None
    forward_per_second: float | None = None
    decoding_per_second: float | None = None
    seconds: float | None = None
    errors: dict[str, Parity] = field(default_factory=dict)
    program: str | None = None
    batches: int = 0
    reason: str | None = None

    @property
    def mark(self) -> str:
        """What people see before it."""
        return ">" if self.asked else " "

    def list_cells(self) -> tuple[str, ...]:
        """Return what the table has of it, as `_HEADER`."""
        about = "" if self.batches else "~"
        rates = (self.images_per_second, self.forward_per_second)
        worst = max((error.max_error for error in self.errors.values()), default=None)
        return (
            *(about + _describe_rate(rate or 0.0) for rate in rates),
            describe_seconds(self.seconds or 0.0),
            "?" if worst is None else _describe_error(worst),
            self.options,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was measured of all engines and precisions.

    Attributes
    ----------
    images, batch_size : int
        How many were decoded, and how many of them went through the network at once.
    seconds : float
        That measuring took.
    difference : float or None
        Between the pixels of both ways of decoding, on average, in grey levels of 256; None where
        they are the same, or where images are decoded in isolation, in one way only.
    rows : list of ComparedRow
        The fastest first; at the end those that do not work here.
    """

    images: int
    batch_size: int
    seconds: float
    difference: float | None
    rows: list[ComparedRow]

    def to_dict(self) -> dict[str, object]:
        """Return the rows as ``compared``, and what they were measured on."""
        figures = asdict(self)
        return {"compared": figures.pop("rows"), "compared_on": figures}

    def describe(self) -> str:
        """Return a table for people, no wider than a terminal."""
        measured = [row for row in self.rows if row.reason is None]
        lines = [
            f"compared on this machine with {self.images} of the images, in batches of"
            f" {self.batch_size}, in {describe_seconds(self.seconds)}:",
            *_align(_HEADER, [r.list_cells() for r in measured], [r.mark for r in measured]),
            *_group_reasons([row for row in self.rows if row.reason is not None]),
            "",
            *map(_wrap, self._explain(measured)),
        ]
        compared = [row for row in measured if row.errors]
        if any(len(row.errors) > 1 for row in compared):
            lines += ["", "errors by layer:", *_list_errors(compared)]
        return "\n".join(lines)

    def _explain(self, measured: list[ComparedRow]) -> list[str]:
        """Say what the columns are, and what did not fit into them."""
        rates = {row.decode: row.decoding_per_second or 0.0 for row in measured}
        decoding = ", ".join(f"{mode} {_describe_rate(rate)}" for mode, rate in rates.items())
        reference = next((e.reference for row in measured for e in row.errors.values()), "")
        lines = [
            f"> as asked; images/s: estimated from forward/s and decoding ({decoding} images/s a"
            " core); takes: for the images that these options miss; error: the largest, relative to"
            f" the layer's largest value in {reference} float32",
            "images/s and takes leave out reading and checking files, and writing: next to nothing"
            " of a heavy network; with 3,000 forward/s, a run took a third longer",
        ]
        if self.difference:
            lines.append(
                f"fast decoding: pixels differ by {self.difference:.2f} grey levels of 256, which"
                " is part of the error"
            )
        if not all(row.batches for row in measured):
            lines.append("~ from the first batch alone, its compiling included")
        return lines


def estimate_rate(forward: float, decoding: float, *, n_threads: int, on_gpu: bool) -> float:
    """Estimate images/s end to end; reading and writing are not counted.

    On a processor both share the cores, and no core is ever idle: the seconds of an image add up,
    ``1 / (1 / forward + 1 / (n_cores * decoding))``. Measured on two cores with MobileNet x0.25, by
    the processor time of whole runs: 564 images/s with TensorFlow where this says 571, 774 with
    OpenVINO where this says 1,011, as there the rest is a larger share. The slower of the two alone
    would promise 853 and 1,726. A GPU leaves the cores to decoding, so there it is what counts.

    Parameters
    ----------
    forward : float
        Images/s of the network, with all cores.
    decoding : float
        Images/s of one core.
    n_threads : int
        How many threads decode.
    on_gpu : bool
    """
    n_cores = count_cores()
    all_decoding = min(n_threads, n_cores) * decoding
    if on_gpu:
        return min(forward, all_decoding)
    return min(all_decoding, 1 / (1 / forward + 1 / (n_cores * decoding)))


def _align(header: tuple[str, ...], rows: list[tuple[str, ...]], marks: list[str]) -> list[str]:
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        f"{mark} " + "  ".join([*map(str.rjust, cells[:-1], widths), cells[-1]])
        for mark, cells in zip([" ", *marks], table, strict=True)
    ]


def _list_errors(rows: list[ComparedRow]) -> list[str]:
    """List the largest errors of each layer: in columns, or where those are too many, in lines."""
    layers = list(rows[0].errors)
    cells = [[_describe_error(error.max_error) for error in row.errors.values()] for row in rows]
    table = [(*some, row.options) for some, row in zip(cells, rows, strict=True)]
    lines = _align((*layers, ""), table, [row.mark for row in rows])
    if max(map(len, lines)) <= _WIDTH:
        return [line.rstrip() for line in lines]
    told = [", ".join(map(" ".join, zip(layers, some, strict=True))) for some in cells]
    return [_wrap(f"  {row.options}: {one}") for row, one in zip(rows, told, strict=True)]


def _group_reasons(rows: list[ComparedRow]) -> list[str]:
    """Say of what does not work why, once for each reason."""
    grouped: dict[str, list[ComparedRow]] = {}
    for row in rows:
        # What to use instead stands above.
        grouped.setdefault(str(row.reason).split("; ")[0], []).append(row)
    return [
        _wrap(
            f"{max(row.mark for row in some)} not {', '.join(dict.fromkeys(map(_name, some)))}:"
            f" {reason}"
        )
        for reason, some in grouped.items()
    ]


def _name(row: ComparedRow) -> str:
    return f"{row.engine} {row.precision}"


def _describe_error(error: float) -> str:
    return f"{error:.0e}" if error else "0"


def _wrap(line: str) -> str:
    indent = "    " if line.startswith("  ") else "  "
    return textwrap.fill(line, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _describe_rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"
