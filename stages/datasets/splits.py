"""Who trains and who tests: random splits that identical images and groups cannot cross."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.groups import find_group_column, join_groups
from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.datasets.split_names import check_splits
from permafrost.stages.datasets.targets import SEPARATOR
from permafrost.stages.errors import InputError
from permafrost.stages.numbers import parse_number

# Beyond this share of labels that occur once, numbers and tags are no classes.
_MOST_LONE = 0.1
# Into how many parts such numbers are cut, and how many rows each needs at least.
_MOST_PARTS = 10
_LEAST_ROWS = 10


def assign_splits(
    manifest: Manifest, split: str | None, *, seed: int = 0, group: str | None = None
) -> Manifest:
    """Give every row its split.

    A random split is stratified by label. Rows of one digest, and those of one value of a column
    ``group`` if there is one, stay together, under the first of their labels in sorted order; a
    row without either is a group of its own. Which group goes where depends on its digests (or
    paths), the labels and the seed, not on the order of the rows. Each share of a class is met
    within one group; what rounding leaves over in one class is made up for in the next, so that
    the shares of the whole come out right even when every class is small. Every class and tag
    keeps at least one group in ``train``, also where groups mix them: then the smallest group of
    a class that has none moves there, and a group that can be spared takes its place.

    That would never test a value or a set of tags that only one row has. So where these are more
    than a tenth of the labelled rows, numbers are stratified by their deciles (fewer, larger
    parts where a tenth is less than ten rows), and labels that hold ``;`` are one stratum.

    Parameters
    ----------
    manifest : Manifest
        The dataset.
    split : str or None
        None or ``"predefined"`` to keep the splits there are, ``"none"`` to forget them, or the
        shares of a random split as in ``"test=0.3,val=0.1"``; all other rows become ``train``.
    seed : int, optional
        Another seed draws another random split.
    group : str, optional
        The column to keep together by, instead of ``group``.

    Raises
    ------
    InputError
        When ``"predefined"`` finds no split, a split to be kept is none (see `check_splits`), the
        shares make no sense, or no row is left for one.
    UnknownNameError
        When there is no such column.
    """
    if split == "predefined" and not any(manifest.splits):
        raise InputError(f"no predefined splits in {manifest.root!r}; draw them: --split test=0.3")
    if split is None or split == "predefined":
        check_splits(manifest.splits, where=repr(manifest.root))
        return manifest
    if split == "none":
        return dataclasses.replace(manifest, splits=[""] * len(manifest))
    splits = _draw_splits(manifest, _parse_shares(split), seed=seed, group=group)
    return dataclasses.replace(manifest, splits=splits)


def find_crossing_duplicates(manifest: Manifest) -> list[tuple[str, str]]:
    """Find identical images in different splits.

    Returns
    -------
    list of (str, str)
        Sorted pairs of paths: for each digest and each two of its splits, the first path of each.
    """
    return _find_crossing(manifest, manifest.digests)


def find_crossing_groups(manifest: Manifest, group: str | None = None) -> list[tuple[str, str]]:
    """Find values of a column, by default ``group``, in different splits.

    Returns
    -------
    list of (str, str)
        As `find_crossing_duplicates`; empty without a column ``group``.
    """
    column = find_group_column(manifest.extra, group) or []
    return _find_crossing(manifest, [value.strip() for value in column])


def _find_crossing(manifest: Manifest, keys: Sequence[Hashable]) -> list[tuple[str, str]]:
    first: defaultdict[Hashable, dict[str, str]] = defaultdict(dict)
    for row in _find_repeated(keys):
        split, path = manifest.splits[row], manifest.paths[row]
        if split:
            paths = first[keys[row]]
            paths[split] = min(path, paths.get(split, path))
    return sorted(
        pair
        for paths in first.values()
        for pair in itertools.combinations(sorted(paths.values()), 2)
    )


def label_conflicts(manifest: Manifest) -> int:
    """Count the digests that occur with two different labels."""
    labels: defaultdict[bytes, set[str]] = defaultdict(set)
    for row in _find_repeated(manifest.digests):
        if manifest.labels[row]:
            labels[manifest.digests[row]].add(manifest.labels[row])
    return sum(len(found) > 1 for found in labels.values())


def _find_repeated(keys: Sequence[Hashable]) -> list[int]:
    """Return the rows whose key is not empty and that of another row, too."""
    if isinstance(keys, Digests):
        return keys.find_repeated()
    # Mostly there are none, and a set of a million keys is made in a tenth of a loop's time.
    if len(set(keys)) == len(keys):
        return []
    counts = Counter(keys)
    return [row for row, key in enumerate(keys) if key and counts[key] > 1]


def _parse_shares(text: str) -> dict[str, float]:
    """Parse ``test=0.3,val=0.1`` into shares, always in the same order."""
    shares: dict[str, float] = {}
    for item in text.split(","):
        name, _, number = (part.strip() for part in item.partition("="))
        if name not in ("test", "val") or name in shares:
            raise _bad_shares(text, f"{name!r} is not test or val, or comes twice")
        shares[name] = _parse_share(number, text)
    if sum(shares.values()) >= 1:
        raise _bad_shares(text, "nothing is left for train")
    return {name: shares[name] for name in ("test", "val") if name in shares}


def _parse_share(number: str, text: str) -> float:
    try:
        share = parse_number(number)
    except ValueError:
        raise _bad_shares(text, f"{number!r} is not a number") from None
    if not 0 <= share < 1:
        raise _bad_shares(text, f"{number} is not from 0 to below 1")
    return share


def _bad_shares(text: str, reason: str) -> InputError:
    return InputError(f"cannot split by {text!r}: {reason}; write, for example, test=0.3,val=0.1")


@dataclass(slots=True, kw_only=True)
class _Group:
    """Rows that stay together, and where they go."""

    rows: list[int]
    stratum: str
    classes: set[str]
    split: str = "train"


def _draw_splits(
    manifest: Manifest, shares: dict[str, float], *, seed: int, group: str | None
) -> list[str]:
    owed = dict.fromkeys(shares, 0.0)
    strata = _group_rows(manifest, group)
    drawn: list[_Group] = []
    for stratum in sorted(strata):
        groups = strata[stratum]
        # Ranked by a hash, not by a generator: then neither the order of the rows nor a library's
        # version can change who goes where.
        ranked = sorted(groups, key=lambda key: hashlib.sha256(b"%d:" % seed + key).digest())
        ordered = [groups[key] for key in ranked]
        for one, split in zip(ordered, _allot(ordered, shares, owed), strict=False):
            one.split = split
        drawn += ordered
    _train_every_class(drawn)
    splits = [""] * len(manifest)
    for one in drawn:
        for row in one.rows:
            splits[row] = one.split
    return splits


def _group_rows(manifest: Manifest, group: str | None) -> dict[str, dict[bytes, _Group]]:
    """Collect stratum → group key → group."""
    pairs = zip(manifest.digests, manifest.paths, strict=True)
    keys = [digest or os.fsencode(path) for digest, path in pairs]
    members: defaultdict[int, list[int]] = defaultdict(list)
    column = find_group_column(manifest.extra, group)
    for row, number in enumerate(join_groups(keys, column).tolist()):
        members[number].append(row)
    stratum_of = _stratify([label for label in manifest.labels if label])
    classes_of = {label: _list_classes(label, stratum) for label, stratum in stratum_of.items()}
    strata: defaultdict[str, dict[bytes, _Group]] = defaultdict(dict)
    for rows in members.values():
        labels = {manifest.labels[row] for row in rows} - {""}
        stratum = stratum_of[min(labels)] if labels else ""
        strata[stratum][min(keys[row] for row in rows)] = _Group(
            rows=rows,
            stratum=stratum,
            classes=set().union(*(classes_of[label] for label in labels)),
        )
    return strata


def _list_classes(label: str, stratum: str) -> set[str]:
    """List what training rows should show of a label: itself, or its tags, but no single value."""
    if stratum == SEPARATOR:
        return {tag.strip() for tag in label.split(SEPARATOR)} - {""}
    return {label} if stratum == label else set()


def _train_every_class(groups: list[_Group]) -> None:
    """Move groups to train until every class is there, and others into their places.

    Raises
    ------
    InputError
        Training rows of every class leave none for a split that was asked for.
    """
    trained = Counter(name for one in groups if one.split == "train" for name in one.classes)
    every = set().union(*(one.classes for one in groups))
    for name in sorted(every - trained.keys()):
        if trained[name]:  # with a group that was moved for another class
            continue
        moved = min((one for one in groups if name in one.classes), key=lambda one: len(one.rows))
        split, moved.split = moved.split, "train"
        trained.update(moved.classes)
        spare = _find_spare(groups, moved, trained)
        if spare is not None:
            spare.split = split
            trained.subtract(spare.classes)
        elif not any(one.split == split for one in groups):
            raise InputError(
                f"no rows are left for {split}: those of class {name!r} are needed for training,"
                " as its images are of too few groups; add images of others, or drop the class"
            )


def _find_spare(groups: list[_Group], moved: _Group, trained: Counter[str]) -> _Group | None:
    """Find the training group most like `moved` without which every class is trained still."""
    n_rows = len(moved.rows)
    spares = (
        one
        for one in groups
        if one.split == "train"
        and one is not moved
        # A larger one would take the shares further off than they are without it.
        and len(one.rows) < 2 * n_rows
        and all(trained[name] > 1 for name in one.classes)
    )
    return min(
        spares,
        key=lambda one: (one.stratum != moved.stratum, abs(len(one.rows) - n_rows)),
        default=None,
    )


def _stratify(labels: list[str]) -> dict[str, str]:
    """Map each label to its stratum: itself, unless labels are values or tags that seldom recur."""
    counts = Counter(labels)
    n_lone = sum(count == 1 for count in counts.values())
    if n_lone <= _MOST_LONE * len(labels):
        return {label: label for label in counts}
    values = {label: _parse_number(label) for label in counts}
    if all(map(math.isfinite, values.values())):
        return _cut_quantiles(counts, values)
    if any(SEPARATOR in label for label in counts):
        return dict.fromkeys(counts, SEPARATOR)
    return {label: label for label in counts}


def _cut_quantiles(counts: Counter[str], values: dict[str, float]) -> dict[str, str]:
    """Cut values into parts of about as many rows."""
    n_rows, n_before = counts.total(), 0
    n_parts = max(1, min(_MOST_PARTS, n_rows // _LEAST_ROWS))
    parts = {}
    for label in sorted(counts, key=lambda label: (values[label], label)):
        parts[label] = f"{n_before * n_parts // n_rows:02d}"
        n_before += counts[label]
    return parts


def _parse_number(text: str) -> float:
    try:
        return parse_number(text)
    except ValueError:
        return math.nan


def _allot(groups: list[_Group], shares: dict[str, float], owed: dict[str, float]) -> list[str]:
    """Choose splits for a class's first groups, the rest being train; update what is owed."""
    chosen: list[str] = []
    sizes = [len(one.rows) for one in groups]
    rows = sum(sizes)
    for split, share in shares.items():
        target, taken = share * rows + owed[split], 0
        # A group goes where its middle lies, which rounds to the nearest.
        while len(chosen) < len(sizes) - 1 and taken + sizes[len(chosen)] / 2 < target:
            taken += sizes[len(chosen)]
            chosen.append(split)
        # No more than half a row, or one huge group would upset the next classes.
        owed[split] = max(-0.5, min(0.5, target - taken))
    return chosen
