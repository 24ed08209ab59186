"""What splits are called."""

from __future__ import annotations

import dataclasses

import pytest

from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.datasets.split_names import (
    is_like_split,
    name_split,
    normalise_splits,
    parse_split_names,
)
from permafrost.stages.datasets.splits import assign_splits
from permafrost.stages.errors import InputError


@pytest.mark.parametrize(
    "name",
    [
        *("holdout", "Hold-Out", "held_out", "eval", "evaluation", "train2017", "test_set"),
        *("val-images", "train", "dev", "Testing Data", "train_val"),
    ],
)
def test_names_that_only_a_split_has(name: str) -> None:
    assert is_like_split(name)


@pytest.mark.parametrize(
    "name", ["train station", "test tube", "trainer", "devil", "evaluate me", "data", "2017", "猫"]
)
def test_names_that_a_class_may_have(name: str) -> None:
    assert not is_like_split(name)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("train.csv", "train"), ("my_Test.csv", "test"), ("hold-out.csv", "holdout")),
        *(("labels.csv", ""), ("train_test.csv", ""), ("train_training.csv", "train")),
    ],
)
def test_the_name_of_a_file_tells_one_split_or_none(name: str, split: str) -> None:
    assert name_split(name) == split


def test_names_are_read_whatever_their_case_and_blanks() -> None:
    chosen = parse_split_names(" Hold Out = Test , x=y=val,dev=train")
    assert chosen == {"hold out": "test", "x=y": "val", "dev": "train"}
    names = [" hold out", "X=Y", "dev", "Training", "", "  ", " other "]
    assert normalise_splits(names, chosen) == ["test", "val", "train", "train", "", "", "other"]
    assert parse_split_names(None) == {}


@pytest.mark.parametrize("text", ["", "holdout", "=test", "holdout=", "holdout=exam", "a=test,"])
def test_names_that_make_no_sense_are_one_line_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="write, for example, holdout=test,eval=val") as caught:
        parse_split_names(text)
    assert repr(text) in str(caught.value)


def test_one_name_has_one_split() -> None:
    assert parse_split_names("a=test,a=test") == {"a": "test"}
    with pytest.raises(InputError, match="gives 'a' two splits"):
        parse_split_names("a=test,a=val")


@pytest.mark.parametrize("rule", [None, "predefined"])
def test_rows_of_a_split_of_no_known_name_are_refused(rule: str | None) -> None:
    manifest = Manifest(
        root="photos",
        paths=[f"{row}.png" for row in range(6)],
        labels=["x"] * 6,
        splits=["train", "holdout", "holdout", "tset", "", "val"],
        digests=[b""] * 6,
    )
    with pytest.raises(InputError) as caught:
        assign_splits(manifest, rule)
    assert str(caught.value).startswith(
        "3 images of 'photos' are in splits of no known name: 'holdout' (2), 'tset' (1); say what"
        " each is, as in --split-names 'holdout=test', draw other splits with --split test=0.3"
    )
    # An empty cell is a row to train on, as ever.
    known = dataclasses.replace(manifest, splits=["train", "", "test", "val", "", ""])
    assert assign_splits(known, rule) == known
    assert assign_splits(manifest, "none").splits == [""] * 6
    assert set(assign_splits(manifest, "test=0.3").splits) <= {"train", "test"}
