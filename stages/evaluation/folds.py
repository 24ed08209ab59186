"""Folds to cross-validate over: each like the whole, and no group in two of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, REGRESSION, Targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads import CalibrationPlan
from permafrost.stages.matrices.matrix import Rows

N_QUANTILES = 10
N_CALIBRATION_FOLDS = 5
# How far folds may be from their fair part of a stratum, on the mean, before groups are weighed.
TOLERATED_IMBALANCE = 0.1


class Fold(NamedTuple):
    """Rows to fit on, and all others, to measure on: ascending positions, int64."""

    train: Rows
    test: Rows


class _Members(NamedTuple):
    """Group ``groups[i]`` has ``counts[i]`` rows of stratum ``strata[i]``; no pair comes twice.

    Stratum 0 is all rows, so that folds are also of one size.
    """

    groups: Rows
    strata: Rows
    counts: Rows


def make_folds(targets: Targets, groups: NDArray[Any], *, n_folds: int, seed: int) -> list[Fold]:
    """Split rows into folds that are alike; the rows of a group always share one.

    Every fold gets its part of each class (classification), of each tenth of the values
    (regression) or of each tag (multilabel). Groups are drawn at random, stratified by their first
    rows. Where their sizes or mixed labels leave that uneven, and for tags, groups are weighed:
    from the one that holds the largest shares of classes or tags down, each goes to the fold that
    has least of what it holds. With a row a group this comes close to the iterative stratification
    of Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data" (2011).

    Parameters
    ----------
    targets : Targets
        Of n rows.
    groups : ndarray, shape (n,)
        Equal keys are one group: numbers, digests, text. The folds depend on the keys' order.
    n_folds : int
        From 2 on.

    Returns
    -------
    list of Fold
        Every row is in exactly one fold's `test`. Nothing is promised of rare classes and tags, nor
        of classes within groups that mix them: a fold's `train` or `test` may be without one.

    Raises
    ------
    InputError
        Fewer than two folds, no rows, fewer groups than folds, or every class in fewer groups than
        there are folds.
    """
    # Groups are numbered once, and drawn by number. scikit-learn's StratifiedGroupKFold weighs
    # every group against every fold and class in Python: 7 s for 50,000 rows, this takes 0.1 s.
    _, firsts, group_of_row = np.unique(groups, return_index=True, return_inverse=True)
    _check_counts(len(targets), len(firsts), n_folds=n_folds)
    rows, strata = _stratify(targets, n_bins=min(N_QUANTILES, len(firsts) // n_folds))
    members = _count_members(group_of_row[rows], strata, n_rows_of=np.bincount(group_of_row))
    if targets.task == CLASSIFICATION:
        _check_classes(targets, members, n_folds=n_folds)
    if targets.task == MULTILABEL:
        fold_of_group = _weigh_groups(members, n_folds=n_folds, seed=seed)
    else:
        fold_of_group = _draw_groups(strata[firsts], n_folds=n_folds, seed=seed)
        fold_of_group = _improve_draw(fold_of_group, members, n_folds=n_folds, seed=seed)
    fold_of_row = fold_of_group[group_of_row]
    return [
        Fold(np.flatnonzero(fold_of_row != fold), np.flatnonzero(fold_of_row == fold))
        for fold in range(n_folds)
    ]


def _check_counts(n_rows: int, n_groups: int, *, n_folds: int) -> None:
    if n_folds < 2:
        raise InputError(f"cannot cross-validate with {n_folds} folds: give --cv 2 or more")
    if not n_rows:
        raise InputError("there are no rows to cross-validate: give some that are not for testing")
    if n_groups < n_folds:
        raise InputError(
            f"{n_rows} rows are only {n_groups} groups of images that belong together, fewer than"
            f" {n_folds} folds: {_advise(n_groups)}"
        )


def _advise(most: int) -> str:
    return f"give --cv {most} or add images" if most > 1 else "add images that are not of one group"


def _check_classes(targets: Targets, members: _Members, *, n_folds: int) -> None:
    n_groups = np.bincount(members.strata)[1:]
    commonest = n_groups.argmax()
    most = int(n_groups[commonest])
    if most < n_folds:
        name = str(np.unique(targets.values)[commonest])
        raise InputError(
            f"class {name!r} has {most} distinct images, and no other has more, fewer than"
            f" {n_folds} folds (a group of images counts as one): {_advise(most)}"
        )


def count_possible_folds(targets: Targets, groups: NDArray[Any]) -> int:
    """Count the folds that `make_folds` can make at most: of what is least rare, a group each."""
    group_of_row = np.unique(groups, return_inverse=True)[1]
    if targets.task != CLASSIFICATION:
        return int(group_of_row.max(initial=-1)) + 1
    codes = np.unique(targets.values, return_inverse=True)[1]
    pairs = np.unique(np.column_stack([codes, group_of_row]), axis=0)
    return int(np.bincount(pairs[:, 0]).max(initial=0))


def check_folds(targets: Targets, folds: Sequence[Fold]) -> None:
    """Raise InputError where the training rows of a fold are all alike; say why."""
    for train, test in folds:
        values = targets.values[train]
        if len(values) and (values != values[0]).any():
            continue
        if targets.task != CLASSIFICATION or not len(values):
            raise InputError(
                f"the {len(train)} training rows of a fold are all alike; add images that differ"
            )
        lone = str(np.setdiff1d(targets.values[test], values[:1])[0])
        raise InputError(
            f"the fold that tests {lone!r} leaves only {str(values[0])!r} to learn from: add images"
            f" of {lone!r} that do not belong together"
        )


def plan_calibration(
    method: str, targets: Targets, groups: NDArray[Any], *, seed: int
) -> CalibrationPlan | None:
    """Plan how a head is calibrated: on five folds, or fewer where no class has five groups.

    Parameters
    ----------
    method : str
        One of `stages.heads.CALIBRATIONS`; None is returned for ``none``.
    targets, groups
        Of the training rows, as in `make_folds`.

    Raises
    ------
    InputError
        There are too few images for two folds with two classes each.
    """
    if method == "none":
        return None
    n_folds = min(N_CALIBRATION_FOLDS, count_possible_folds(targets, groups))
    try:
        folds = make_folds(targets, groups, n_folds=n_folds, seed=seed)
        check_folds(targets, folds)
    except InputError as error:
        raise InputError(
            f"{len(targets)} training rows are too few, or too much alike, to calibrate on; add"
            " images, or drop --calibrate"
        ) from error
    return CalibrationPlan(method=method, folds=folds)


def describe_untrained(targets: Targets, folds: Sequence[Fold]) -> str | None:
    """Return a line on test rows whose class or tag no training row of their fold has, if any."""
    if targets.task == REGRESSION:
        return None
    found: list[tuple[int, str]] = []
    for train, test in folds:
        if targets.task == CLASSIFICATION:
            is_new = ~np.isin(targets.values[test], targets.values[train])
            found += [(row, str(targets.values[row])) for row in test[is_new]]
        else:
            is_new = targets.values[test] & ~targets.values[train].any(axis=0)
            found += [(test[row], str(targets.classes[tag])) for row, tag in np.argwhere(is_new)]
    if not found:
        return None
    names = list(dict.fromkeys(name for _, name in found))
    shown = ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")
    return (
        f"{len({row for row, _ in found})} of {len(targets)} rows will count as wrong whatever the"
        f" head: no row outside the fold that tests them is {shown}; add images of it, or do"
        " without: leave its label empty in the table of --labels csv:FILE"
    )


def _stratify(targets: Targets, *, n_bins: int) -> tuple[Rows, Rows]:
    """Return pairs of a row and a stratum that it is in, from 1 on; a row may be in several."""
    if targets.task == MULTILABEL:
        rows, tags = np.nonzero(targets.values)
        return rows, tags + 1
    values = targets.values
    if targets.task == REGRESSION:
        edges = np.quantile(values, np.linspace(0, 1, n_bins + 1)[1:-1])
        # What many rows share, a 0 or a cap, is a stratum of its own.
        values = np.searchsorted(edges, values, "left") + np.searchsorted(edges, values, "right")
    return np.arange(len(values)), np.unique(values, return_inverse=True)[1] + 1


def _count_members(groups: Rows, strata: Rows, *, n_rows_of: Rows) -> _Members:
    """Count the pairs, sorted by group; `n_rows_of` is each group's number of rows."""
    n_strata = int(strata.max(initial=0)) + 1
    pairs, counts = np.unique(groups * n_strata + strata, return_counts=True)
    everyone = np.arange(len(n_rows_of))
    order = np.argsort(np.concatenate([everyone * n_strata, pairs]), kind="stable")
    return _Members(
        groups=np.concatenate([everyone, pairs // n_strata])[order],
        strata=np.concatenate([np.zeros_like(everyone), pairs % n_strata])[order],
        counts=np.concatenate([n_rows_of, counts])[order],
    )


def _draw_groups(strata: Rows, *, n_folds: int, seed: int) -> Rows:
    """Return a fold for each group, at random within `strata`, one a group."""
    from sklearn.model_selection import StratifiedKFold

    if np.bincount(strata).max() < n_folds:
        strata = np.zeros_like(strata)
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    fold_of_group = np.empty(len(strata), np.int64)
    with warnings.catch_warnings():
        # The first rows of mixed groups may show a class less often than it occurs.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for fold, (_, groups) in enumerate(splitter.split(strata, strata)):
            fold_of_group[groups] = fold
    return fold_of_group


def _improve_draw(fold_of_group: Rows, members: _Members, *, n_folds: int, seed: int) -> Rows:
    """Keep an even draw, or else the better one of it and of weighed groups."""
    imbalance = _measure_imbalance(fold_of_group, members, n_folds=n_folds)
    if imbalance <= TOLERATED_IMBALANCE:
        return fold_of_group
    weighed = _weigh_groups(members, n_folds=n_folds, seed=seed)
    is_better = _measure_imbalance(weighed, members, n_folds=n_folds) < imbalance
    return weighed if is_better else fold_of_group


def _measure_imbalance(fold_of_group: Rows, members: _Members, *, n_folds: int) -> float:
    """Return how far folds are from their fair part of a stratum, on the mean, as a share of it.

    One row too many or too few is free: where a part is no whole number nobody can do better.
    """
    n_strata = int(members.strata.max()) + 1
    cells = fold_of_group[members.groups] * n_strata + members.strata
    held = np.bincount(cells, members.counts, minlength=n_folds * n_strata)
    held = held.reshape(n_folds, n_strata)
    fair = held.mean(axis=0)
    missed = np.maximum(np.abs(held - fair) - 1, 0)[:, fair > 0] / fair[fair > 0]
    return float(missed.mean())


def _weigh_groups(members: _Members, *, n_folds: int, seed: int) -> Rows:
    """Return a fold for each group, the heaviest first, each to where least is of what it holds.

    Of all folds that one adds least to the sum over folds and strata of squared shares, which is
    smallest when all folds are alike.
    """
    totals = np.bincount(members.strata, members.counts)
    shares = members.counts / totals[members.strata]
    heft = np.bincount(members.groups, shares)
    shuffled = np.random.default_rng(seed).permutation(len(heft))
    starts = np.searchsorted(members.groups, np.arange(len(heft) + 1))
    load = np.zeros((len(totals), n_folds))  # shares
    fold_of_group = np.empty(len(heft), np.int64)
    for group in shuffled[np.argsort(-heft[shuffled], kind="stable")]:
        mine = slice(starts[group], starts[group + 1])
        strata, share = members.strata[mine], shares[mine]
        fold = (share @ load[strata]).argmin()
        load[strata, fold] += share
        fold_of_group[group] = fold
    return fold_of_group
