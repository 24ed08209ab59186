"""What is told while a run is going: to a person, to a program as lines of JSON, and to a log."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Literal, TextIO

from permafrost.pipeline.units import describe_seconds

LINE_EVERY_S = 5.0
# Set by Jupyter for its kernels, and so for what they start.
NOTEBOOK_VARIABLE = "JPY_PARENT_PID"
PROGRESS_MODES = ("auto", "bar", "lines", "json", "none")


@dataclass(slots=True)
class Reporter:
    """Where this process tells events.

    Attributes
    ----------
    mode : str
        One of `PROGRESS_MODES`; ``"auto"`` is a bar on a terminal and lines elsewhere.
    descriptor : int
        Where lines go; not 2, that of stderr, where what others write there is told as events.
    log : text file, optional
        Gets a line of each event, too.
    is_quiet : bool
        Whether people are told of nothing but errors; the log has it all.
    is_verbose : bool
        Whether people are told what otherwise only programs are.
    """

    mode: str = "auto"
    descriptor: int = 2
    log: TextIO | None = None
    is_quiet: bool = False
    is_verbose: bool = False

    @property
    def has_bar(self) -> bool:
        """Whether progress is a bar."""
        if self.mode != "auto":
            return self.mode == "bar"
        # A notebook gives commands a terminal that cannot go back to the start of a line.
        return sys.stderr.isatty() and NOTEBOOK_VARIABLE not in os.environ


reporter = Reporter()
_Shown = Literal["error", "always", "as progress", "as JSON"]


def tell(event: str, text: str, *, shown: _Shown = "as progress", **figures: object) -> None:
    """Tell of an event: on stderr, as a line of text or of JSON, and in the log.

    Parameters
    ----------
    event : str
        What kind of event it is.
    shown : str
        Whether those see it who want no progress, or who want quiet; and whether people see it, or
        programs only.
    **figures : object
        What JSON says instead of the text, which otherwise is its ``message``.
    """
    if reporter.mode == "json":
        os.write(reporter.descriptor, encode_event(event, **(figures or {"message": text})))
    elif _is_shown(shown):
        if reporter.descriptor == 2:
            print(text, file=sys.stderr, flush=True)
        else:
            os.write(reporter.descriptor, f"{text}\n".encode(errors="backslashreplace"))
    write_log(event, text)


def _is_shown(shown: _Shown) -> bool:
    """Tell whether people see an event."""
    if shown == "error" or reporter.is_quiet:
        return shown == "error"
    if shown == "as JSON":
        return reporter.is_verbose
    return shown == "always" or reporter.mode != "none"


def encode_event(event: str, **figures: object) -> bytes:
    """Return an event as a line of JSON."""
    return json.dumps({"event": event, **figures}, default=str).encode() + b"\n"


def write_log(event: str, text: str) -> None:
    """Write an event into the log alone, if there is one."""
    if reporter.log is not None:
        # The run goes on where a disk has no room for its log.
        with suppress(OSError):
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            reporter.log.write(f"{now} {event}: {' '.join(text.split())}\n")
            reporter.log.flush()


@dataclass(slots=True, kw_only=True)
class Shares:
    """Seconds the loop spent waiting for each party.

    Attributes
    ----------
    planning : float
        For the list of images, their digests, the backbone's layers and what the cache has.
    building : float
        For the program, once.
    loading, backbone, disk : float
        For a batch to be decoded, run and written; while it waits for one, the others work.
    others : float
        For other runs to finish rows that this one needs too.
    """

    planning: float = 0.0
    building: float = 0.0
    loading: float = 0.0
    backbone: float = 0.0
    disk: float = 0.0
    others: float = 0.0

    @property
    def working(self) -> float:
        """Seconds of loading, backbone and disk."""
        return self.loading + self.backbone + self.disk

    @property
    def bottleneck(self) -> str:
        """Which of these three bounds the run."""
        spent = {"loading": self.loading, "backbone": self.backbone, "disk": self.disk}
        return max(spent, key=lambda name: spent[name])

    def of(self, seconds: float) -> dict[str, float]:
        """Return the share of a run's seconds that each took, from 0 to 1."""
        return {name: round(spent / seconds, 3) for name, spent in asdict(self).items()}


@contextmanager
def show_progress(
    total: int, *, unit: str, note: Callable[[], str], quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of units that were just finished.

    Parameters
    ----------
    unit : str
        What is counted, as in "images".
    note : callable
        Returns what else to say at this moment.
    """
    if quiet:
        yield lambda _n: None
        return
    tell_lines = _tell_lines(total, unit, note)
    if not reporter.has_bar:
        yield tell_lines
        return
    with _show_bar(total, unit, note) as show:

        def advance(n: int) -> None:
            show(n)
            tell_lines(n)

        yield advance


@contextmanager
def _show_bar(total: int, unit: str, note: Callable[[], str]) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    started_s = time.monotonic()
    console = Console(
        stderr=True, force_terminal=reporter.mode == "bar" or None, force_jupyter=False
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total, rate="", note="starting")
        done = 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            rate = done / max(1e-9, time.monotonic() - started_s)
            bar.update(task, advance=n, rate=_describe_rate(rate, unit), note=note())

        yield advance


def _tell_lines(total: int, unit: str, note: Callable[[], str]) -> Callable[[int], None]:
    started_s = last_s = time.monotonic()
    done, was_told = 0, False

    def advance(n: int) -> None:
        nonlocal done, last_s, was_told
        done += n
        now_s = time.monotonic()
        # The end is told at once, but once: who waits for others goes on calling.
        if was_told if done >= total else now_s - last_s < LINE_EVERY_S:
            return
        last_s, was_told = now_s, done >= total
        rate = done / max(1e-9, now_s - started_s)
        # The first units tell how long the start takes, not how fast the rest will be.
        left_s = None if n == done < total else round((total - done) / max(1e-9, rate))
        left = "" if left_s is None else f"{describe_seconds(left_s)} left, "
        said = note()
        text = f"{done}/{total} {unit}, {_describe_rate(rate, unit)}, {left}{said}"
        if reporter.has_bar:
            write_log("progress", text)
            return
        tell(
            "progress",
            text,
            done=done,
            total=total,
            unit=unit,
            per_second=float(f"{rate:.4g}"),
            seconds_left=left_s,
            note=said,
        )

    return advance


def _describe_rate(rate: float, unit: str) -> str:
    # With one decimal, rates far below 1 would all read 0.0.
    return f"{rate:.1f} {unit}/s" if rate >= 1 else f"{rate:.2g} {unit}/s"
