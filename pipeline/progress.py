"""What a person sees while a run is going: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

LINE_EVERY_S = 5.0


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
    total : int
    unit : str
        What is counted, as in "images".
    note : callable
        Returns what else to say at this moment.
    quiet : bool
        Whether to show nothing.
    """
    if quiet:
        yield lambda _n: None
    elif sys.stderr.isatty():
        with _show_bar(total, unit, note) as advance:
            yield advance
    else:
        yield _log_lines(total, unit, note)


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
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, rate="", note="starting")
        done = 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            rate = done / max(1e-9, time.monotonic() - started_s)
            bar.update(task, advance=n, rate=_describe_rate(rate, unit), note=note())

        yield advance


def _log_lines(total: int, unit: str, note: Callable[[], str]) -> Callable[[int], None]:
    started_s = last_s = time.monotonic()
    done = 0

    def advance(n: int) -> None:
        nonlocal done, last_s
        done += n
        now_s = time.monotonic()
        if now_s - last_s < LINE_EVERY_S and done < total:
            return
        last_s = now_s
        rate = done / max(1e-9, now_s - started_s)
        # The first units tell how long the start takes, not how fast the rest will be.
        left = "" if n == done < total else f"{(total - done) / max(1e-9, rate):.0f} s left, "
        print(
            f"{done}/{total} {unit}, {_describe_rate(rate, unit)}, {left}{note()}",
            file=sys.stderr,
            flush=True,
        )

    return advance


def _describe_rate(rate: float, unit: str) -> str:
    # With one decimal, rates far below 1 would all read 0.0.
    return f"{rate:.1f} {unit}/s" if rate >= 1 else f"{rate:.2g} {unit}/s"
