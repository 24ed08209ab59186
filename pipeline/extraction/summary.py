"""The summary of an extraction: counts, speed, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from permafrost.cache.store.records import Drift, Parity
from permafrost.pipeline.computing.tally import Tally
from permafrost.pipeline.forward.drift import describe_largest
from permafrost.pipeline.forward.fast_decoding import (
    FastDecoding,
    compare_fast_decoding,
)
from permafrost.pipeline.forward.parity import describe_parity, read_parities
from permafrost.pipeline.options import ExtractOptions
from permafrost.pipeline.planning.prepare import Preparation
from permafrost.pipeline.planning.remembered import recall_records
from permafrost.pipeline.units import describe_bytes, describe_seconds
from permafrost.stages.datasets.folders import Ignored
from permafrost.stages.engines.program import Verdict

# ``--decode fast`` is recommended if it saves at least this share of a run's time.
_NOTICEABLE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractSummary:
    """The figures of a run; the first seven are what ``--json`` promises.

    Attributes
    ----------
    images, computed, reused, failed : int
        Rows of the dataset; different images computed now; rows that were there already; rows that
        could not be read.
    seconds, images_per_second, bytes_written : float, float, int
        Of the whole run; of all new shards.
    rotated : int
        Images among those computed whose file asks to be shown turned, and that were not.
    shares : dict of str to float
        Shares of those seconds, from 0 to 1: of planning, of building the program, and of waiting
        for loading, for the backbone, for the disk (each works while another is waited for), and
        for other runs that compute rows which are wanted here too.
    bottleneck : str or None
        ``"loading"``, ``"backbone"`` or ``"disk"``; None when nothing was computed.
    program : Verdict or None
        Which way of computing was the fastest, where several were timed, in this run or before.
    fast_decoding : FastDecoding or None
        What ``--decode fast`` would give where that is a tenth of the run's time or more; None
        where it is less, or chosen already.
    features, failures : str or None
        Files that were written; None of a part.
    digest : str
        Of what the features file says: images, truth and recipes, wherever they lie; "" of a part.
    parity, drift : dict
        Errors of each layer against TensorFlow and float32, empty where that is what it is; how far
        its values depend on the batch.
    ignored : Ignored
        What lies beside the images.
    """

    images: int
    computed: int
    reused: int
    failed: int
    seconds: float
    images_per_second: float
    bytes_written: int
    rotated: int
    shares: dict[str, float]
    bottleneck: str | None
    program: Verdict | None
    fast_decoding: FastDecoding | None
    features: str | None
    digest: str
    failures: str | None
    parity: dict[str, Parity]
    drift: dict[str, Drift]
    ignored: Ignored

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        return asdict(self)

    def describe(self) -> str:
        """Return the figures as a person wants them."""
        lines = [
            f"{self.images} images: {self.computed} computed, {self.reused} reused,"
            f" {self.failed} failed, in {describe_seconds(self.seconds)}",
            f"  features: {self.features or 'without --part, once all parts are done'}",
        ]
        if self.computed:
            lines.append(
                f"  {self.images_per_second:.1f} images/s, bottleneck: {self.bottleneck},"
                f" {describe_bytes(self.bytes_written)} written"
            )
            told = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items() if share)
            lines.append(f"  time: {told}")
        if self.program and self.program.images_per_second:
            lines.append(f"  {self.program.describe()}")
        lines += [f"  {describe_parity(*entry)}" for entry in self.parity.items()]
        lines += [f"  {line}" for line in describe_largest(self.drift)]
        if self.fast_decoding:
            lines.append(f"  {self.fast_decoding.describe()}")
        if self.failures:
            lines.append(f"  failures: {self.failures}")
        if self.rotated:
            lines.append(
                f"  {self.rotated} images ask to be shown turned (EXIF), which Keras ignores and"
                " this run did too; --orient exif turns them"
            )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a run wrote: path and reason of each failure, and the digest of what the view says."""

    failed: Sequence[tuple[str, str]]
    digest: str = ""


def _recommend_fast_decoding(
    options: ExtractOptions, prepared: Preparation, tally: Tally
) -> FastDecoding | None:
    # Not by the time spent waiting for it: decoding also slows a backbone on the same cores.
    noticeable_s = _NOTICEABLE * options.run.n_threads * tally.shares.working
    if not tally.n_computed or tally.exact.seconds < noticeable_s:
        return None  # more than it took cannot be saved
    found = compare_fast_decoding(prepared, tally.exact)
    return found if found and found.count_saved_s(tally.n_computed) >= noticeable_s else None


def failures_path(out: Path) -> Path:
    """Return where the failures of a view are listed."""
    return out.with_name(f"{out.name}.failures.csv")


def summarize(
    options: ExtractOptions,
    prepared: Preparation,
    tally: Tally,
    *,
    written: Written,
    out: Path,
) -> ExtractSummary:
    """Put the figures of a run together."""
    seconds = time.monotonic() - tally.started_s
    n_images = len(prepared.dataset.manifest)
    return ExtractSummary(
        images=n_images,
        computed=tally.n_computed,
        reused=n_images - tally.n_computed - len(written.failed),
        failed=len(written.failed),
        seconds=round(seconds, 3),
        images_per_second=round(tally.n_computed / seconds, 2),
        bytes_written=tally.bytes_written,
        rotated=tally.n_rotated if options.features.orient == "ignore" else 0,
        shares=tally.shares.of(seconds),
        bottleneck=tally.shares.bottleneck if tally.n_computed else None,
        program=tally.verdict,
        fast_decoding=_recommend_fast_decoding(options, prepared, tally),
        features=None if options.part else str(out),
        digest=written.digest,
        failures=str(failures_path(out)) if written.failed and not options.part else None,
        parity=read_parities(options.features, prepared.plan.layers),
        drift=recall_records(prepared.plan.layers, Drift),
        ignored=prepared.dataset.ignored,
    )
