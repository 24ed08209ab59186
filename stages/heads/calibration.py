"""What turns the probabilities of a head into calibrated ones, and how it is fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, Targets
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.matrices.matrix import Rows

NONE, AUTO, SIGMOID, ISOTONIC, TEMPERATURE = "none", "auto", "sigmoid", "isotonic", "temperature"
# What can be asked for; `AUTO` is `SIGMOID` of two classes and `TEMPERATURE` of several.
CALIBRATIONS = (NONE, AUTO, SIGMOID, ISOTONIC, TEMPERATURE)
# Numbers of each curve of a method, see `Calibration.curves`.
_DIMENSIONS = {TEMPERATURE: (1,), SIGMOID: (2,), ISOTONIC: (2, -1)}
# float32, in which networks answer, tells no smaller one from 0; float64 does.
LEAST_OF_FLOAT32, _LEAST = 1e-37, 1e-300

# Fits on some of the training rows, by position, and predicts others; returns outputs and classes.
PredictFold = Callable[[Rows, Rows], tuple[NDArray[np.float64], NDArray[np.str_]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationPlan:
    """How a head is to be calibrated.

    Attributes
    ----------
    method : str
        One of `CALIBRATIONS`, but for `NONE`.
    folds : sequence of (ndarray, ndarray)
        Positions into the training rows: those to fit on, and those that are then predicted.
    """

    method: str
    folds: Sequence[tuple[Rows, Rows]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A fitted calibrator of the probabilities of a classification.

    ``temperature``: softmax(β log p), with one β (Guo et al., "On Calibration of Modern Neural
    Networks", 2017). ``sigmoid``: of each class 1 / (1 + exp(-(a z + b))), where z is the
    logarithm of its odds against all others (Platt, "Probabilistic Outputs for Support Vector
    Machines", 1999). ``isotonic``: a rising function of z, linear between some points (Zadrozny
    and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates",
    2002). Several classes are calibrated one by one and divided by their sum, two by the second.

    Attributes
    ----------
    method : {"temperature", "sigmoid", "isotonic"}
    curves : tuple of ndarray of float64
        One, ``[β]``; or for each class that is calibrated ``[a, b]``, or z and what becomes of it,
        shape (2, n_points), z ascending.
    floor : float
        Probabilities below count as this one.
    """

    method: str
    curves: tuple[NDArray[np.float64], ...]
    floor: float

    def apply(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrate the outputs of a head, shape (n_rows, n_classes); rows sum to 1."""
        if self.method == TEMPERATURE:
            return _softmax(self.curves[0][0] * np.log(outputs.clip(self.floor)))
        odds = measure_log_odds(outputs, self.floor)
        if self.method == SIGMOID and len(self.curves) == 1:
            slope, offset = self.curves[0]
            score = slope * odds[:, 1] + offset
            return _softmax(np.column_stack([np.zeros_like(score), score]))
        columns = zip(self.curves, odds.T[-len(self.curves) :], strict=True)
        raised = np.column_stack([self._raise(curve, z) for curve, z in columns])
        if len(self.curves) == 1:
            return np.column_stack([1 - raised, raised])
        total = raised.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            shares: NDArray[np.float64] = raised / total
        return np.where(total > 0, shares, 1 / raised.shape[1])

    def _raise(self, curve: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.method == SIGMOID:
            raised: NDArray[np.float64] = np.exp(-np.logaddexp(0, -(curve[0] * z + curve[1])))
            return raised
        return np.interp(z, *curve)

    def to_dict(self) -> dict[str, object]:
        """Return it as a JSON object, from which `from_dict` reads the very same."""
        curves = [curve.tolist() for curve in self.curves]
        return {"method": self.method, "curves": curves, "floor": self.floor}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any], *, n_classes: int) -> Calibration:
        """Read what `to_dict` returned, of a head of so many classes.

        Raises
        ------
        KeyError, TypeError, ValueError
            That is something else.
        """
        method, floor = str(found["method"]), float(found["floor"])
        curves = tuple(np.array(curve, np.float64) for curve in found["curves"])
        n_curves = n_classes if n_classes > 2 and method != TEMPERATURE else 1
        wanted = _DIMENSIONS[method]
        for curve in curves:
            fits = curve.ndim == len(wanted) and len(curve) == wanted[0] and curve.size
            if not fits or not np.isfinite(curve).all():
                raise ValueError(f"its calibration is no {method}")
        if len(curves) != n_curves or not 0 < floor < 1:
            raise ValueError("its calibration is of other classes")
        return cls(method=method, curves=curves, floor=floor)


def check_method(method: str, *, task: str, kind: str, is_network: bool) -> None:
    """Raise unless a kind of head can be calibrated in that way.

    Raises
    ------
    UnknownNameError
        There is no such method.
    InputError
        The task has no classes, or the head takes too long to be trained once for each fold.
    """
    if method not in CALIBRATIONS:
        raise UnknownNameError("calibration", method, CALIBRATIONS)
    if method == NONE:
        return
    if task != CLASSIFICATION:
        raise InputError(f"--calibrate goes with --task {CLASSIFICATION}; drop one of the two")
    if is_network:
        raise InputError(
            f"{kind} would be trained once more for each fold of its calibration; drop --calibrate,"
            " or fit another head, as logreg, on a layer of what was trained"
        )


def find_floor(kind: str, settings: Any) -> float:
    """Return the probability that a head's least ones stand for.

    Of neighbours it is half a vote: none of five does not say never.
    """
    neighbors = getattr(settings, "neighbors", None)
    if neighbors is not None:
        return float(0.5 / neighbors)
    return LEAST_OF_FLOAT32 if kind == "mlp" else _LEAST


def measure_log_odds(outputs: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """Return the logarithm of the odds of each class against all others, as `outputs` in shape."""
    others = outputs @ (1 - np.eye(outputs.shape[1]))
    odds: NDArray[np.float64] = np.log(outputs.clip(floor)) - np.log(others.clip(floor))
    return odds


def calibrate(
    plan: CalibrationPlan, targets: Targets, *, floor: float, predict: PredictFold
) -> Calibration:
    """Predict each training row by a head that was not fitted on it, and calibrate that.

    Parameters
    ----------
    targets : Targets
        Of the training rows. A row is left out where no other fold has its class.
    floor : float
        As `find_floor` gives it.
    predict : callable
    """
    classes, codes = np.unique(targets.values, return_inverse=True)
    outputs = np.full((len(targets), len(classes)), np.nan)
    for train, test in plan.folds:
        said, known = predict(train, test)
        outputs[np.ix_(test, np.searchsorted(classes, known))] = said
    is_told = ~np.isnan(outputs[np.arange(len(codes)), codes])
    return fit_calibration(plan.method, outputs[is_told], codes[is_told], floor=floor)


def fit_calibration(
    method: str, outputs: NDArray[np.float64], truth: NDArray[np.int64], *, floor: float
) -> Calibration:
    """Fit a calibrator to what was said of rows.

    Parameters
    ----------
    method : str
        One of `CALIBRATIONS`, but for `NONE`.
    outputs : ndarray of float64, shape (n, n_classes)
        NaN of classes that whoever said it does not know; never of the truth.
    truth : ndarray of int64, shape (n,)
        Columns of `outputs`.
    """
    n_classes = outputs.shape[1]
    if method == AUTO:
        method = SIGMOID if n_classes == 2 else TEMPERATURE
    if method == TEMPERATURE:
        return Calibration(method=method, curves=(_fit_beta(outputs, truth, floor),), floor=floor)
    is_known = ~np.isnan(outputs)
    odds = measure_log_odds(np.where(is_known, outputs, 0), floor)
    fit = _fit_sigmoid if method == SIGMOID else _fit_isotonic
    curves = [
        fit(odds[known, column], truth[known] == column)
        for column, known in enumerate(is_known.T)
        if n_classes > 2 or column
    ]
    return Calibration(method=method, curves=tuple(curves), floor=floor)


def _fit_beta(
    outputs: NDArray[np.float64], truth: NDArray[np.int64], floor: float
) -> NDArray[np.float64]:
    """Return the inverse temperature of the least log loss, within e^-10 and e^10."""
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    logs = np.where(np.isnan(outputs), -np.inf, np.log(outputs.clip(floor)))
    right = logs[np.arange(len(truth)), truth]

    def measure(log_beta: float) -> float:
        beta = np.exp(log_beta)
        return float((logsumexp(beta * logs, axis=1) - beta * right).mean())

    found = minimize_scalar(measure, bounds=(-10, 10), options={"xatol": 1e-12})
    return np.exp([found.x])


def _fit_sigmoid(z: NDArray[np.float64], is_it: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Fit slope and offset to the truth, drawn towards even odds as by one row more of each kind.

    Rows count half to one side and half to the other where the truth is so drawn.
    """
    from sklearn.linear_model import LogisticRegression

    n_is, n_is_not = is_it.sum(), (~is_it).sum()
    wanted = np.where(is_it, (n_is + 1) / (n_is + 2), 1 / (n_is_not + 2))
    scale = max(1.0, float(np.abs(z).max()))
    both, sides = np.tile(z / scale, 2)[:, None], np.repeat([1, 0], len(z))
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    regression.fit(both, sides, sample_weight=np.concatenate([wanted, 1 - wanted]))
    return np.array([regression.coef_[0, 0] / scale, regression.intercept_[0]])


def _fit_isotonic(z: NDArray[np.float64], is_it: NDArray[np.bool_]) -> NDArray[np.float64]:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(z, is_it.astype(float))
    return np.array([fitted.X_thresholds_, fitted.y_thresholds_], np.float64)


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    odds: NDArray[np.float64] = np.exp(scores - scores.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return odds
