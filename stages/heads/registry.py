"""The heads by name: what they can do, their settings, how they are loaded, what made them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL, TASKS
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.heads.calibration import check_method
from permafrost.stages.heads.estimators import load_estimator
from permafrost.stages.heads.head import Head, read_record
from permafrost.stages.heads.head2toe.head import Head2ToeSettings, fit_head2toe
from permafrost.stages.heads.knn import KnnSettings, fit_knn
from permafrost.stages.heads.linear import (
    LOGREG_BYTES,
    RIDGE_BYTES,
    SVM_BYTES,
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
from permafrost.stages.heads.networks.mlp import MlpSettings, fit_mlp, load_mlp
from permafrost.stages.heads.settings import parse_fields
from permafrost.stages.heads.sgd import SgdSettings, fit_sgd
from permafrost.stages.heads.zero_shot.head import fit_zero_shot
from permafrost.stages.heads.zero_shot.prompts import ZeroShotSettings
from permafrost.stages.matrices.budget import Budget
from permafrost.stages.matrices.matrix import RowOrigin


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
        ``load(folder, record)`` returns the head; the settings in the record are parsed.
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
    fit: Callable[..., Any]
    tasks: tuple[str, ...] = TASKS
    load: Callable[..., Head] = load_estimator
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
        fit_bytes=LOGREG_BYTES,
    ),
    "linear_svm": HeadKind(
        settings=LinearSvmSettings,
        tasks=(CLASSIFICATION, MULTILABEL),
        fit=fit_linear_svm,
        fit_bytes=SVM_BYTES,
    ),
    "ridge": HeadKind(settings=RidgeSettings, fit=fit_ridge, fit_bytes=RIDGE_BYTES),
    "knn": HeadKind(settings=KnnSettings, fit=fit_knn, fit_bytes=6, keeps_rows=True),
    "nearest_mean": HeadKind(
        settings=NearestMeanSettings,
        tasks=(CLASSIFICATION,),
        fit=fit_nearest_mean,
        fit_bytes=10,
    ),
    "mlp": HeadKind(
        settings=MlpSettings,
        fit=fit_mlp,
        load=load_mlp,
        is_estimator=False,
        packages=_TRAINED_BY,
    ),
    "cnn": HeadKind(
        settings=CnnSettings,
        fit=fit_cnn,
        load=load_network,
        is_estimator=False,
        is_network=True,
        needs_map=True,
        packages=_TRAINED_BY,
    ),
    "finetune": HeadKind(
        settings=FinetuneSettings,
        fit=fit_finetune,
        load=load_network,
        is_estimator=False,
        is_network=True,
        needs_backbone=True,
        packages=_TRAINED_BY,
    ),
    "sgd": HeadKind(
        settings=SgdSettings,
        fit=fit_sgd,
        is_estimator=False,
        retired={"batch_size": "each of its steps looks at all rows"},
    ),
    "head2toe": HeadKind(settings=Head2ToeSettings, fit=fit_head2toe, is_estimator=False),
    "zero_shot": HeadKind(
        settings=ZeroShotSettings,
        tasks=(CLASSIFICATION, MULTILABEL),
        fit=fit_zero_shot,
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
    return kind.load(folder, replace(record, settings=parse_settings(record.kind, given)))


def describe_code(kind: str) -> list[object]:
    """Return what code fits a kind of head: our own number, and the versions of packages."""
    return [HEADS[kind].numerics, _find_versions(HEADS[kind].packages)]


@cache
def _find_versions(packages: tuple[str, ...]) -> list[str]:
    return [f"{package} {version(package)}" for package in packages]


def is_reduced(kind: str, shape: tuple[int, int], *, is_kept: bool, memory_bytes: int) -> bool:
    """Tell whether a kind of head is fitted on reduced rows, which may depend on the memory.

    Parameters
    ----------
    shape : (int, int)
        Rows that are scaled together, and features.
    is_kept : bool
        Whether they are one training set, for a head of the full width; else they hold several.

    Raises
    ------
    InputError
        There is too little memory for either way.
    """
    head = HEADS[kind]
    if not head.is_estimator:
        return False
    budget = Budget(
        n_rows=shape[0], n_features=shape[1], memory_bytes=memory_bytes, fit_bytes=head.fit_bytes
    )
    may_reduce = not (is_kept and head.keeps_rows)
    return budget.should_reduce(n_sets=1 if is_kept else 2, may_reduce=may_reduce)
