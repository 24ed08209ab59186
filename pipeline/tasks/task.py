"""What heads are asked for, and the digests by which a fit is known again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from permafrost.cache.store.recipe import canonical_json
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import DEFAULT_MEMORY_BYTES, GROUP_HELP, declare
from permafrost.pipeline.parsers import parse_bytes, parse_names, read_whole
from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.pipeline.tasks.rows import FeatureFiles, LabelledRows, read_labels
from permafrost.stages.datasets.targets import CLASSIFICATION, SEPARATOR, TASKS, warn_of_lookalikes
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.evaluation import metrics
from permafrost.stages.evaluation.fold_task import Candidate
from permafrost.stages.evaluation.folds import count_possible_folds
from permafrost.stages.heads import (
    HEADS,
    check_calibration,
    check_task,
    describe_code,
    is_reduced,
    parse_settings,
)
from permafrost.stages.matrices.matrix import LayersAbove
from permafrost.stages.numbers import parse_number
from permafrost.warn import warn_once

# What heads are compared on where there is no val split.
DEFAULT_FOLDS = 5
# What scikit-learn and Keras take.
_SEEDS = 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What heads are to say of the images, and how they are compared.

    Attributes
    ----------
    features : tuple of Path
        One ``features.h5`` or several; of several, the rows that all of them have.
    classes : tuple of str, optional
        Only the rows of these classes, which are written in this order.
    """

    features: tuple[Path, ...] = field(
        metadata={
            "type": Path,
            "action": "append",
            "metavar": "F.h5",
            "help": "may be repeated: the layers of several backbones side by side",
        }
    )
    task: str = declare(
        CLASSIFICATION, choices=TASKS, help="one class, any tags, or a value of each image"
    )
    target: str = declare("label", metavar="COLUMN", help="the column with the truth")
    cv: int | None = declare(None, type=read_whole, metavar="K", help="cross-validate with K folds")
    group: str | None = declare(None, metavar="COLUMN", help=GROUP_HELP)
    classes: tuple[str, ...] | None = declare(
        None, type=parse_names, metavar="A,B", help="only the rows of these classes"
    )
    average_views: bool = declare(
        default=False,
        action="store_true",
        help="measure the mean of what is said of an image's views, not of the first alone",
    )
    seed: int = declare(0, type=read_whole, metavar="N", help="of folds, held-out rows and weights")
    memory_bytes: int = declare(
        DEFAULT_MEMORY_BYTES,
        flag="--memory",
        type=parse_bytes,
        metavar="4GB",
        help="what features may take",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.seed < _SEEDS:
            raise PipelineError(f"cannot use seed {self.seed}; give one from 0 to {_SEEDS - 1}")
        if self.task not in TASKS:
            raise UnknownNameError("task", self.task, TASKS)
        if self.cv is not None and self.cv < 2:
            raise PipelineError(f"cannot cross-validate with {self.cv} folds; give --cv 2 or more")
        if self.classes is not None and self.task != CLASSIFICATION:
            raise PipelineError(f"--classes goes with --task {CLASSIFICATION}; drop one of the two")

    def to_dict(self, folder: Path) -> dict[str, object]:
        """Return the options as a JSON object: the files as they are named from a folder."""
        features = [os.path.relpath(file, folder) for file in self.features]
        return dataclasses.asdict(self) | {"features": features}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], folder: Path) -> TaskOptions:
        """Read what `to_dict` returned.

        Raises
        ------
        KeyError, TypeError, AttributeError, PipelineError
            That is something else.
        """
        fields = dict(found)
        files = tuple(folder / file for file in fields.pop("features"))
        classes = fields.pop("classes")
        return cls(features=files, classes=classes and tuple(classes), **fields)

    def open_files(self) -> FeatureFiles:
        """Open the files, for the rows of the classes."""
        return FeatureFiles(
            self.features, group=self.group, classes=self.classes, column=self.target
        )


def make_candidate(
    kind: str,
    settings: Mapping[str, object],
    *,
    task: str,
    layers: Sequence[str] = (),
    calibration: str = "none",
) -> Candidate:
    """Parse a head's settings, for all layers or for some.

    Raises
    ------
    StageError
        The head, a setting or a value does not exist, or the head cannot do the task or be so
        calibrated.
    """
    check_task(kind, task)
    check_calibration(kind, calibration, task=task)
    return Candidate(
        kind=kind,
        settings=parse_settings(kind, settings),
        layers=tuple(layers),
        calibration=calibration,
    )


def choose_folds(options: TaskOptions, files: FeatureFiles) -> TaskOptions:
    """Say what heads are compared on: the folds asked for, else the val split, else five folds.

    Fewer where no class has five images. Never the test split: of many heads the one that suits
    it best is measured too well by it.
    """
    if options.cv is not None or (files.splits == "val").any():
        return options
    labelled = read_labels(files, task=options.task, column=options.target)
    return dataclasses.replace(options, cv=count_folds(labelled, files))


def count_folds(labelled: LabelledRows, files: FeatureFiles) -> int:
    """Return how many folds to make where nobody said: five, or as many as the rows allow."""
    rows = labelled.folds
    n_possible = count_possible_folds(labelled.targets.select(rows), files.groups[rows])
    return max(2, min(DEFAULT_FOLDS, n_possible))


def check_classes(labelled: LabelledRows, options: TaskOptions) -> None:
    """Raise where classes are measurements; say where they look like tags.

    Raises
    ------
    PipelineError
        Most of the images have a label of their own, and it is a number.
    """
    classes = labelled.targets.classes.tolist()
    warn_of_lookalikes(classes, what="classes")
    if options.task != CLASSIFICATION:
        return
    n_rows = len(labelled.targets) - len(labelled.unlabelled)
    if 2 * len(classes) > n_rows and _are_measurements(classes):
        raise PipelineError(
            f"column {options.target!r} holds {len(classes)} different numbers for {n_rows} images,"
            " which are hardly classes; give --task regression"
        )
    tagged = [name for name in classes if SEPARATOR in name]
    if tagged:
        warn_once(
            f"{tagged[0]!r} is taken as one class; --task multilabel makes tags of what"
            f" {SEPARATOR!r} separates"
        )


def _are_measurements(texts: Sequence[str]) -> bool:
    """Tell whether these are numbers, and not whole ones only: classes may be numbered."""
    try:
        values = [parse_number(text) for text in texts]
    except ValueError:
        return False
    return not all(value.is_integer() for value in values)


def digest_rows(options: TaskOptions, files: FeatureFiles, *, by: str | None = None) -> str:
    """Return a digest of what a fit depends on besides features and head: rows, truth, folds.

    `by` is a column by whose values it is measured too.
    """
    facts = [
        files.paths,
        hashlib.sha256(files.digests.tobytes()).hexdigest(),
        files.column(options.target),
        files.splits.tolist(),
        files.groups.tolist(),
        options.task,
        options.cv,
        options.seed,
        metrics.NUMERICS,
        # Only then: one more fact in every digest would have all fits done again.
        *([options.classes] if options.classes else ()),
        *(["average views"] if options.average_views else ()),
        *([f"by {by}", files.column(by)] if by else ()),
    ]
    return _digest(facts)


def decide_scaling(
    kind: str, shape: tuple[int, int], *, is_kept: bool, memory_bytes: int
) -> bool | None:
    """Tell whether a kind of head gets reduced rows; None where there is room for neither.

    Parameters
    ----------
    shape : (int, int)
        Rows that are scaled together, in all views, and features of each.
    is_kept : bool
        Whether for a head that is kept, or for many on folds.
    """
    try:
        return is_reduced(kind, shape, is_kept=is_kept, memory_bytes=memory_bytes)
    except InputError:
        return None


def digest_fit(
    rows_key: str,
    layers: Sequence[StoredLayer],
    candidate: Candidate,
    *,
    scalings: Sequence[bool | None],
    above: LayersAbove | None,
) -> str:
    """Return a digest of all that a fit depends on.

    Parameters
    ----------
    rows_key : str
        As `digest_rows` gives it.
    scalings : sequence of bool or None
        As `decide_scaling` tells them: not the memory is in the digest, but what follows from it.

    Raises
    ------
    StageError
        The head is made of what lies above, and that cannot be had any more.
    """
    features = [
        [canonical_json(layer.recipe), layer.is_derived, *layer.views[1:]] for layer in layers
    ]
    settings = dataclasses.asdict(candidate.settings)
    kind = candidate.kind
    facts = [rows_key, features, kind, settings, describe_code(kind), scalings]
    if candidate.calibration != "none":
        facts.append(candidate.calibration)
    if HEADS[kind].needs_backbone and above is not None:
        facts.append(above.digest(until=candidate.settings.until))
    if HEADS[kind].needs_texts and above is not None and above.has_texts:
        facts.append(above.digest_texts())
    return _digest(facts)


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
