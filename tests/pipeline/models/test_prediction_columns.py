"""predictions.csv: one header once, whatever classes are called."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from permafrost.pipeline.models.answers import Answers
from permafrost.stages.datasets.manifest import read_manifest
from permafrost.stages.datasets.targets import CLASSIFICATION

CLASHING = ["Path", "cat", "group", "label", "p:path", "path", "predicted", "split"]


def write(file: Path, classes: list[str]) -> np.ndarray:
    outputs = np.random.default_rng(0).dirichlet(np.ones(len(classes)), size=4)
    answers = Answers(
        paths=[f"{row}.png" for row in range(4)],
        labels=[classes[0]] * 4,
        outputs=outputs,
        classes=np.array(classes),
        task=CLASSIFICATION,
        order=(),
    )
    answers.write(file, by=None)
    return outputs


def test_only_classes_that_clash_are_renamed_and_values_stay_theirs(tmp_path: Path) -> None:
    outputs = write(tmp_path / "p.csv", CLASHING)
    with (tmp_path / "p.csv").open(newline="") as stream:
        header = next(csv.reader(stream))
        rows = list(csv.DictReader(stream, header))
    assert header == [
        *("path", "label", "predicted"),
        *("p:Path", "cat", "p:group", "p:label", "p:path", "p:p:path", "p:predicted", "p:split"),
    ]
    assert len(set(header)) == len(header)
    assert [row["path"] for row in rows] == [f"{row}.png" for row in range(4)]
    assert [row["label"] for row in rows] == ["Path"] * 4
    assert [row["predicted"] for row in rows] == [CLASHING[row.argmax()] for row in outputs]
    found = np.array([[float(row[name]) for name in header[3:]] for row in rows])
    np.testing.assert_array_equal(found, outputs)


def test_predictions_are_a_dataset_whatever_classes_are_called(tmp_path: Path) -> None:
    write(tmp_path / "p.csv", [*CLASHING, "digest", "root"])
    manifest = read_manifest(tmp_path / "p.csv")
    assert manifest.paths == [f"{row}.png" for row in range(4)]
    assert manifest.labels == ["Path"] * 4
    assert manifest.splits == [""] * 4
    assert manifest.root == str(tmp_path)


@pytest.mark.parametrize("classes", [["cat", "dog"], ["1", "10"]])
def test_other_classes_keep_their_names(classes: list[str], tmp_path: Path) -> None:
    write(tmp_path / "p.csv", classes)
    header = (tmp_path / "p.csv").read_text().splitlines()[0]
    assert header == f"path,label,predicted,{','.join(classes)}"
