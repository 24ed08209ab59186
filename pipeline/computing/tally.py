"""What happened to a run's images so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from permafrost.pipeline.errors import UnreadableError
from permafrost.pipeline.forward.fast_decoding import ExactDecoding
from permafrost.pipeline.options import ExtractOptions
from permafrost.pipeline.planning.prepare import Preparation
from permafrost.pipeline.progress import Shares
from permafrost.stages.engines.program import Verdict

# The shares of computing, whoever computes.
COMPUTING = ("building", "loading", "backbone", "disk")


@dataclass(slots=True, kw_only=True)
class Tally:
    """What happened so far; `unreadable` is path → reason, `failed` is digest → reason."""

    started_s: float = field(default_factory=time.monotonic)
    unreadable: dict[str, str] = field(default_factory=dict)
    failed: dict[bytes, str] = field(default_factory=dict)
    n_computed: int = 0
    n_rotated: int = 0
    exact: ExactDecoding = field(default_factory=ExactDecoding)
    bytes_written: int = 0
    shares: Shares = field(default_factory=Shares)
    verdict: Verdict | None = None


def list_failures(prepared: Preparation, tally: Tally) -> list[tuple[str, str]]:
    """Return (path, reason) of each row that has no features, in manifest order."""
    manifest = prepared.dataset.manifest
    failed = {**prepared.failures, **tally.failed}
    if not failed and not tally.unreadable:
        return []
    rows = zip(manifest.paths, manifest.digests, strict=True)
    reasons = ((path, tally.unreadable.get(path) or failed.get(digest)) for path, digest in rows)
    return [(path, reason) for path, reason in reasons if reason is not None]


def stop_on_failure(options: ExtractOptions, prepared: Preparation, tally: Tally) -> None:
    """Stop at the first image that could not be read, if the options say so."""
    if options.run.on_error == "fail":
        for path, reason in list_failures(prepared, tally):
            raise UnreadableError(path, reason)
