"""Who trains and who tests: random splits that identical images and groups cannot cross."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

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


def assign_splits(manifest: Manifest, split: str | None, *, seed: int = 0) -> Manifest:
    """Give every row its split.

    A random split is stratified by label. Rows of one digest, and those of one value of a column
    ``group`` if there is one, stay together, under the first of their labels in sorted order; a
    row without either is a group of its own. Which group goes where depends on its digests (or
    paths), the labels and the seed, not on the order of the rows. Every class keeps at least one
    group in ``train``, and each of its shares is met within one group; what rounding leaves over
    in one class is made up for in the next, so that the shares of the whole come out right even
    when every class is small.

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

    Raises
    ------
    InputError
        When ``"predefined"`` finds no split, a split to be kept is none (see `check_splits`), or
        the shares make no sense.
    """
    if split == "predefined" and not any(manifest.splits):
        raise InputError(f"no predefined splits in {manifest.root!r}; draw them: --split test=0.3")
    if split is None or split == "predefined":
        check_splits(manifest.splits, where=repr(manifest.root))
        return manifest
    if split == "none":
        return dataclasses.replace(manifest, splits=[""] * len(manifest))
    splits = _draw_splits(manifest, _parse_shares(split), seed=seed)
    return dataclasses.replace(manifest, splits=splits)


def find_crossing_duplicates(manifest: Manifest) -> list[tuple[str, str]]:
    """Find identical images in different splits.

    Returns
    -------
    list of (str, str)
        Sorted pairs of paths: for each digest and each two of its splits, the first path of each.
    """
    return _find_crossing(manifest, manifest.digests)


def find_crossing_groups(manifest: Manifest) -> list[tuple[str, str]]:
    """Find values of the column ``group`` in different splits.

    Returns
    -------
    list of (str, str)
        As `find_crossing_duplicates`; empty without such a column.
    """
    column = find_group_column(manifest.extra) or []
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


def _draw_splits(manifest: Manifest, shares: dict[str, float], *, seed: int) -> list[str]:
    splits = ["train"] * len(manifest)
    owed = dict.fromkeys(shares, 0.0)
    strata = _group_rows(manifest)
    for stratum in sorted(strata):
        groups = strata[stratum]
        # Ranked by a hash, not by a generator: then neither the order of the rows nor a library's
        # version can change who goes where.
        ranked = sorted(groups, key=lambda key: hashlib.sha256(b"%d:" % seed + key).digest())
        chosen = _allot([len(groups[key]) for key in ranked], shares, owed)
        for key, split in zip(ranked, chosen, strict=False):
            for row in groups[key]:
                splits[row] = split
    return splits


def _group_rows(manifest: Manifest) -> dict[str, dict[bytes, list[int]]]:
    """Collect stratum → group key → rows."""
    pairs = zip(manifest.digests, manifest.paths, strict=True)
    keys = [digest or os.fsencode(path) for digest, path in pairs]
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(join_groups(keys, find_group_column(manifest.extra)).tolist()):
        groups[group].append(row)
    stratum_of = _stratify([label for label in manifest.labels if label])
    strata: defaultdict[str, dict[bytes, list[int]]] = defaultdict(dict)
    for rows in groups.values():
        label = min((manifest.labels[row] for row in rows if manifest.labels[row]), default="")
        strata[stratum_of.get(label, "")][min(keys[row] for row in rows)] = rows
    return strata


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


def _allot(sizes: list[int], shares: dict[str, float], owed: dict[str, float]) -> list[str]:
    """Choose splits for a class's first groups, the rest being train; update what is owed."""
    chosen: list[str] = []
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
