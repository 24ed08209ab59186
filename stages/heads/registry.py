"""The heads by name: parse their settings, fit them, load them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import (
    CLASSIFICATION,
    MULTILABEL,
    REGRESSION,
    TASKS,
    Targets,
)
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.heads.calibration.calibration import (
    Calibration,
    CalibrationPlan,
    calibrate,
    check_method,
    find_floor,
)
from permafrost.stages.heads.calibration.head import CalibratedHead
from permafrost.stages.heads.estimators import FittedEstimator, load_estimator
from permafrost.stages.heads.fit_rows import Checkpoint, FitRows
from permafrost.stages.heads.head import Head, predict_rows, read_record, refuse_damage
from permafrost.stages.heads.head2toe.head import Head2ToeSettings, fit_head2toe
from permafrost.stages.heads.knn import KnnSettings, fit_knn
from permafrost.stages.heads.linear import (
    LinearSvmSettings,
    LogregSettings,
    RidgeSettings,
    fit_linear_svm,
    fit_logreg,
    fit_ridge,
)
from permafrost.stages.heads.nearest_mean import NearestMeanSettings, fit_nearest_mean
from permafrost.stages.heads.networks.cnn import CnnSettings, fit_cnn
from permafrost.stages.heads.networks.finetune import FinetuneSettings, fit_finetune
from permafrost.stages.heads.networks.head import load_network
from permafrost.stages.heads.networks.mlp import fit_mlp, load_mlp
from permafrost.stages.heads.networks.network import MlpSettings
from permafrost.stages.heads.settings import parse_fields
from permafrost.stages.heads.sgd import SgdSettings, fit_sgd
from permafrost.stages.heads.zero_shot.head import fit_zero_shot
from permafrost.stages.heads.zero_shot.prompts import ZeroShotSettings
from permafrost.stages.matrices.matrix import Matrix, RowOrigin, Rows, Store
from permafrost.stages.matrices.reduction import scale_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadKind:
    """One kind of head.

    Attributes
    ----------
    settings : type
        Its dataclass of settings.
    tasks : tuple of str
        Those of `TASKS` that it can do.
    fit : callable
        Of an estimator: ``fit(settings, values, targets, *, seed)`` returns scikit-learn's
        estimator fitted on scaled rows. Of any other: ``fit(settings, rows)``, with `FitRows`,
        returns the head, which is the same whatever the memory.
    load : callable
        ``load(folder, settings, record)`` returns the head.
    is_estimator : bool
        Whether `fit_estimator` can fit it, on rows that others share.
    is_network : bool
        Whether it may be a backbone itself: a Keras network whose layers people want.
    needs_map : bool
        Whether it is fitted on rows with height and width alone.
    needs_backbone : bool
        Whether it is made of what lies above the layer, and so depends on that too.
    needs_texts : bool
        Whether it is made of the backbone's text tower, and so depends on that too.
    fit_bytes : int
        What an estimator's fit and predictions add to each value that it is fitted on: the most
        that was measured of tall, wide and square values, the reduced ones being square.
    keeps_rows : bool
        Whether the head consists of training rows, so that reducing them saves nothing.
    numerics : int
        Bumped when our own code changes what is fitted; what was fitted before is then fitted anew.
    packages : tuple of str
        Whose versions may change what is fitted.
    retired : mapping of str to str
        Settings that saved heads may still have, and why none can be given any more.
    """

    settings: type[Any]
    tasks: tuple[str, ...]
    fit: Callable[..., Any]
    load: Callable[..., Head]
    is_estimator: bool = True
    is_network: bool = False
    needs_map: bool = False
    needs_backbone: bool = False
    needs_texts: bool = False
    fit_bytes: int = 0
    keeps_rows: bool = False
    numerics: int = 1
    packages: tuple[str, ...] = ("scikit-learn", "scipy")
    retired: Mapping[str, str] = field(default_factory=dict)

    def can_take(self, origin: RowOrigin) -> bool:
        """Tell whether it can be fitted on rows of a kind, as far as that can be told before."""
        if self.needs_backbone and origin.above is None:
            return False
        if self.needs_texts and (origin.above is None or not origin.above.has_texts):
            return False
        return not self.needs_map or origin.is_map


_TRAINED_BY = ("keras", "scikit-learn", "tensorflow")

HEADS: dict[str, HeadKind] = {
    "logreg": HeadKind(
        settings=LogregSettings,
        tasks=(CLASSIFICATION, MULTILABEL),
        fit=fit_logreg,
        load=load_estimator,
        fit_bytes=2,
    ),
    "linear_svm": HeadKind(
        settings=LinearSvmSettings,
        tasks=(CLASSIFICATION, MULTILABEL),
        fit=fit_linear_svm,
        load=load_estimator,
        fit_bytes=24,
    ),
    "ridge": HeadKind(
        settings=RidgeSettings, tasks=TASKS, fit=fit_ridge, load=load_estimator, fit_bytes=26
    ),
    "knn": HeadKind(
        settings=KnnSettings,
        tasks=TASKS,
        fit=fit_knn,
        load=load_estimator,
        fit_bytes=6,
        keeps_rows=True,
    ),
    "nearest_mean": HeadKind(
        settings=NearestMeanSettings,
        tasks=(CLASSIFICATION,),
        fit=fit_nearest_mean,
        load=load_estimator,
        fit_bytes=10,
    ),
    "mlp": HeadKind(
        settings=MlpSettings,
        tasks=TASKS,
        fit=fit_mlp,
        load=load_mlp,
        is_estimator=False,
        packages=_TRAINED_BY,
    ),
    "cnn": HeadKind(
        settings=CnnSettings,
        tasks=TASKS,
        fit=fit_cnn,
        load=load_network,
        is_estimator=False,
        is_network=True,
        needs_map=True,
        packages=_TRAINED_BY,
    ),
    "finetune": HeadKind(
        settings=FinetuneSettings,
        tasks=TASKS,
        fit=fit_finetune,
        load=load_network,
        is_estimator=False,
        is_network=True,
        needs_backbone=True,
        packages=_TRAINED_BY,
    ),
    "sgd": HeadKind(
        settings=SgdSettings,
        tasks=TASKS,
        fit=fit_sgd,
        load=load_estimator,
        is_estimator=False,
        retired={"batch_size": "each of its steps looks at all rows"},
    ),
    "head2toe": HeadKind(
        settings=Head2ToeSettings,
        tasks=TASKS,
        fit=fit_head2toe,
        load=load_estimator,
        is_estimator=False,
    ),
    "zero_shot": HeadKind(
        settings=ZeroShotSettings,
        tasks=(CLASSIFICATION, MULTILABEL),
        fit=fit_zero_shot,
        load=load_estimator,
        is_estimator=False,
        needs_texts=True,
    ),
}


def _find_kind(kind: str) -> HeadKind:
    if kind not in HEADS:
        raise UnknownNameError("head", kind, HEADS)
    return HEADS[kind]


def parse_settings(kind: str, settings: Mapping[str, object]) -> Any:
    """Return the settings of a head, with defaults for what is not given.

    Parameters
    ----------
    kind : str
        A name in `HEADS`.
    settings : mapping of str to object
        Text from the command line or typed values from YAML: ``{"C": "0.1"}``, ``{"C": 0.1}``.

    Returns
    -------
    dataclass
        Of the type that `HEADS` names.

    Raises
    ------
    UnknownNameError
        The head or one of the settings does not exist; the nearest name is proposed.
    InputError
        A value cannot be used, or there is no such setting any more.
    """
    check_retired(kind, settings)
    return parse_fields(_find_kind(kind).settings, settings, where=kind)


def check_retired(kind: str, names: Iterable[str]) -> None:
    """Raise InputError where one of `names` is a setting that a kind of head no longer has."""
    for name in names:
        reason = _find_kind(kind).retired.get(name)
        if reason:
            raise InputError(f"{kind} has no setting {name} any more: {reason}; leave it out")


def check_task(kind: str, task: str) -> None:
    """Raise InputError unless a kind of head can do `task`, one of `TASKS`."""
    if task not in _find_kind(kind).tasks:
        *others, last = [name for name, one in HEADS.items() if task in one.tasks]
        raise InputError(f"{kind} does not do {task}; use {', '.join(others)} or {last}")


def check_calibration(kind: str, method: str, *, task: str) -> None:
    """Raise StageError unless a kind of head can be calibrated by one of `CALIBRATIONS`."""
    check_method(method, task=task, kind=kind, is_network=_find_kind(kind).is_network)


def fit_head(  # noqa: PLR0913
    kind: str,
    settings: Any,
    matrix: Matrix,
    targets: Targets,
    *,
    train: Rows,
    seed: int,
    groups: NDArray[Any] | None = None,
    memory_bytes: int = 4_000_000_000,
    store: Store | None = None,
    checkpoint: Checkpoint | None = None,
    calibration: CalibrationPlan | None = None,
) -> Head:
    """Fit a head; nothing but the training rows is learnt from.

    Parameters
    ----------
    kind : str
        A name in `HEADS`.
    settings : dataclass
        What `parse_settings` returned for this kind.
    matrix : Matrix
    targets : Targets
        Of all rows of `matrix`.
    train : ndarray of int64
        The training rows of `matrix`.
    seed : int
        The same seed and rows give the same head.
    groups : ndarray, shape (n_rows,), optional
        Rows of equal keys belong together: none of them is held out while another is learnt from.
        By default each row is a group of its own.
    memory_bytes : int
        What the fit may take.
    store : Store, optional
        Keeps reduced rows for the next fit.
    checkpoint : Checkpoint, optional
        Keeps the state of a head that is trained.
    calibration : CalibrationPlan, optional
        Of a classification.

    Raises
    ------
    InputError
        The head cannot do the task; too few training rows or classes; features that are NaN or
        infinite; too little memory.
    """
    if len(targets) != matrix.shape[0]:
        raise InputError(
            f"{matrix.shape[0]} rows of features have {len(targets)} labels; give one each"
        )
    truth = targets.select(train)
    check_training(kind, truth)
    head_kind = HEADS[kind]
    if not head_kind.is_estimator:
        rows = FitRows(
            matrix=matrix,
            targets=targets,
            train=train,
            groups=np.arange(len(targets)) if groups is None else groups,
            seed=seed,
            memory_bytes=memory_bytes,
            checkpoint=checkpoint,
        )
        head: Head = head_kind.fit(settings, rows)
        if calibration is None:
            return head
        return CalibratedHead(
            base=head, calibration=calibrate_trained(kind, settings, rows, plan=calibration)
        )
    scaled = next(
        scale_rows(
            matrix,
            train,
            scale=settings.scale,
            trains=[np.arange(len(train))],
            memory_bytes=memory_bytes,
            store=store,
            may_reduce=not head_kind.keeps_rows,
            fit_bytes=head_kind.fit_bytes,
        )
    )
    fitted = fit_estimator(kind, settings, scaled.values, truth, seed=seed).to_head(scaled)
    if calibration is None:
        return fitted
    found = calibrate_estimator(kind, settings, scaled.values, truth, seed=seed, plan=calibration)
    return CalibratedHead(base=fitted, calibration=found)


def calibrate_trained(
    kind: str, settings: Any, rows: FitRows, *, plan: CalibrationPlan
) -> Calibration:
    """Calibrate a head that is no estimator: it is fitted once more for each fold of `plan`."""

    def predict(train: Rows, test: Rows) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
        own = replace(rows, train=rows.train[train], checkpoint=None)
        head: Head = HEADS[kind].fit(settings, own)
        return predict_rows(head, rows.matrix, rows.train[test]), head.classes

    truth = rows.targets.select(rows.train)
    return calibrate(plan, truth, floor=find_floor(kind, settings), predict=predict)


def calibrate_estimator(  # noqa: PLR0913
    kind: str,
    settings: Any,
    values: NDArray[Any],
    targets: Targets,
    *,
    seed: int,
    plan: CalibrationPlan,
) -> Calibration:
    """Calibrate an estimator; the arguments are those of `fit_estimator`, of all training rows.

    The rows are scaled once for all folds, by what is common to all of them.
    """

    def predict(train: Rows, test: Rows) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
        fitted = fit_estimator(kind, settings, values[train], targets.select(train), seed=seed)
        return fitted.predict(values[test]), fitted.classes

    return calibrate(plan, targets, floor=find_floor(kind, settings), predict=predict)


def fit_estimator(
    kind: str, settings: Any, values: NDArray[Any], targets: Targets, *, seed: int
) -> FittedEstimator:
    """Fit a kind of which `HEADS` says that it is an estimator, on rows that are scaled already.

    Parameters
    ----------
    kind : str
    settings : dataclass
        What `parse_settings` returned for this kind; its scale is taken as done.
    values : ndarray of float32 or float64, shape (n_rows, n_columns)
        Finite, and not changed. Rotated rows, of whatever number of columns, give the same fit.
    targets : Targets
        Of these rows.
    seed : int
        The same seed and rows give the same fit.

    Raises
    ------
    InputError
        The head cannot do the task, or there are too few rows or classes.
    """
    check_training(kind, targets)
    is_classification = targets.task == CLASSIFICATION
    return FittedEstimator(
        kind=kind,
        settings=settings,
        task=targets.task,
        classes=np.unique(targets.values) if is_classification else targets.classes,
        estimator=HEADS[kind].fit(settings, values, targets, seed=seed),
    )


def check_training(kind: str, targets: Targets) -> None:
    """Raise InputError unless there is something to learn from."""
    check_task(kind, targets.task)
    n_rows = len(targets)
    if not n_rows:
        raise InputError("there are no training rows; give the head at least two that differ")
    if n_rows == 1 or (targets.values == targets.values[0]).all():
        said = {CLASSIFICATION: "are labelled", MULTILABEL: "have the tags", REGRESSION: "are of"}
        raise InputError(
            f"all {n_rows} training rows {said[targets.task]} {_name_first(targets)!r}; a head"
            " needs at least two that differ"
        )


def _name_first(targets: Targets) -> str:
    if targets.task == MULTILABEL:
        return ";".join(targets.classes[targets.values[0]])
    return str(targets.values[0])


def load_head(folder: Path) -> Head:
    """Load a head that was saved; nothing in the folder is run as code.

    Raises
    ------
    StageError
        The folder is not a saved head, is damaged, or holds types that we do not write.
    """
    record = read_record(folder)
    kind = _find_kind(record.kind)
    given = {name: one for name, one in record.settings.items() if name not in kind.retired}
    settings = parse_settings(record.kind, given)
    head = kind.load(folder, settings, record)
    if record.calibration is None:
        return head
    with refuse_damage(folder):
        found = Calibration.from_dict(record.calibration, n_classes=len(record.classes))
    return CalibratedHead(base=head, calibration=found)
