"""What an experiment would cost, from what was measured here."""

from __future__ import annotations

from dataclasses import dataclass

from permafrost.pipeline.advice.proposal import Ladder, Proposal
from permafrost.pipeline.experiments.schema import HeadSection
from permafrost.pipeline.tasks.rows import JOINED_BY
from permafrost.pipeline.units import describe_bytes, describe_seconds
from permafrost.stages.backbones.layers import PIXELS
from permafrost.stages.heads import HEADS


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an experiment takes, as far as it was measured here.

    Attributes
    ----------
    n_images : int
        Different ones.
    bytes_to_write : int, optional
        At most: the cache may have some already. None where shapes are not on record.
    images_per_second, extract_seconds : float, optional
        As measured when the cached layers were computed; None where that is not on record.
    linear_seconds : float
        Of them, at the seconds that the probe took for a fit on these layers.
    untimed : tuple of str
        Heads of other kinds, of which nothing was measured.
    image_passes : int
        At most: images that go through networks in training, over all settings, folds and epochs.
    """

    n_images: int
    new_layers: tuple[str, ...]
    bytes_to_write: int | None
    images_per_second: float | None
    extract_seconds: float | None
    linear_fits: int
    linear_seconds: float
    untimed: tuple[str, ...]
    image_passes: int

    def describe(self) -> list[str]:
        """Write it as lines."""
        lines = ["nothing new to extract"]
        if self.new_layers:
            size = "unknown bytes"
            if self.bytes_to_write is not None:
                size = describe_bytes(self.bytes_to_write)
            lines = [
                f"extract {', '.join(self.new_layers)}: {self.n_images} images, {size}; "
                + _describe_time(self.extract_seconds, self.images_per_second)
            ]
        lines.append(
            f"{self.linear_fits} linear fits: {describe_seconds(self.linear_seconds)}, at the"
            " probe's seconds a fit"
        )
        if self.untimed:
            passes = f"; at most {self.image_passes:,} images through networks"
            lines.append(
                f"not measured yet: {', '.join(self.untimed)}{passes if self.image_passes else ''}"
            )
        return lines


def _describe_time(seconds: float | None, rate: float | None) -> str:
    if seconds is None:
        return "its time is not on record: extract and plan tell it"
    return f"about {describe_seconds(seconds)} at the {rate:.1f} images/s of the cached layers"


def estimate(
    proposal: Proposal, ladder: Ladder, *, n_images: int, n_rows: int, n_folds: int
) -> Cost:
    """Add up what the next experiment takes.

    Parameters
    ----------
    n_images : int
        Different ones.
    n_rows : int
        Those in folds.
    """
    known = ladder.known
    # A file that holds its rows itself spares the next experiment nothing: it has no cache.
    stored = known.stored if known.cache else ()
    new = tuple(one for one in proposal.extracted if one not in stored)
    row_bytes = [known.count_bytes(spec) for spec in new]
    sizes = [size for size in row_bytes if size is not None]
    rate = known.images_per_second if any(spec != PIXELS for spec in new) else None
    seconds = {
        str(one.stored.spec): one.entry.seconds / len(one.entry.folds) for one in ladder.layers
    }
    mean = sum(seconds.values()) / len(seconds)
    fits, fit_seconds, passes = 0, 0.0, 0
    untimed: list[str] = []
    for head in proposal.heads:
        n_settings = len(list(HeadSection(**head).expand()))
        layers = head.get("layers", proposal.tried)
        if HEADS[head["kind"]].is_estimator:
            fits += n_settings * n_folds * len(layers)
            terms = [term for name in layers for term in name.split(JOINED_BY)]
            fit_seconds += n_settings * n_folds * sum(seconds.get(one, mean) for one in terms)
            continue
        untimed.append(head["kind"])
        if HEADS[head["kind"]].is_network:
            n_seen = n_rows * max(1, n_folds - 1)  # of all folds together
            passes += n_settings * len(layers) * head["epochs"] * n_seen
    return Cost(
        n_images=n_images,
        new_layers=new,
        bytes_to_write=n_images * sum(sizes) if len(sizes) == len(new) else None,
        images_per_second=known.images_per_second,
        extract_seconds=n_images / rate if rate else None,
        linear_fits=fits,
        linear_seconds=fit_seconds,
        untimed=tuple(untimed),
        image_passes=passes,
    )
