"""The folds within the training rows that a head is calibrated on."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError
from permafrost.stages.evaluation.folds import check_folds, count_possible_folds, make_folds
from permafrost.stages.heads import CalibrationPlan

N_FOLDS = 5


def plan_calibration(
    method: str, targets: Targets, groups: NDArray[Any], *, seed: int
) -> CalibrationPlan | None:
    """Plan how a head is calibrated: on five folds, or fewer where no class has five groups.

    Parameters
    ----------
    method : str
        One of `stages.heads.CALIBRATIONS`.
    targets : Targets
        Of the training rows.
    groups : ndarray, shape (n_train,)
        Rows with equal keys are never on both sides.
    seed : int

    Returns
    -------
    CalibrationPlan or None
        None where nothing is to be calibrated.

    Raises
    ------
    InputError
        There are too few images for two folds with two classes each.
    """
    if method == "none":
        return None
    n_folds = min(N_FOLDS, count_possible_folds(targets, groups))
    try:
        folds = make_folds(targets, groups, n_folds=n_folds, seed=seed)
        check_folds(targets, folds)
    except InputError as error:
        raise InputError(
            f"{len(targets)} training rows are too few, or too much alike, to calibrate on; add"
            " images, or drop --calibrate"
        ) from error
    return CalibrationPlan(method=method, folds=folds)
