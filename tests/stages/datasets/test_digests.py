"""Digests in one array, against lists of bytes."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np

from permafrost.stages.datasets.digests import Digests

# Some repeat, some are none, some end in zeros, and some share their first eight bytes.
KNOWN = [hashlib.sha256(b"%d" % number).digest() for number in range(5)]
ODD = [KNOWN[0][:31] + b"\0", KNOWN[0][:8] + bytes(24), b"\0" * 31 + b"\1"]
LISTED = [*KNOWN, b"", *ODD, KNOWN[2], b"", KNOWN[2], ODD[1]]


def test_digests_are_a_sequence_of_bytes() -> None:
    digests = Digests.of(LISTED)
    assert list(digests) == LISTED == [digests[row] for row in range(len(LISTED))]
    assert digests == LISTED
    assert digests[2:7] == LISTED[2:7]
    assert [*reversed(digests)] == LISTED[::-1]
    assert digests != LISTED[:-1]
    assert Digests.none(2) == [b"", b""]
    assert Digests.of([]) == []


def test_numpy_takes_digests_without_a_copy() -> None:
    digests = Digests.of(LISTED)
    packed = np.asarray(digests, "S32")
    assert np.shares_memory(packed, digests.array)
    np.testing.assert_array_equal(packed, np.array(LISTED, "S32"))


def test_repeated_known_and_different_digests_are_those_of_the_list() -> None:
    digests, counts = Digests.of(LISTED), Counter(LISTED)
    repeated = [row for row, one in enumerate(LISTED) if one and counts[one] > 1]
    assert digests.find_repeated() == repeated
    assert digests.known.tolist() == [bool(one) for one in LISTED]
    some = {KNOWN[2], ODD[0], bytes(31) + b"\2"}
    assert digests.is_in(some).tolist() == [one in some for one in LISTED]
    assert not digests.is_in(set()).any()
    firsts = [row for row, one in enumerate(LISTED) if one and one not in LISTED[:row]]
    assert np.flatnonzero(digests.first).tolist() == firsts
