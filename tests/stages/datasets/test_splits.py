from __future__ import annotations

import dataclasses
import hashlib
import random
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits

from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.datasets.splits import (
    assign_splits,
    find_crossing_duplicates,
    find_crossing_groups,
    label_conflicts,
)
from permafrost.stages.errors import InputError


def make_manifest(contents: list[bytes], labels: list[str]) -> Manifest:
    return Manifest(
        root="photos",
        paths=[f"{row}.png" for row in range(len(contents))],
        labels=labels,
        splits=[""] * len(contents),
        digests=[hashlib.sha256(content).digest() for content in contents],
    )


@pytest.fixture(scope="module")
def digits() -> Manifest:
    bunch = load_digits()
    return make_manifest([d.tobytes() for d in bunch.images], [str(t) for t in bunch.target])


@pytest.fixture(scope="module")
def doubled(digits: Manifest) -> Manifest:
    """Every digit up to five times, in no order."""
    draw = random.Random(0)
    rows = [row for row in range(len(digits)) for _ in range(draw.randint(1, 5))]
    draw.shuffle(rows)
    return digits.select(rows)


def splits_by_digest(manifest: Manifest) -> dict[bytes, set[str]]:
    found: dict[bytes, set[str]] = {}
    for digest, split in zip(manifest.digests, manifest.splits, strict=True):
        found.setdefault(digest, set()).add(split)
    return found


def test_every_class_gets_its_share_within_one_image(digits: Manifest) -> None:
    split = assign_splits(digits, "test=0.3,val=0.1")
    counts = Counter(zip(split.labels, split.splits, strict=True))
    for label, rows in Counter(digits.labels).items():
        assert abs(counts[label, "test"] - 0.3 * rows) <= 1
        assert abs(counts[label, "val"] - 0.1 * rows) <= 1
    assert abs(Counter(split.splits)["test"] - 0.3 * len(digits)) <= 1
    assert set(split.splits) == {"train", "val", "test"}


def test_the_whole_gets_its_share_even_when_every_class_is_tiny() -> None:
    contents = [b"%d" % row for row in range(1500)]
    manifest = make_manifest(contents, [f"class {row // 5}" for row in range(1500)])
    split = assign_splits(manifest, "test=0.3,val=0.1")
    assert abs(split.splits.count("test") - 450) <= 1
    assert abs(split.splits.count("val") - 150) <= 1
    counts = Counter(zip(split.labels, split.splits, strict=True))
    assert {counts[label, "test"] for label in split.labels} == {1, 2}


def test_identical_images_never_cross_a_random_split(doubled: Manifest) -> None:
    for seed in range(5):
        split = assign_splits(doubled, "test=0.3,val=0.2", seed=seed)
        assert all(len(splits) == 1 for splits in splits_by_digest(split).values())
        assert find_crossing_duplicates(split) == []


def test_shares_are_met_within_one_group_of_identical_images(doubled: Manifest) -> None:
    split = assign_splits(doubled, "test=0.3,val=0.2")
    counts = Counter(zip(split.labels, split.splits, strict=True))
    for label, rows in Counter(doubled.labels).items():
        assert abs(counts[label, "test"] - 0.3 * rows) <= 5
        assert abs(counts[label, "val"] - 0.2 * rows) <= 5


def test_identical_images_with_two_labels_stay_together() -> None:
    contents = [b"%d" % (row // 2) for row in range(400)]
    manifest = make_manifest(
        contents, ["cat", "dog", "dog", "owl", "cat", "ant", "ant", "owl"] * 50
    )
    split = assign_splits(manifest, "test=0.5")
    assert split.splits[::2] == split.splits[1::2]
    assert split.splits.count("test") == 200
    assert assign_splits(manifest.select(range(400)[::-1]), "test=0.5").splits == split.splits[::-1]


def test_the_order_of_the_rows_does_not_matter(doubled: Manifest) -> None:
    rows = list(range(len(doubled)))
    random.Random(1).shuffle(rows)
    shuffled = assign_splits(doubled.select(rows), "val=0.1,test=0.3", seed=7)
    expected = assign_splits(doubled, "test=0.3,val=0.1", seed=7)
    assert shuffled.splits == expected.select(rows).splits


def test_names_of_the_images_do_not_matter(digits: Manifest) -> None:
    renamed = dataclasses.replace(digits, paths=[f"x/{path}" for path in digits.paths])
    assert assign_splits(renamed, "test=0.3").splits == assign_splits(digits, "test=0.3").splits


def test_another_seed_draws_another_split(digits: Manifest) -> None:
    first, second = (assign_splits(digits, "test=0.3", seed=seed).splits for seed in (0, 1))
    both = sum(a == b == "test" for a, b in zip(first, second, strict=True))
    assert 0.15 < both / first.count("test") < 0.45  # 0.3 when the draws are independent


def test_a_split_is_the_same_for_ever() -> None:
    manifest = make_manifest([b"%d" % row for row in range(12)], ["cat"] * 6 + ["dog"] * 6)
    split = assign_splits(manifest, "test=0.3,val=0.2", seed=42)
    signs = {"train": "-", "test": "t", "val": "v"}
    assert "".join(signs[name] for name in split.splits) == "--t-tv--vt-t"


def test_splits_of_classes_are_the_same_as_before_groups_and_values(doubled: Manifest) -> None:
    split = assign_splits(doubled, "test=0.3,val=0.1", seed=3)
    assert (
        hashlib.sha256(",".join(split.splits).encode()).hexdigest()
        == "bdc75b5e437e05471a3774ce08a93a05fb24908b78cb784f84bccccb8ab337e5"
    )


def test_rare_values_of_a_regression_are_tested_too_in_every_decile() -> None:
    values = load_diabetes().target
    manifest = make_manifest([b"%d" % row for row in range(442)], [f"{v:g}" for v in values])
    assert max(Counter(manifest.labels).values()) > 1  # some recur
    for seed in range(5):
        split = assign_splits(manifest, "test=0.3", seed=seed)
        tested = np.array(split.splits) == "test"
        assert abs(tested.sum() - 0.3 * 442) <= 1
        counts = Counter(manifest.labels)
        lone = np.array([counts[label] == 1 for label in manifest.labels])
        assert 0.15 < tested[lone].mean() < 0.45
        for tenth in np.array_split(np.argsort(values), 10):
            assert abs(tested[tenth].mean() - 0.3) < 0.12


def test_a_few_values_are_one_part_and_share_alike() -> None:
    manifest = make_manifest([b"%d" % row for row in range(12)], [f"{row}.5" for row in range(12)])
    assert assign_splits(manifest, "test=0.25").splits.count("test") == 3


def test_sets_of_tags_that_seldom_recur_are_tested_too() -> None:
    draw = random.Random(0)
    tags = [";".join(t for t in "abcdefgh" if draw.random() < 0.5) for _ in range(300)]
    manifest = make_manifest([b"%d" % row for row in range(300)], tags)
    split = assign_splits(manifest, "test=0.3,val=0.1")
    counts = Counter(tags)
    assert sum(count == 1 for count in counts.values()) > 30
    assert abs(split.splits.count("test") - 90) <= 2
    tested = {tag for tag, name in zip(tags, split.splits, strict=True) if name == "test"}
    assert any(counts[tag] == 1 for tag in tested)


@pytest.mark.parametrize("labels", [["cat", "dog"], ["1", "2"], ["sky;sea", "sea"]])
def test_values_and_tags_that_recur_are_stratified_like_classes(labels: list[str]) -> None:
    contents = [b"%d" % row for row in range(60)]
    drawn = assign_splits(make_manifest(contents, labels * 30), "test=0.3")
    counts = Counter(zip(drawn.labels, drawn.splits, strict=True))
    assert [counts[label, "test"] for label in labels] == [9, 9]


def test_names_that_occur_once_stay_classes_and_train() -> None:
    contents = [b"%d" % row for row in range(40)]
    manifest = make_manifest(contents, [f"person {row}" for row in range(20)] + ["crowd"] * 20)
    assert set(assign_splits(manifest, "test=0.5").splits[:20]) == {"train"}


@pytest.mark.parametrize("name", ["group", "Group"])
def test_a_group_never_crosses_a_random_split_nor_do_copies_of_its_images(
    doubled: Manifest, name: str
) -> None:
    draw = random.Random(2)
    groups = [f"patient {draw.randrange(5000)}" for _ in range(len(doubled))]
    groups = [group if draw.random() < 0.2 else "" for group in groups]
    manifest = dataclasses.replace(doubled, extra={"age": groups[::-1], name: groups})
    for seed in range(3):
        split = assign_splits(manifest, "test=0.3,val=0.2", seed=seed)
        assert find_crossing_groups(split) == find_crossing_duplicates(split) == []
        assert abs(split.splits.count("test") / len(split) - 0.3) < 0.02
    rows = list(range(len(doubled)))
    draw.shuffle(rows)
    shuffled = assign_splits(manifest.select(rows), "test=0.3,val=0.2", seed=2)
    assert shuffled.splits == split.select(rows).splits


def test_groups_across_predefined_splits_are_reported() -> None:
    manifest = dataclasses.replace(
        make_manifest([b"%d" % row for row in range(6)], ["x"] * 6),
        splits=["train", "test", "test", "train", "train", ""],
        extra={"Group": ["a", "a ", "a", "", "b", "b"]},
    )
    assert find_crossing_groups(manifest) == [("0.png", "1.png")]
    assert find_crossing_groups(dataclasses.replace(manifest, extra={})) == []


def test_rows_without_digest_are_split_one_by_one() -> None:
    manifest = make_manifest([b""] * 100, ["cat"] * 100)
    manifest = dataclasses.replace(manifest, digests=[b""] * 100)
    assert Counter(assign_splits(manifest, "test=0.25").splits) == {"train": 75, "test": 25}


def test_every_class_keeps_something_to_train_on() -> None:
    manifest = make_manifest(
        [b"%d" % row for row in range(60)], [str(row // 2) for row in range(60)]
    )
    for shares in ("test=0.9", "test=0.5,val=0.49"):
        split = assign_splits(manifest, shares)
        trained = {
            label for label, name in zip(split.labels, split.splits, strict=True) if name == "train"
        }
        assert trained == set(manifest.labels)


def test_one_huge_group_does_not_upset_the_other_classes() -> None:
    contents = [b"black"] * 500 + [b"%d" % row for row in range(500, 1100)]
    manifest = make_manifest(contents, ["a"] * 600 + ["b"] * 500)
    for seed in range(10):
        split = assign_splits(manifest, "test=0.3", seed=seed)
        assert abs(split.splits[600:].count("test") - 150) <= 1


@pytest.mark.parametrize(
    "shares",
    [
        *("test=-0.1", "test=1", "test=0.6,val=0.4", "test=nan", "test=inf", "test=30%", "test"),
        *("", "0.3", "train=0.7", "exam=0.3", "test=0.1,test=0.2", "test=0.1,", "Predefined"),
    ],
)
def test_impossible_shares_are_one_line_with_an_example(digits: Manifest, shares: str) -> None:
    with pytest.raises(InputError, match=r"write, for example, test=0\.3,val=0\.1") as caught:
        assign_splits(digits, shares)
    assert repr(shares) in str(caught.value)


def test_predefined_splits_are_kept_and_missed_when_there_are_none(digits: Manifest) -> None:
    given = dataclasses.replace(digits, splits=["test", *["train"] * (len(digits) - 1)])
    assert assign_splits(given, None) == given
    assert assign_splits(given, "predefined") == given
    assert assign_splits(digits, None) == digits
    with pytest.raises(InputError, match="no predefined splits in 'photos'; draw them"):
        assign_splits(digits, "predefined")


def test_duplicates_across_predefined_splits_are_reported() -> None:
    contents = [b"a", b"b", b"a", b"a", b"c", b"c", b"b", b"d"]
    manifest = dataclasses.replace(
        make_manifest(contents, ["x"] * 8),
        paths=["9", "8", "7", "6", "5", "4", "3", "2"],
        splits=["train", "train", "test", "test", "val", "val", "", "train"],
    )
    assert find_crossing_duplicates(manifest) == [("6", "9")]
    three = dataclasses.replace(manifest, splits=["train", "", "val", "test", *[""] * 4])
    assert find_crossing_duplicates(three) == [("6", "7"), ("6", "9"), ("7", "9")]
    unhashed = dataclasses.replace(manifest, digests=[b""] * 8)
    assert find_crossing_duplicates(unhashed) == []


def test_label_conflicts_count_images_not_rows() -> None:
    manifest = make_manifest(
        [b"a", b"a", b"a", b"b", b"b", b"c", b"c"], ["cat", "dog", "cow", "cat", "cat", "cat", ""]
    )
    assert label_conflicts(manifest) == 1
    assert label_conflicts(dataclasses.replace(manifest, digests=[b""] * 7)) == 0
