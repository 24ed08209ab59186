"""What a person sees while a run is going: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LINE_EVERY_S = 5.0


@dataclass(slots=True, kw_only=True)
class Shares:
    """Seconds the loop spent waiting for each party.

    Attributes
    ----------
    loading, backbone, disk : float
    """

    loading: float = 0.0
    backbone: float = 0.0
    disk: float = 0.0

    @property
    def bottleneck(self) -> str:
        """Which of them bounds the run."""
        spent = {"loading": self.loading, "backbone": self.backbone, "disk": self.disk}
        return max(spent, key=lambda name: spent[name])


@contextmanager
def show_progress(n_images: int, shares: Shares) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of images that were just finished."""
    if sys.stderr.isatty():
        with _show_bar(n_images, shares) as advance:
            yield advance
    else:
        yield _log_lines(n_images, shares)


@contextmanager
def _show_bar(n_images: int, shares: Shares) -> Iterator[Callable[[int], None]]:
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
        TextColumn("{task.fields[bound]}"),
    )
    started_s = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=n_images, rate="", bound="starting")
        done = 0

        def advance(n: int) -> None:
            nonlocal done
            done += n
            rate = done / max(1e-9, time.monotonic() - started_s)
            bound = f"bottleneck: {shares.bottleneck}"
            bar.update(task, advance=n, rate=f"{rate:.1f} images/s", bound=bound)

        yield advance


def _log_lines(n_images: int, shares: Shares) -> Callable[[int], None]:
    started_s = last_s = time.monotonic()
    done = 0

    def advance(n: int) -> None:
        nonlocal done, last_s
        done += n
        now_s = time.monotonic()
        if now_s - last_s < LINE_EVERY_S and done < n_images:
            return
        last_s = now_s
        rate = done / max(1e-9, now_s - started_s)
        left_s = (n_images - done) / max(1e-9, rate)
        print(
            f"{done}/{n_images} images, {rate:.1f} images/s, {left_s:.0f} s left,"
            f" bottleneck: {shares.bottleneck}",
            file=sys.stderr,
            flush=True,
        )

    return advance
