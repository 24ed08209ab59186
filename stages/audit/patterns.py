"""Values of a column that heads do badly on, and orders of rows that tell their label or error."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

# Of a column, no more values than this; and of a value, no fewer rows.
MOST_VALUES = 50
FEWEST_ROWS = 10
# The chance of one false alarm in a whole table.
SIGNIFICANT = 0.05
# Of orders: beyond chance by so many standard deviations, and a correlation that is felt.
_EVIDENT = 6.0
_FELT = 0.2
_NUMBERS, _ROWS = "the numbers in the file names", "the rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAccuracy:
    """How right heads are about the rows with one value of a column.

    Attributes
    ----------
    accuracy, rest : float
        Of these rows, and of all others.
    interval : tuple of float
        95 %, by Wilson's score.
    p_value : float
        That it is no worse than the rest, by Fisher's exact test.
    is_bad : bool
        Whether that is significant among all values looked at, by Holm's method.
    """

    column: str
    value: str
    n_rows: int
    accuracy: float
    rest: float
    interval: tuple[float, float]
    p_value: float
    is_bad: bool


def list_groups(column: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Return the rows of each value of a column with few values; of any other, nothing."""
    texts = np.array([text.strip() for text in column], np.str_)
    values, counts = np.unique(texts, return_counts=True)
    if len(values) > MOST_VALUES or len(values) < 2:
        return {}
    named = [str(value) for value, n in zip(values, counts, strict=True) if n >= FEWEST_ROWS]
    return {value: texts == value for value in named if value}


def compare_groups(
    is_right: NDArray[np.bool_], columns: dict[str, dict[str, NDArray[np.bool_]]]
) -> list[GroupAccuracy]:
    """Measure the accuracy of each group, and tell which are significantly below the rest.

    Parameters
    ----------
    is_right : ndarray of bool, shape (n,)
    columns : dict of str to dict
        As `list_groups` returns them.

    Returns
    -------
    list of GroupAccuracy
        The least probable first.
    """
    from scipy.stats import binomtest, hypergeom

    n_all, n_right = len(is_right), int(is_right.sum())
    counted = []
    for name, groups in columns.items():
        for value, rows in groups.items():
            n_rows, right = int(rows.sum()), int(is_right[rows].sum())
            if n_rows < n_all:
                p_value = float(hypergeom.cdf(right, n_all, n_right, n_rows))
                counted.append((p_value, name, value, n_rows, right))
    found, is_bad = [], True
    for place, one in enumerate(sorted(counted, key=lambda one: one[0])):
        p_value, name, value, n_rows, right = one
        # Down from the least probable for as long as each is below its part of the chance.
        is_bad = is_bad and p_value * (len(counted) - place) < SIGNIFICANT
        bounds = binomtest(right, n_rows).proportion_ci(method="wilson")
        found.append(
            GroupAccuracy(
                column=name,
                value=value,
                n_rows=n_rows,
                accuracy=right / n_rows,
                rest=(n_right - right) / (n_all - n_rows),
                interval=(float(bounds.low), float(bounds.high)),
                p_value=p_value,
                is_bad=is_bad,
            )
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderLeak:
    """What the order of rows, or of the numbers in their file names, tells.

    Attributes
    ----------
    tells : str
        ``"label"`` or ``"error"``.
    correlation : float
        Of a row with the next one in that order.
    deviations : float
        How far that lies above what chance gives.
    """

    order: str
    tells: str
    correlation: float
    deviations: float
    is_evident: bool


def measure_orders(
    paths: Sequence[str], codes: NDArray[np.int64], outputs: NDArray[np.float64]
) -> Iterator[OrderLeak]:
    """Correlate labels, and errors as far as the label does not tell them, with orders of rows.

    Parameters
    ----------
    paths : sequence of str, length n
    codes : ndarray of int64, shape (n,)
        Of the labels: columns of `outputs`.
    outputs : ndarray of float64, shape (n, n_classes)
    """
    errors = 1 - outputs[np.arange(len(codes)), codes]
    means = np.bincount(codes, errors) / np.maximum(np.bincount(codes), 1)
    errors = errors - means[codes]
    # Rows in order of their labels are folders, one after the other.
    found = [(_ROWS, "error", correlate_values(errors))]
    if (numbers := order_by_number(paths)) is not None:
        found += [
            (_NUMBERS, "label", correlate_labels(codes[numbers])),
            (_NUMBERS, "error", correlate_values(errors[numbers])),
        ]
    for order, tells, correlation in found:
        if correlation is not None:
            yield judge_order(correlation, n=len(codes), order=order, tells=tells)


def correlate_labels(codes: NDArray[np.int64]) -> float | None:
    """Correlate each label with the next one, as columns of 0 and 1: codes from 0 on, shape (n,).

    None of too few rows, or of one label alone.
    """
    shares = np.bincount(codes) / max(1, len(codes))
    power = 1 - float((shares**2).sum())
    if len(codes) < FEWEST_ROWS or power <= 0:
        return None
    left, right = codes[:-1], codes[1:]
    mean = float(((left == right) - shares[left] - shares[right]).mean()) + 1 - power
    return mean / power


def correlate_values(values: NDArray[np.float64]) -> float | None:
    """Correlate each value with the next one; None of too few, or where all are the same."""
    away = values - values.mean() if len(values) else values
    power = float((away**2).sum())
    if len(values) < FEWEST_ROWS or power == 0:
        return None
    return float((away[:-1] * away[1:]).sum()) / power


def judge_order(correlation: float, *, n: int, order: str, tells: str) -> OrderLeak:
    """Compare a correlation with that of chance: -1 / (n - 1), of deviation 1 / sqrt(n).

    The lag-one autocorrelation of n independent values (Bartlett, 1946).
    """
    deviations = (correlation + 1 / (n - 1)) * math.sqrt(n)
    return OrderLeak(
        order=order,
        tells=tells,
        correlation=correlation,
        deviations=deviations,
        is_evident=correlation > _FELT and deviations > _EVIDENT,
    )


def order_by_number(paths: Sequence[str]) -> NDArray[np.int64] | None:
    """Order rows by the last number in their file's name; None where not all have one."""
    names = (PurePosixPath(path).stem for path in paths)
    found = [re.findall(r"\d{1,18}", name) for name in names]
    if not all(found):
        return None
    return np.argsort(np.array([int(one[-1]) for one in found]), kind="stable")
