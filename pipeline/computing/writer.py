"""A thread that writes activations and publishes shards while the backbone runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.errors import UnstorableError
from permafrost.cache.shards import format as shard_format
from permafrost.cache.shards.locations import join_digests
from permafrost.cache.shards.writer import ShardWriter
from permafrost.cache.store.index import Index
from permafrost.cache.store.leases import Leases
from permafrost.pipeline.errors import Interrupted, StoppedError
from permafrost.pipeline.forward.batch import LoadedBatch
from permafrost.pipeline.planning.missing import ExtractionPlan, LayerPlan

SHARD_SECONDS = 60.0
# A run stops once so many images, and more than half of all, have values that cannot be stored.
_ENOUGH_REFUSED = 8
# Batches of activations that may wait to be written when the next one is handed over.
_BATCHES_BEHIND = 1


class ActivationWriter:
    """Appends the activations of each batch to one open shard a layer.

    Shards of all layers are published together, and only between batches: a run that resumes after
    a kill then meets the same images in the same batches as one that was left in peace.

    Parameters
    ----------
    plan : ExtractionPlan
        The folders of its feature sets are there.
    leases : Leases
        Of the rows that are handed over. Once they have lapsed, nothing is published that others
        store or hold by then.
    index : Index
        Remembers the images that cannot be decoded, under `decoding`.
    on_error : str
        ``"fail"`` stops at the first value that cannot be stored. ``"skip"`` goes on without its
        image, unless that is more than half of them.

    Attributes
    ----------
    refused : dict of bytes to str
        Images with values that cannot be stored: digest → which layer, and why.
    given_up : list of ndarray of int64, each (n,)
        Rows of the plan that were left out of what is published, and may have to be computed again.
    n_given_up, n_committed : int
        Images that were handed over and left to others; rows of the batches that were handed over
        and are done with, the unreadable ones included.
    bytes_written, waited_s : int and float
        Of shards; seconds that the thread was waited for.
    """

    def __init__(
        self,
        plan: ExtractionPlan,
        leases: Leases,
        *,
        index: Index,
        decoding: str,
        on_error: str,
    ) -> None:
        self._plan = plan
        self._leases = leases
        self._index = index
        self._decoding = decoding
        self._on_error = on_error
        self.refused: dict[bytes, str] = {}
        self._n_images = 0
        self._writers: dict[int, ShardWriter] = {}
        self._rows: dict[int, list[int]] = {}
        # By what the index remembers them under: a way of decoding, or a feature set's key.
        self._failures: dict[str, dict[bytes, str]] = {}
        self._opened_s = time.monotonic()
        self._active = plan.active
        self._left = [int(layer.missing.sum()) for layer in self._active]
        self._pending: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._is_broken = False
        self._is_stopped = False
        self._n_appended = 0
        self.given_up: list[NDArray[np.int64]] = []
        self.n_given_up = 0
        self.n_committed = 0
        self.bytes_written = 0
        self.waited_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Commit what was handed over, also when the run was interrupted or failed elsewhere."""
        try:
            self._finish()
        finally:
            self._thread.shutdown()
            for writer in self._writers.values():
                writer.discard()

    def _finish(self) -> None:
        try:
            self._wait(0)
        except (StoppedError, Interrupted):
            # One value cannot be stored, or a signal came while waiting; the rest is good.
            self._thread.submit(self._guard, self._commit).result()
            raise
        self.flush()

    def write(self, batch: LoadedBatch, activations: list[np.ndarray]) -> None:
        """Queue one batch; waits only when the disk is behind.

        Parameters
        ----------
        batch : LoadedBatch
        activations : list of ndarray, each (n, *shape)
            One for each of the plan's active layers; none where no image could be read.

        Raises
        ------
        StoppedError
            An earlier batch holds a value that cannot be stored.
        OSError
            An earlier batch could not be written.
        """
        self._pending.append(self._thread.submit(self._guard, self._append, batch, activations))
        self._wait(_BATCHES_BEHIND)

    def commit(self) -> None:
        """Queue the publishing of what was handed over, for others to see."""
        self._pending.append(self._thread.submit(self._guard, self._commit))

    def flush(self) -> None:
        """Publish what was handed over, and wait for it."""
        self.commit()
        self._wait(0)

    def _wait(self, n_pending: int) -> None:
        started_s = time.monotonic()
        while len(self._pending) > n_pending:
            self._pending.popleft().result()
        self.waited_s += time.monotonic() - started_s

    def _guard(self, work: Callable[..., None], *arguments: object) -> None:
        """Run work in the thread, unless an earlier one failed there half way.

        After a full disk, for example, a shard lacks rows that its digests name: nothing may be
        added to it and it must not be published, even if there is room again.
        """
        if self._is_broken:
            return
        try:
            work(*arguments)
        except StoppedError:
            raise
        except BaseException:
            self._is_broken = True
            raise

    def _append(self, batch: LoadedBatch, activations: list[np.ndarray]) -> None:
        if self._is_stopped:
            return
        digests = [self._plan.digests[row] for row in batch.rows]
        self._remember(self._decoding, {digests[row]: why for row, why in batch.broken.items()})
        self._n_images += len(digests)
        readable = batch.readable
        is_missing = [layer.missing[batch.rows] & readable for layer in self._active]
        self.n_given_up += int((readable & ~np.any(is_missing, axis=0)).sum())
        for number, values in enumerate(activations):
            keep = np.flatnonzero(is_missing[number])
            if len(keep):
                self._append_layer(number, batch.rows[keep].tolist(), values[keep])
        self._n_appended += len(batch.rows)
        if self._is_full():
            self._commit()

    def _append_layer(self, number: int, rows: list[int], values: np.ndarray) -> None:
        layer = self._active[number]
        writer = self._writers.get(number) or self._open(number, layer)
        while rows:
            try:
                writer.append(self._join_digests(rows), values)
            except UnstorableError as error:
                self._refuse(layer, self._plan.digests[rows.pop(error.row)], str(error))
                values = np.delete(values, error.row, axis=0)
            else:
                self._rows[number].extend(rows)
                return

    def _refuse(self, layer: LayerPlan, digest: bytes, reason: str) -> None:
        """Leave an image out, or stop if most images have values that cannot be stored."""
        why = f"layer {layer.spec}: {reason}"
        self.refused[digest] = why
        n_refused, n_images = len(self.refused), self._n_images
        is_rule = n_refused >= _ENOUGH_REFUSED and 2 * n_refused > n_images
        if is_rule or self._on_error == "fail":
            first, why = next(iter(self.refused.items()))
            path = self._plan.paths[self._plan.digests.index(first)]
            count = f" (as {n_refused} of the first {n_images} images)" if is_rule else ""
            self._is_stopped = True
            raise StoppedError(f"{path!r}, {why}{count}")
        self._remember(layer.features.key, {digest: why})

    def _remember(self, kind: str, reasons: dict[bytes, str]) -> None:
        self._failures.setdefault(kind, {}).update(reasons)

    def _open(self, number: int, layer: LayerPlan) -> ShardWriter:
        # Room for the bytes of a full shard and the batch that goes over.
        n_rows = min(self._left[number], 2 * shard_format.SHARD_BYTES // layer.row.row_bytes + 4096)
        writer = ShardWriter(
            layer.features.folder, key=layer.features.key, row=layer.row, n_rows=n_rows
        )
        self._writers[number] = writer
        self._rows[number] = []
        return writer

    def _join_digests(self, rows: list[int]) -> NDArray[np.uint8]:
        return join_digests([self._plan.digests[row] for row in rows])

    def _is_full(self) -> bool:
        largest = max((writer.n_bytes for writer in self._writers.values()), default=0)
        return (
            largest >= shard_format.SHARD_BYTES
            or time.monotonic() - self._opened_s >= SHARD_SECONDS
        )

    def _are_taken(self, layer: LayerPlan, rows: list[int]) -> bool:
        """Tell whether others store or hold any of these rows."""
        digests = [self._plan.digests[row] for row in rows]
        with self._leases.choosing() as others:
            layer.features.refresh()
            is_stored = ~layer.features.locate(digests).missing
            return bool(is_stored.any()) or not others.held.isdisjoint(digests)

    def _commit(self) -> None:
        given_up: set[int] = set()
        for number, writer in list(self._writers.items()):
            layer, rows = self._active[number], self._rows[number]
            if not rows:
                continue
            publish = writer.seal()
            # Not before: this process may have been stopped while its bytes went to the disk.
            if self._leases.have_lapsed and self._are_taken(layer, rows):
                writer.discard()  # a minute's work, as a kill would cost
                given_up.update(rows)
            else:
                shard = publish()
                layer.features.add(shard, self._join_digests(rows))
                self._left[number] -= len(rows)
                self.bytes_written += shard.stat().st_size
            del self._writers[number]
        if given_up:
            self.given_up.append(np.array(sorted(given_up), np.int64))
            self.n_given_up += len(given_up)
        # After the shards: a failure that is remembered drops out of the next run's plan, and
        # would shift the batches of rows that are still to be computed.
        for kind, reasons in self._failures.items():
            self._index.add_failures(kind, reasons)
        self._failures = {}
        self.n_committed = self._n_appended
        self._opened_s = time.monotonic()
