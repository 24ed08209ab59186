from __future__ import annotations

import pytest

from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.datasets.splits import assign_splits
from permafrost.stages.datasets.targets import parse_targets
from permafrost.stages.errors import InputError
from permafrost.stages.heads import parse_settings
from permafrost.stages.numbers import parse_number, parse_whole

# What float() takes, and people do not write for a number.
NOT_NUMBERS = ["1_0", "１０", "٣", "nan", "inf", "-Infinity", "1e999", "", "1,5", "0x10", "1e_3"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("10", 10.0), (" -0.5 ", -0.5), ("+.5", 0.5), ("3.", 3.0), ("1e-3", 1e-3), ("2E+2", 200.0)],
)
def test_numbers_are_read_as_people_write_them(text: str, value: float) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_what_only_python_takes_for_a_number_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_number(text)
    with pytest.raises(ValueError):
        parse_whole(text)


def test_whole_numbers_have_no_point() -> None:
    assert [parse_whole(text) for text in ("0", " 12 ", "-3", "+4")] == [0, 12, -3, 4]
    for text in ("1.0", "1e3"):
        with pytest.raises(ValueError):
            parse_whole(text)


@pytest.mark.parametrize("text", ["1_0", "１０", "nan", "inf"])
def test_a_target_is_a_number_as_people_write_it(text: str) -> None:
    with pytest.raises(InputError, match="is not a finite number") as caught:
        parse_targets(["1.5", text], task="regression", names=["a.png", "b.png"], column="age")
    assert f"age {text!r} of 'b.png'" in str(caught.value)


@pytest.mark.parametrize("share", ["0.0_3", "０.3", "nan"])
def test_a_share_is_a_number_as_people_write_it(share: str) -> None:
    one = Manifest(root="", paths=["a.png"], labels=["x"], splits=[""], digests=[b""])
    with pytest.raises(InputError, match=r"is not a number; write, for example, test=0\.3"):
        assign_splits(one, f"test={share}")


@pytest.mark.parametrize(
    ("head", "setting"),
    [
        *(("logreg", ("C", "1_0")), ("mlp", ("epochs", "1_0")), ("mlp", ("hidden", "2_5,１２"))),
        *(("logreg", ("class_weight", "cat:1_0")), ("knn", ("neighbors", "１"))),
    ],
)
def test_a_setting_is_a_number_as_people_write_it(head: str, setting: tuple[str, str]) -> None:
    name, value = setting
    with pytest.raises(InputError, match=f"{head} cannot use {name}={value}"):
        parse_settings(head, {name: value})


def test_names_with_underscores_are_classes_when_splits_are_drawn() -> None:
    """As numbers, ten names that occur once each would be one stratum, and be tested."""
    labels = [f"{row}_0" for row in range(20)]
    manifest = Manifest(
        root="",
        paths=[f"{row}.png" for row in range(20)],
        labels=labels,
        splits=[""] * 20,
        digests=[b""] * 20,
    )
    assert set(assign_splits(manifest, "test=0.5").splits) == {"train"}
