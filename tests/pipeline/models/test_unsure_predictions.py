"""``predict --reject`` and ``--by``, on photos."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from tests.helpers.inputs import write_model, write_photos


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("unsure")
    write_photos(home / "photos", n_each=20)
    write_model(home / "small.keras")
    lines = ["path,label,specimen"]
    for file in sorted((home / "photos").glob("*/*.jpg")):
        number = int(file.stem)
        specimen = f"{file.parent.name} {number // 3}" if number < 18 else ""
        lines.append(f"{file.relative_to(home / 'photos')},{file.parent.name},{specimen}")
    (home / "photos" / "photos.csv").write_text("\n".join(lines) + "\n")
    return home


@pytest.fixture
def model(home, command):
    if not (home / "model").exists():
        for arguments in (
            ("extract", "--images", home / "photos/photos.csv", "--split", "test=0.5"),
            ("fit", "--features", home / "f.h5", "--layer", "last:avg", "--head", "linear_svm"),
        ):
            more = {
                "extract": (
                    *("--backbone", home / "small.keras", "--layers", "last:avg"),
                    *("--cache", home / "cache", "--out", home / "f.h5"),
                ),
                "fit": ("--out", home / "model", "--calibrate"),
            }
            answer = command(*arguments, *more[str(arguments[0])])
            assert answer.status == 0, answer.err
    return home / "model"


@pytest.fixture
def predict(home, model, command, tmp_path):
    def call(*options, images="photos/photos.csv", **kept):
        return command(
            *("predict", "--model", kept.get("model", model), "--images", home / images),
            *("--out", tmp_path / "new.csv", "--cache", home / "cache", *options),
        )

    return call


def read_rows(file):
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_what_is_too_uncertain_is_not_answered(predict, tmp_path):
    predict()
    rows = read_rows(tmp_path / "new.csv")
    best = [max(float(row["china"]), float(row["flower"])) for row in rows]
    reject = float(np.median(best))
    figures = predict("--reject", str(reject), "--json").figures
    told = read_rows(tmp_path / "new.csv")
    sure = np.array(best) >= reject
    assert 0 < sure.sum() < len(rows)
    assert [row["predicted"] for row in told] == [
        row["predicted"] if one else "(unsure)" for row, one in zip(rows, sure, strict=True)
    ]
    right = np.array([row["predicted"] == row["label"] for row in rows])
    assert figures["unsure"] == (~sure).sum()
    assert figures["reject"] == reject
    assert figures["accuracy_of_answered"] == pytest.approx(right[sure].mean())
    assert f"(unsure): {figures['unsure']}" in predict("--reject", str(reject)).out


def test_nothing_is_rejected_unless_asked_for(predict):
    assert not {"unsure", "by"} & predict("--json").figures.keys()
    assert predict("--reject", "1", "--json").figures["unsure"] == 40


def test_specimens_are_told_beside_their_images(predict, tmp_path):
    figures = predict("--by", "specimen", "--reject", "0.999999", "--json").figures
    groups = read_rows(tmp_path / "new.csv.by-specimen.csv")
    assert figures["by"]["groups"] == len(groups) == 12
    assert figures["by"]["left_out"] == 4
    assert {row["images"] for row in groups} == {"3"}
    rows = read_rows(tmp_path / "new.csv")
    own = [row for row in rows if row["path"] in [f"china/000{n}.jpg" for n in (3, 4, 5)]]
    mean = np.mean([float(row["china"]) for row in own])
    (told,) = [row for row in groups if row["specimen"] == "china 1"]
    assert float(told["china"]) == pytest.approx(mean)
    assert told["label"] == "china"
    assert "(unsure)" in {row["predicted"] for row in groups}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--reject", "1.5"), "no probability"),
        (("--reject", "nan"), "nan"),
        (("--by", "specimne"), "specimen"),
    ],
)
def test_what_makes_no_sense_is_one_line(predict, options, said):
    answer = predict(*options)
    assert (answer.status, answer.out) == (2, "")
    assert said in answer.err.splitlines()[-1]


def test_a_class_of_that_name_is_refused(home, command, predict, model, tmp_path):
    table = (home / "photos" / "photos.csv").read_text().replace(",china,", ",(unsure),")
    (home / "photos" / "odd.csv").write_text(table)
    for arguments in (
        (
            *("extract", "--images", home / "photos/odd.csv", "--cache", home / "cache"),
            *("--backbone", home / "small.keras", "--layers", "last:avg", "--out"),
            tmp_path / "odd.h5",
        ),
        (
            *("fit", "--features", tmp_path / "odd.h5", "--layer", "last:avg", "--head", "ridge"),
            *("--out", tmp_path / "odd"),
        ),
    ):
        assert command(*arguments).status == 0
    answer = predict("--reject", "0.5", model=tmp_path / "odd")
    assert (answer.status, answer.out) == (2, "")
    assert "'(unsure)' is a class of this head" in answer.err
