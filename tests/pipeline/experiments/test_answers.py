"""Calibration, unsure answers, groups and formats in an experiment file."""

from __future__ import annotations

from pathlib import Path

import pytest

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.experiment import Experiment, read_experiment
from permafrost.pipeline.models.record import AnswerOptions

TEXT = """
images: photos/
backbones:
  - {name: vgg16, layers: ["block5_pool:avg"]}
heads:
  - {kind: logreg}
out: runs/photos
"""


def read(folder: Path, more: str) -> Experiment:
    file = folder / "experiment.yaml"
    file.write_text(TEXT + more)
    return read_experiment(file)


def test_nothing_is_asked_for_by_default(tmp_path: Path) -> None:
    assert read(tmp_path, "").sweep.answer == AnswerOptions()


def test_calibration_and_groups_are_of_the_best_head(tmp_path: Path) -> None:
    found = read(tmp_path, "calibrate: temperature\nby: patient\n")
    assert found.sweep.answer == AnswerOptions(calibrate="temperature", by="patient")


def test_predictions_may_be_unsure_and_of_groups(tmp_path: Path) -> None:
    found = read(tmp_path, "predict: {images: new/, out: new.csv, reject: 0.9, by: patient}\n")
    assert (found.predictions[0].reject, found.predictions[0].by) == (0.9, "patient")
    plain = read(tmp_path, "predict: {images: new/, out: new.csv}\n")
    assert (plain.predictions[0].reject, plain.predictions[0].by) == (0.0, None)


def test_a_format_goes_with_the_export(tmp_path: Path) -> None:
    found = read(tmp_path, "export: exported\nexport_format: saved_model\n")
    assert (found.export, found.export_format) == (Path("exported"), "saved_model")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("calibrate: magic\n", "magic"),
        ("predict: {images: new/, out: new.csv, reject: 2}\n", "reject"),
        ("calibrat: sigmoid\n", "calibrate"),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(Exception, match=said) as caught:
        read(tmp_path, more)
    assert isinstance(caught.value, PipelineError)
