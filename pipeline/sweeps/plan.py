"""What a sweep is asked for, and what it would do: all that can be said before anything is fitted.

The files with the features need not exist yet, so that an experiment is checked by the same code
before it computes any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from permafrost.cores import count_cores
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.models.measure import plan_folds
from permafrost.pipeline.models.record import AnswerOptions, check_by
from permafrost.pipeline.options import OUT, declare
from permafrost.pipeline.parsers import parse_names, read_whole
from permafrost.pipeline.sweeps.grid import Configuration, choose_layers, list_configurations
from permafrost.pipeline.sweeps.journal import Journal
from permafrost.pipeline.tasks.rows import FeatureFiles, LabelledRows, read_labels
from permafrost.pipeline.tasks.task import TaskOptions, check_classes, choose_folds
from permafrost.stages.datasets.targets import REGRESSION
from permafrost.stages.evaluation.fold_task import Candidate
from permafrost.stages.evaluation.folds import Fold
from permafrost.stages.heads import check_calibration, check_training
from permafrost.stages.heads.settings import find_class_weights

# A configuration, and the number of a fold.
Fit = tuple[Configuration, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """What ``sweep`` is asked for.

    Attributes
    ----------
    data : TaskOptions
        Without ``cv``: the val split if there is one, else five folds.
    answer : AnswerOptions
        Of the best, which is chosen before it is calibrated.
    """

    data: TaskOptions = field(metadata={"options": TaskOptions})
    layers: tuple[str, ...] | None = declare(
        None,
        type=parse_names,
        metavar="SPEC,SPEC",
        help="as block2_pool:avg,A+B (default: each there is); all joins all of them",
    )
    poolings: tuple[str, ...] | None = declare(
        None,
        type=parse_names,
        metavar="avg,max,grid2,flatten",
        help="try these on every layer that is a map",
    )
    candidates: Sequence[Candidate]
    jobs: int = field(
        default_factory=count_cores,
        metadata={"type": read_whole, "metavar": "N", "help": "processes (default: the cores)"},
    )
    out: Path = field(metadata=OUT)
    answer: AnswerOptions = field(
        default_factory=AnswerOptions, metadata={"options": AnswerOptions}
    )

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise PipelineError(f"--jobs {self.jobs}: at least 1 is needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsPlan:
    """The rows of a sweep.

    Attributes
    ----------
    data : TaskOptions
        As asked for, and the folds that were chosen.
    """

    data: TaskOptions
    labelled: LabelledRows

    @property
    def n_folds(self) -> int:
        """How many; the val split is one."""
        return self.data.cv or 1

    def make_folds(self, files: FeatureFiles) -> list[Fold]:
        """Make the folds, as `plan_folds` does; this loads scikit-learn."""
        groups, seed = files.groups, self.data.seed
        return plan_folds(self.labelled, groups, n_folds=self.data.cv, seed=seed)


def plan_rows(options: SweepOptions, files: FeatureFiles) -> RowsPlan:
    """Choose how many folds, and raise now what every single fit would raise."""
    data = choose_folds(options.data, files)
    check_by(options.answer.by, data.task, files.columns)
    labelled = read_labels(files, task=data.task, column=data.target)
    check_classes(labelled, data)
    train = labelled.targets.select(labelled.train)
    for kind in dict.fromkeys(one.kind for one in options.candidates):
        check_training(kind, train)
        check_calibration(kind, options.answer.calibrate, task=data.task)
    if data.task != REGRESSION:
        classes = labelled.targets.classes.tolist()
        for one in options.candidates:
            find_class_weights(getattr(one.settings, "class_weight", "none"), classes)
    rows = RowsPlan(data=data, labelled=labelled)
    if rows.n_folds > len(labelled.folds):
        rows.make_folds(files)  # Says how many there may be, before so many fits are listed.
    return rows


def plan_configurations(
    options: SweepOptions, files: FeatureFiles, rows: RowsPlan
) -> list[Configuration]:
    """List what is to be fitted; raises where a layer or pooling does not exist."""
    is_needed = options.layers is not None or not all(one.layers for one in options.candidates)
    layers = choose_layers(files, options.layers, options.poolings) if is_needed else []
    return list_configurations(
        files, layers, options.candidates, data=rows.data, n_rows=len(rows.labelled.folds)
    )


def find_missing(
    configurations: Sequence[Configuration], journal: Journal, *, n_folds: int
) -> list[Fit]:
    """List what is not fitted yet."""
    return [
        (one, fold)
        for one in configurations
        for fold in range(n_folds)
        if journal.find(one.key, fold) is None
    ]
