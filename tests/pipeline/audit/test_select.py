"""`select`: what to label next, written so that it can be given back."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.helpers.views import LAYER, write_features

DIGITS = load_digits()
N = 300


def read_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_view(path, *, n_labelled, splits=None, numbers=None):
    labels = [f"digit {d}" if n < n_labelled else "" for n, d in enumerate(DIGITS.target[:N])]
    values = DIGITS.data[:N].astype(np.float32)
    if numbers is not None:
        values = values[numbers]
    return write_features(
        path, {LAYER: values}, labels=labels, splits=splits or [""] * N, numbers=numbers
    )


@pytest.fixture
def select(command, tmp_path):
    def call(view, *options, n=10, out=tmp_path / "next.csv"):
        answer = command("select", "--features", view, "-n", n, "--out", out, "--json", *options)
        return answer.figures, read_rows(out)

    return call


def test_uncertain_are_the_rows_with_the_smallest_margins(select, command, tmp_path):
    view = write_view(tmp_path / "f.h5", n_labelled=100)
    figures, rows = select(view, "--strategy", "uncertain")
    assert (figures["strategy"], figures["pool"], figures["labelled"]) == ("uncertain", 200, 100)
    assert list(rows[0]) == ["rank", "path", "label", "predicted", "margin", "entropy", "distance"]
    assert [one["rank"] for one in rows] == [str(n) for n in range(1, 11)]
    assert {one["label"] for one in rows} == {""}
    assert all(int(one["path"][:4]) >= 100 for one in rows)
    command(
        *("fit", "--features", view, "--layer", LAYER, "--head", "logreg", "--set", "C=0.01"),
        *("--out", tmp_path / "fit"),
    )
    said = [one for one in read_rows(tmp_path / "fit" / "predictions.csv") if not one["label"]]
    margins = {}
    for one in said:
        best = sorted(float(one[name]) for name in one if name.startswith("digit"))
        margins[one["path"]] = best[-1] - best[-2]
    expected = sorted(margins, key=margins.__getitem__)[:10]
    assert {one["path"] for one in rows} == set(expected)
    _, again = select(view, "--strategy", "uncertain", "--model", tmp_path / "fit")
    assert [one["path"] for one in again] == [one["path"] for one in rows]


def test_without_labels_the_rows_chosen_are_unlike_each_other(select, tmp_path):
    figures, rows = select(write_view(tmp_path / "f.h5", n_labelled=0))
    assert figures["strategy"] == "diverse"
    assert "no two classes have labels yet" in figures["notes"][0]
    distances = [float(one["distance"]) for one in rows]
    assert distances == sorted(distances, reverse=True)
    chosen = DIGITS.target[[int(one["path"][:4]) for one in rows]]
    assert len(set(chosen.tolist())) >= 6


def test_mixed_rows_are_unsure_and_far_from_what_is_labelled(select, tmp_path):
    view = write_view(tmp_path / "f.h5", n_labelled=100)
    _, unsure = select(view, "--strategy", "uncertain", n=100)
    figures, rows = select(view)
    assert figures["strategy"] == "mixed"
    assert {one["path"] for one in rows} <= {one["path"] for one in unsure}
    assert all(one["margin"] and one["distance"] for one in rows)


def test_copies_are_chosen_once_and_not_if_one_has_a_label(select, tmp_path):
    numbers = [*range(150), *range(50, 150), *range(50)]
    view = write_view(tmp_path / "f.h5", n_labelled=50, numbers=numbers)
    figures, rows = select(view, n=200)
    assert (figures["pool"], len(rows)) == (100, 100)
    assert len({one["path"] for one in rows}) == 100
    assert "no more than 100 different images" in figures["notes"][0]


def test_a_split_counts_as_unlabelled(select, tmp_path):
    splits = ["train", "val"] * (N // 2)
    view = write_view(tmp_path / "f.h5", n_labelled=N, splits=splits)
    figures, rows = select(view, "--from-split", "val")
    assert figures["pool"] == N // 2
    assert all(int(one["path"][:4]) % 2 for one in rows)


def test_what_was_filled_in_is_given_back(select, features, folder, tmp_path):
    table = tmp_path / "labels.csv"
    paths = sorted(file.relative_to(folder).as_posix() for file in folder.glob("*/*.png"))
    labels = {path: path.split("/")[0] for path in paths}
    known = paths[::6]
    table.write_text("path,label\n" + "".join(f"{path},{labels[path]}\n" for path in known))
    view = features("--labels", f"csv:{table}")
    figures, rows = select(view, "--with-labelled", n=15)
    assert (figures["labelled"], figures["selected"], len(rows)) == (20, 15, 35)
    chosen = [one["path"] for one in rows if one["rank"]]
    assert not set(chosen) & set(known)
    filled = tmp_path / "filled.csv"
    with filled.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        for one in rows:
            writer.writerow(one | {"label": labels[one["path"]]})
    view = features("--labels", f"csv:{filled}")
    figures, rows = select(view, "--with-labelled", n=10)
    assert figures["labelled"] == 35
    assert {one["path"]: one["label"] for one in rows if not one["rank"]} == {
        path: labels[path] for path in (*known, *chosen)
    }


def test_numbers_are_chosen_by_what_is_unlike_all_others(select, tmp_path):
    values = [str(one) if n < 50 else "" for n, one in enumerate(DIGITS.data[:N].sum(axis=1))]
    view = write_features(
        tmp_path / "f.h5",
        {LAYER: DIGITS.data[:N].astype(np.float32)},
        labels=values,
        splits=[""] * N,
    )
    figures, _ = select(view, "--task", "regression")
    assert figures["strategy"] == "diverse"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--strategy", "uncertain", "--task", "regression"), "--strategy diverse"),
        (("-n", "0"), "-n 0"),
        (("--from-split", "tst"), "unknown split 'tst'"),
        (("--model", "nowhere"), "holds no fitted model"),
        (("--layer", "nothing"), "nothing"),
        ((), "--from-split"),
    ],
)
def test_mistakes_are_one_line(refused, tmp_path, options, said):
    splits = ["train", "test"] * (N // 2)
    view = write_view(tmp_path / "f.h5", n_labelled=N, splits=splits)
    arguments = ("--features", view, "-n", 5, "--out", tmp_path / "next.csv")
    assert said in refused("select", *arguments, *options)
