"""``gc``: drop feature sets and rows that nobody needs, by rule, and what is left lying about."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from permafrost.cache.disk.orphans import list_orphans, list_unpublished, remove_orphans
from permafrost.cache.errors import DamagedError, MissingShardError
from permafrost.cache.store.folders import list_set_folders, name_set
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout, find_cache
from permafrost.cache.store.leases import is_used
from permafrost.cache.upkeep.gc import Loss, Rules, apply_plan, count_files, plan_set
from permafrost.cache.upkeep.salvage import list_quarantined
from permafrost.cache.upkeep.survey import is_empty, survey_set
from permafrost.cache.views.features import Features
from permafrost.command import COMMAND
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.units import count, describe_bytes
from permafrost.pipeline.upkeep.shared import (
    QUARANTINED,
    RENEW_VIEWS,
    forget_shards,
    show_sets,
    wait_for_turn,
)
from permafrost.stages.datasets.manifest import read_manifest

_log = logging.getLogger(__name__)

_ROOT = "."


@dataclass(frozen=True, slots=True, kw_only=True)
class GcOptions:
    """What ``gc`` was asked for.

    `unused_by` are manifests or features.h5 whose images are used; without any there is no such
    rule.
    """

    root: Path
    keep_days: float | None = None
    unused_by: Sequence[Path] = ()
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.keep_days is not None and not self.keep_days >= 0:
            raise PipelineError(f"--keep-days {self.keep_days:g}: it must be 0 or more")


@dataclass(slots=True, kw_only=True)
class GcResult:
    """What went, or would go.

    Each loss comes with the name of its feature set, or ``"."`` for the cache's own folder;
    `skipped` says what was left as it is, and why; `quarantined` are the files that repair put
    aside and that stay.
    """

    options: GcOptions
    losses: list[tuple[str, Loss]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    quarantined: list[Path] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        return {
            "feature_sets": len(self._names),
            "rows": sum(loss.n_rows for _, loss in self.losses),
            "bytes": sum(loss.n_bytes for _, loss in self.losses),
            "dry_run": self.options.dry_run,
            "dropped": [
                {"feature_set": name, "rows": one.n_rows, "bytes": one.n_bytes, "why": one.reason}
                for name, one in self.losses
            ],
            "skipped": self.skipped,
            "quarantined": [str(file) for file in self.quarantined],
        }

    def describe(self) -> str:
        """Return the figures as a person wants them, a line for each loss."""
        lines = [f"{name}: {_describe_loss(loss)}" for name, loss in self.losses]
        if self.quarantined:
            lines.append(f"{count(len(self.quarantined), 'file')} {QUARANTINED}")
        return "\n".join([*lines, *self.skipped, *self._sum_up()])

    def _sum_up(self) -> list[str]:
        if not self.losses:
            rules = "; its rules are --keep-days N and --unused-by MANIFEST"
            has_rules = self.options.keep_days is not None or self.options.unused_by
            return [f"nothing to drop{'' if has_rules else rules}"]
        n_rows = sum(loss.n_rows for _, loss in self.losses)
        n_bytes = sum(loss.n_bytes for _, loss in self.losses)
        line = f"{count(n_rows, 'row')} and {describe_bytes(n_bytes)}"
        if self.options.dry_run:
            return [f"would drop {line}; nothing was touched"]
        return [f"dropped {line}", *([RENEW_VIEWS] if n_rows else [])]

    @property
    def _names(self) -> set[str]:
        return {name for name, _ in self.losses} - {_ROOT}


def collect(options: GcOptions) -> GcResult:
    """Drop what the rules say, rows that are there twice, and what killed runs left.

    Raises
    ------
    CacheError, StageError, PipelineError
        There is no cache, or a manifest cannot be used.
    OSError
        There is no room for the rows that stay; what was there is still there.
    """
    layout = find_cache(options.root)
    used = [_read_digests(file) for file in options.unused_by]
    rules = Rules(keep_days=options.keep_days, used=np.concatenate(used) if used else None)
    result = GcResult(options=options)
    with ExitStack() as stack:
        is_alone = options.dry_run or stack.enter_context(wait_for_turn(layout))
        advance = stack.enter_context(show_sets(layout))
        for folder in (layout.root, layout.leases_folder):
            _collect_orphans(folder, _ROOT, result)
        for folder in list_set_folders(layout):
            _collect_orphans(folder, name_set(folder), result)
            if not is_empty(folder):
                _collect_set(layout, folder, rules, result, is_alone=is_alone)
            result.quarantined += list_quarantined(folder)
            advance(folder)
        if not options.dry_run:
            _prune_index(layout)
    return result


def _prune_index(layout: CacheLayout) -> None:
    """Let the index forget feature sets and images that are gone; sets that are damaged stay."""
    with Index(layout.index_file) as index:
        index.prune([folder.parent.name[-12:] for folder in list_set_folders(layout)])


def _collect_orphans(folder: Path, name: str, result: GcResult) -> None:
    orphans = list_orphans(folder)
    if orphans:
        result.losses.append((name, count_files(orphans, "left by killed runs")))
        if not result.options.dry_run:
            remove_orphans(folder)


def _collect_set(
    layout: CacheLayout, folder: Path, rules: Rules, result: GcResult, *, is_alone: bool
) -> None:
    try:
        survey = survey_set(layout, folder)
        is_free = not (list_unpublished(folder) or is_used(layout.leases_folder, survey.key))
        plan = plan_set(survey, rules, may_drop_repeats=is_alone) if is_free else None
        if plan and plan.losses and not result.options.dry_run:
            is_free = apply_plan(plan, layout.leases_folder)
            forget_shards(layout, survey)
        if plan is None or not is_free:
            result.skipped.append(f"{folder} is used by another run; left as it is")
            return
    except (DamagedError, MissingShardError) as error:
        result.skipped.append(f"{error}; left as it is: see verify and repair")
        return
    result.losses += [(name_set(folder), loss) for loss in plan.losses]


def _describe_loss(loss: Loss) -> str:
    what = count(loss.n_rows, "row") if loss.n_rows else count(loss.n_files, "file")
    return f"{what}, {describe_bytes(loss.n_bytes)}: {loss.reason}"


def _read_digests(file: Path) -> NDArray[np.uint8]:
    """Read the digests of all images in a manifest or a features.h5: uint8 (n, 32)."""
    if file.is_file() and h5py.is_hdf5(file):
        with Features(file) as features:
            digests: NDArray[np.uint8] = features.digests
        return digests
    told = read_manifest(file).digests
    known = told.array[told.known]
    if not len(known):
        raise PipelineError(
            f"--unused-by {str(file)!r} has no digests of images; write it with:"
            f" {COMMAND} index IMAGES --out {file}"
        )
    if len(known) < len(told):
        n_without = count(len(told) - len(known), "row")
        _log.warning("%s of %s without a digest; their images count as unused", n_without, file)
    return known
