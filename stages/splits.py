"""Who trains and who tests: random splits that identical images cannot cross."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections import defaultdict

from stages.errors import InputError
from stages.manifest import Manifest


def assign_splits(manifest: Manifest, split: str | None, *, seed: int = 0) -> Manifest:
    """Give every row its split.

    A random split is stratified by label. Rows of one digest stay together, under the first of
    their labels in sorted order; a row without a digest is a group of its own. Which group goes
    where depends on its digest (or path), the labels and the seed, not on the order of the rows.
    Every class keeps at least one group in ``train``, and each of its shares is met within one
    group; what rounding leaves over in one class is made up for in the next, so that the shares of
    the whole come out right even when every class is small.

    Parameters
    ----------
    manifest : Manifest
        The dataset.
    split : str or None
        None or ``"predefined"`` to keep the splits there are, or the shares of a random split as
        in ``"test=0.3,val=0.1"``; all other rows become ``train``.
    seed : int, optional
        Another seed draws another random split.

    Raises
    ------
    InputError
        When ``"predefined"`` finds no split, or the shares make no sense.
    """
    if split is None:
        return manifest
    if split == "predefined":
        if not any(manifest.splits):
            raise InputError(
                f"no predefined splits in {manifest.root!r}; draw them: --split test=0.3"
            )
        return manifest
    splits = _draw_splits(manifest, _parse_shares(split), seed=seed)
    return dataclasses.replace(manifest, splits=splits)


def find_crossing_duplicates(manifest: Manifest) -> list[tuple[str, str]]:
    """Find identical images in different splits.

    Returns
    -------
    list of (str, str)
        Sorted pairs of paths: for each digest and each two of its splits, the first path of each.
    """
    first: defaultdict[bytes, dict[str, str]] = defaultdict(dict)
    for digest, split, path in zip(manifest.digests, manifest.splits, manifest.paths, strict=True):
        if digest and split:
            first[digest][split] = min(path, first[digest].get(split, path))
    return sorted(
        pair
        for paths in first.values()
        for pair in itertools.combinations(sorted(paths.values()), 2)
    )


def label_conflicts(manifest: Manifest) -> int:
    """Count the digests that occur with two different labels."""
    labels: defaultdict[bytes, set[str]] = defaultdict(set)
    for digest, label in zip(manifest.digests, manifest.labels, strict=True):
        if digest and label:
            labels[digest].add(label)
    return sum(len(found) > 1 for found in labels.values())


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
        share = float(number)
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
    classes = _group_rows(manifest)
    for label in sorted(classes):
        groups = classes[label]
        # Ranked by a hash, not by a generator: then neither the order of the rows nor a library's
        # version can change who goes where.
        ranked = sorted(groups, key=lambda key: hashlib.sha256(b"%d:" % seed + key).digest())
        chosen = _allot([len(groups[key]) for key in ranked], shares, owed)
        for key, split in zip(ranked, chosen, strict=False):
            for row in groups[key]:
                splits[row] = split
    return splits


def _group_rows(manifest: Manifest) -> dict[str, dict[bytes, list[int]]]:
    """Collect label → group key → rows."""
    rows: defaultdict[bytes, list[int]] = defaultdict(list)
    for row, (digest, path) in enumerate(zip(manifest.digests, manifest.paths, strict=True)):
        rows[digest or os.fsencode(path)].append(row)
    classes: defaultdict[str, dict[bytes, list[int]]] = defaultdict(dict)
    for key, group in rows.items():
        labels = (manifest.labels[row] for row in group if manifest.labels[row])
        classes[min(labels, default="")][key] = group
    return classes


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
