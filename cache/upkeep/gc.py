"""Drop what nobody needs: feature sets, rows and files, by rule; and rows that are there twice."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.disk.orphans import list_folder
from permafrost.cache.disk.publish import sync
from permafrost.cache.shards.reader import list_shards
from permafrost.cache.store.folders import count_idle_days
from permafrost.cache.store.leases import dropping
from permafrost.cache.store.records import RECORD_FILES
from permafrost.cache.upkeep.rewrite import Part, read_part, write_parts
from permafrost.cache.upkeep.salvage import QUARANTINE, list_quarantined
from permafrost.cache.upkeep.survey import SetSurvey

_DERIVED_NAME = re.compile(r"derived-[0-9a-f]+\.h5")

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is not needed.

    Attributes
    ----------
    keep_days : float or None
        Feature sets and derived arrays that were not used for so long, and what was put into
        quarantine so long ago.
    used : ndarray of uint8, shape (n, 32), or None
        Digests of images; the rows of all others.
    """

    keep_days: float | None = None
    used: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What goes from a folder, and why: rows, or files that hold none."""

    reason: str
    n_bytes: int
    n_rows: int = 0
    n_files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPlan:
    """What goes from a feature set.

    Attributes
    ----------
    survey : SetSurvey
    kept : list of ndarray of bool
        For each shard the rows that stay.
    files : list of Path
        Files beside the shards that go: derived arrays, and what is in quarantine.
    is_whole : bool
        Whether the feature set goes with all its files.
    losses : list of Loss
    """

    survey: SetSurvey
    kept: list[Mask]
    files: list[Path]
    is_whole: bool = False
    losses: list[Loss] = field(default_factory=list)


def plan_set(survey: SetSurvey, rules: Rules, *, may_drop_repeats: bool) -> SetPlan:
    """Find out what goes from a feature set.

    With `may_drop_repeats`, of rows that are there twice one goes: only where no other upkeep
    runs, which might drop the other one.
    """
    idle_days = count_idle_days(survey.folder)
    if rules.keep_days is not None and idle_days >= rules.keep_days:
        return _plan_whole(survey, f"not used for {idle_days:.0f} days")
    needed = _find_needed(survey, rules.used)
    if survey.shards and not any(mask.any() for mask in needed):
        return _plan_whole(survey, "in none of the manifests")
    kept = _find_first(survey, needed) if may_drop_repeats else needed
    unneeded = _count_loss(survey, [~mask for mask in needed], "in none of the manifests")
    repeats = [mask & ~stays for mask, stays in zip(needed, kept, strict=True)]
    # What was derived may have been from the rows that go, and can be made again.
    derived = _list_derived(survey.folder, 0 if unneeded.n_rows else rules.keep_days)
    quarantined = _keep_idle(list_quarantined(survey.folder), rules.keep_days)
    losses = [
        unneeded,
        _count_loss(survey, repeats, "there twice"),
        count_files(derived, "derived arrays"),
        count_files(quarantined, "in quarantine"),
    ]
    return SetPlan(
        survey=survey,
        kept=kept,
        files=derived + quarantined,
        losses=[loss for loss in losses if loss.n_rows or loss.n_files],
    )


def _plan_whole(survey: SetSurvey, reason: str) -> SetPlan:
    kept = [np.zeros(len(shard.digests), np.bool_) for shard in survey.shards]
    files = _list_derived(survey.folder, 0) + list_quarantined(survey.folder)
    loss = replace(
        count_files([*(shard.path for shard in survey.shards), *files], reason),
        n_rows=sum(len(one.digests) for one in survey.shards),
    )
    return SetPlan(survey=survey, kept=kept, files=files, is_whole=True, losses=[loss])


def _find_needed(survey: SetSurvey, used: NDArray[np.uint8] | None) -> list[Mask]:
    if used is None:
        return [np.ones(len(shard.digests), np.bool_) for shard in survey.shards]
    names = np.unique(np.ascontiguousarray(used).view("S32"))
    return [np.isin(shard.names, names) for shard in survey.shards]


def _find_first(survey: SetSurvey, needed: Sequence[Mask]) -> list[Mask]:
    """Keep, of rows that are there twice, the one that serves them: that of the first shard."""
    if not survey.shards:
        return []
    mask = np.concatenate(needed)
    names = np.concatenate([shard.names for shard in survey.shards])[mask]
    first = np.zeros(len(mask), np.bool_)
    first[np.flatnonzero(mask)[np.unique(names, return_index=True)[1]]] = True
    return np.split(first, np.cumsum([len(one) for one in needed])[:-1])


def _count_loss(survey: SetSurvey, masks: Sequence[Mask], reason: str) -> Loss:
    shares = zip(survey.shards, masks, strict=True)
    n_bytes = sum(one.n_bytes * int(mask.sum()) // max(1, len(mask)) for one, mask in shares)
    return Loss(reason=reason, n_bytes=n_bytes, n_rows=sum(int(mask.sum()) for mask in masks))


def _list_derived(folder: Path, keep_days: float | None) -> list[Path]:
    found = [path for path in list_folder(folder) if _DERIVED_NAME.fullmatch(path.name)]
    return _keep_idle(sorted(found), keep_days)


def _keep_idle(files: Sequence[Path], keep_days: float | None) -> list[Path]:
    if keep_days is None:
        return []
    return [file for file in files if count_idle_days(file) >= keep_days]


def count_files(files: Sequence[Path], reason: str) -> Loss:
    """Return the loss of files that hold no rows."""
    return Loss(reason=reason, n_bytes=sum(map(_count_bytes, files)), n_files=len(files))


def _count_bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0  # Every run removes what killed ones left.


def apply_plan(plan: SetPlan, leases_folder: Path) -> bool:
    """Drop what `plan_set` found, and return True; nothing where a run has begun to rely on it.

    Killed half way, nothing is lost but what was to go.

    Raises
    ------
    DamagedError, OSError
        What stays cannot be read, or cannot be written anew; it stays as it was.
    """
    # Takes long where much of a shard stays, so before others have to wait.
    goes = [] if plan.is_whole else _write_rest(plan)
    with dropping(leases_folder, plan.survey.key) as is_free:
        if is_free and plan.is_whole:
            _drop_set(plan)
        elif is_free:
            _unlink([*goes, *plan.files])
    return is_free


def _drop_set(plan: SetPlan) -> None:
    folder = plan.survey.folder
    _unlink(shard.path for shard in plan.survey.shards)
    sync(folder)
    if any(list_shards(folder)):
        return  # Another run has begun to fill it anew.
    _unlink([*plan.files, *(folder / name for name in RECORD_FILES.values())])
    # The last to go: a shard without a recipe is worth nothing.
    _unlink([folder / "recipe.json"])
    for empty in (folder / QUARANTINE, folder, folder.parent):
        with contextlib.suppress(OSError):  # There is more in it, which is not ours.
            empty.rmdir()


def _write_rest(plan: SetPlan) -> list[Path]:
    """Write anew what stays of shards some of whose rows go; return the shards to drop then."""
    survey = plan.survey
    changed = [pair for pair in zip(survey.shards, plan.kept, strict=True) if not pair[1].all()]
    if not changed:
        return []
    _check_repeats(plan)
    fresh = {
        write_parts(survey, [Part(shard=shard, rows=np.flatnonzero(mask))])
        for shard, mask in changed
        if mask.any()
    }
    # What stays of one shard may be just the rows of another, under whose name it is now.
    return [shard.path for shard, _ in changed if shard.path not in fresh]


def _check_repeats(plan: SetPlan) -> None:
    """Read the rows that stay where a copy of them goes, but for those that are written anew."""
    pairs = list(zip(plan.survey.shards, plan.kept, strict=True))
    dropped = np.concatenate([shard.names[~mask] for shard, mask in pairs])
    for shard, mask in pairs:
        rows = np.flatnonzero(np.isin(shard.names, dropped) & mask.all())
        for _ in read_part(plan.survey, Part(shard=shard, rows=rows)):
            pass


def _unlink(files: Iterator[Path] | Sequence[Path]) -> None:
    for file in files:
        if file.is_dir():  # A folder that was in the place of a shard.
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)
