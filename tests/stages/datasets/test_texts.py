"""Texts in one, against lists of them."""

from __future__ import annotations

import sys

import numpy as np

from permafrost.stages.datasets.texts import Texts

# Of every width that Python keeps text in, undecodable bytes, nothing, and what looks like an end.
ODD = ["", "a/b.png", "\n", "\0", "é.png", "\udcff.png", "名.png", "😀.png", ""]
LISTED = [f"{number}/{odd}" for number in range(200) for odd in ODD] + ODD


def test_texts_are_a_sequence() -> None:
    texts = Texts.of(LISTED)
    assert list(texts) == LISTED == [texts[row] for row in range(len(LISTED))]
    assert texts == LISTED
    assert texts != LISTED[:-1]
    assert texts == Texts.of(iter(LISTED))
    assert texts != Texts.of("".join(LISTED))
    assert texts[-2] == LISTED[-2]
    assert texts[700:20:-3] == LISTED[700:20:-3]
    assert texts.index("😀.png") == LISTED.index("😀.png")
    assert Texts.of([]) == [] == list(Texts.of([]))
    assert Texts.join([Texts.of(LISTED[:7]), Texts.of([]), Texts.of(LISTED[7:])]) == texts


def test_texts_are_picked_in_any_order() -> None:
    rows = np.random.default_rng(0).integers(0, len(LISTED), 1000)
    assert Texts.of(LISTED).pick(rows) == [LISTED[row] for row in rows]
    assert Texts.of(LISTED).holds("99/a/b")
    assert not Texts.of(LISTED).holds("file:")


def test_texts_take_a_quarter_of_a_list() -> None:
    paths = [f"{number // 1000:04d}/{number:07d}.png" for number in range(100_000)]
    listed_bytes = sys.getsizeof(paths) + sum(map(sys.getsizeof, paths))
    assert sys.getsizeof(Texts.of(paths)) < listed_bytes / 3.5
