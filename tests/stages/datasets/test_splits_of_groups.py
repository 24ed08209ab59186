"""Random splits where groups mix labels, and columns that look like groups."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from permafrost.stages.datasets.groups import describe_parted, find_parted
from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.datasets.splits import assign_splits, find_crossing_groups
from permafrost.stages.errors import InputError, UnknownNameError


def make_manifest(labels: Sequence[str], groups: Sequence[str], name: str = "group") -> Manifest:
    n_rows = len(labels)
    return Manifest(
        root="photos",
        paths=[f"{row}.png" for row in range(n_rows)],
        labels=list(labels),
        splits=[""] * n_rows,
        digests=[hashlib.sha256(b"%d" % row).digest() for row in range(n_rows)],
        extra={name: list(groups)},
    )


def draw_mixed(seed: int, *, n_groups: int = 40) -> Manifest:
    """Groups of five rows; half of them mix cats with a class that hides behind these."""
    draw = random.Random(seed)
    labels, groups = [], []
    for number in range(n_groups):
        other = draw.choice(["dog", "owl", "yak", "zebu"]) if number % 10 == 0 else "cat"
        labels += ["cat", *draw.choices(["cat", other], k=4)]
        groups += [f"g{number}"] * 5
    return make_manifest(labels, groups)


def list_trained(manifest: Manifest) -> set[str]:
    rows = zip(manifest.labels, manifest.splits, strict=True)
    return {label for label, split in rows if split == "train"}


def test_every_class_is_trained_on_where_groups_mix_labels() -> None:
    for seed in range(60):
        manifest = draw_mixed(seed)
        for shares in ("test=0.3", "test=0.4,val=0.2"):
            split = assign_splits(manifest, shares, seed=seed)
            assert list_trained(split) == set(manifest.labels)
            assert find_crossing_groups(split) == []
            counts = Counter(split.splits)
            assert abs(counts["test"] - (60 if "val" not in shares else 80)) <= 5
            assert abs(counts["val"] - (0 if "val" not in shares else 40)) <= 5


def test_such_a_split_does_not_depend_on_the_order_of_the_rows() -> None:
    for seed in range(20):
        manifest = draw_mixed(seed)
        rows = list(range(len(manifest)))
        random.Random(seed).shuffle(rows)
        split = assign_splits(manifest, "test=0.5", seed=seed)
        assert assign_splits(manifest.select(rows), "test=0.5", seed=seed) == split.select(rows)


def test_every_tag_is_trained_on() -> None:
    draw = random.Random(0)
    tags = [";".join(["sea", *draw.sample("abcdefgh", 3)]) for _ in range(100)]
    tags[::50] = ["sea;yeti", "sea;unicorn"]
    for seed in range(30):
        split = assign_splits(make_manifest(tags, [""] * 100), "test=0.5", seed=seed)
        trained = {tag for label in list_trained(split) for tag in label.split(";")}
        assert {"yeti", "unicorn"} < trained
        assert split.splits.count("test") == 50


def test_classes_that_need_every_group_are_refused_by_name() -> None:
    manifest = make_manifest(["a", "b", "a", "c", "a", "d"], ["1", "1", "2", "2", "3", "3"])
    with pytest.raises(InputError, match=r"no rows are left for test: .* class '[bcd]'"):
        assign_splits(manifest, "test=0.4")


def test_a_named_column_keeps_rows_together_instead_of_group() -> None:
    groups = [f"p{row // 4}" for row in range(200)]
    manifest = make_manifest(["cat", "dog"] * 100, groups, name="patient")
    assert find_crossing_groups(assign_splits(manifest, "test=0.3"), "patient")
    split = assign_splits(manifest, "test=0.3", group="patient")
    assert find_crossing_groups(split, "patient") == []
    called_so = assign_splits(make_manifest(["cat", "dog"] * 100, groups), "test=0.3")
    assert split.splits == called_so.splits
    with pytest.raises(UnknownNameError, match="'patiant' for --group; did you mean 'patient'"):
        assign_splits(manifest, "test=0.3", group="patiant")


@pytest.mark.parametrize(
    "name",
    [
        *("patient_id", "patient", "Patients", "PatientID", "patientid", "subject", "subject_id"),
        *("group_id", "person", "specimen", "slide", "case_id", "lesion_id", "animal id", "eye_id"),
        *("StudyInstanceUID", "video-clip"),
    ],
)
def test_columns_are_known_by_their_names_where_a_value_is_parted(name: str) -> None:
    column = ["1", "1 ", "2", "2", "3", "", ""]
    parts = ["train", "test", "train", "train", "val", "test", "train"]
    assert find_parted({name: column}, parts) == {name: 1}
    assert find_parted({name: column}, ["train"] * 7) == {}
    assert find_parted({name: column}, ["train", "", *["train"] * 5]) == {}


@pytest.mark.parametrize(
    "name", ["age", "camera", "image_id", "class_id", "label_id", "ImageID", "width", "idea"]
)
def test_other_columns_may_be_parted(name: str) -> None:
    assert find_parted({name: ["1", "1"]}, ["train", "test"]) == {}


def test_one_line_names_all_columns_and_the_option() -> None:
    text = describe_parted({"patient": 3, "slide": 12}, what="the folds")
    assert "the folds part" in text
    assert "'patient' (3 values), 'slide' (12 values)" in text
    assert text.endswith("--group patient")
