"""Where a linear head looks: the positions' sum is the score that scikit-learn decides by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_digits
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize

from permafrost.stages.datasets.targets import Targets
from permafrost.stages.errors import InputError
from permafrost.stages.evaluation.class_maps import PartMap, map_classes
from permafrost.stages.evaluation.neighbours import find_largest, measure_cosines
from permafrost.stages.heads import HEADS, fit_head, parse_settings
from permafrost.stages.heads.calibration import Calibration
from permafrost.stages.matrices.joined import JoinedMatrix
from permafrost.stages.matrices.matrix import ArrayMatrix
from permafrost.stages.matrices.scaling import LAYER_SCALES

DIGITS = load_digits()
N_TRAIN = 300
# Each image as a map of 2 x 3 positions (its columns overlap) and 16 channels.
MAPS = np.stack(
    [
        np.stack([DIGITS.images[:, y : y + 4, x : x + 4].reshape(-1, 16) for x in (0, 2, 4)], 1)
        for y in (0, 4)
    ],
    axis=1,
).astype(np.float32)
OTHER = DIGITS.images.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4, 4, 4)
NAMES = np.array([f"digit {n}" for n in DIGITS.target])
ODD = np.where(DIGITS.target % 2, "odd", "even")
TAGS = np.column_stack([DIGITS.target % 2 == 1, DIGITS.target > 4, DIGITS.target == 0])
TARGETS = {
    "classification": Targets(task="classification", values=NAMES, classes=np.unique(NAMES)),
    "two classes": Targets(task="classification", values=ODD, classes=np.unique(ODD)),
    "multilabel": Targets(
        task="multilabel", values=TAGS, classes=np.array(["large", "odd", "zero"])
    ),
    "regression": Targets(
        task="regression", values=DIGITS.target.astype(float), classes=np.empty(0, np.str_)
    ),
}
LINEAR = ("logreg", "linear_svm", "ridge", "sgd", "nearest_mean", "head2toe")


def list_cases() -> Iterator[tuple[str, str, str]]:
    for kind in LINEAR:
        has_scale = "scale" in HEADS[kind].settings.__dataclass_fields__
        for task in TARGETS:
            if task.replace("two classes", "classification") in HEADS[kind].tasks:
                for scale in LAYER_SCALES if has_scale else ("",):
                    yield kind, task, scale


def fit(kind: str, task: str, matrix: Any, **settings: str) -> Any:
    return fit_head(
        kind,
        parse_settings(kind, settings),
        matrix,
        TARGETS[task],
        train=np.arange(N_TRAIN),
        seed=0,
    )


def decide(head: Any, features: np.ndarray, folder: Path) -> np.ndarray:
    """Return what the saved pipeline of scikit-learn decides by, a column an output."""
    head.save(folder)
    trusted = skops.io.get_untrusted_types(file=folder / "head.skops")
    pipeline = skops.io.load(folder / "head.skops", trusted=trusted)
    if head.widths:
        cuts = np.cumsum(head.widths)[:-1]
        features = np.hstack([normalize(one) for one in np.split(features, cuts, axis=1)])
    is_value = head.task == "regression"
    said = (pipeline.predict if is_value else pipeline.decision_function)(features)
    if said.ndim == 1 and not is_value and head.task == "classification":
        return np.column_stack([-said, said])
    return np.asarray(said.reshape(len(features), -1))


@pytest.mark.parametrize(("kind", "task", "scale"), list(list_cases()))
def test_the_positions_sum_is_the_score_that_scikit_learn_decides_by(
    kind: str, task: str, scale: str, tmp_path: Path
) -> None:
    pooled = MAPS.mean(axis=(1, 2))
    settings = {"scale": scale} if scale else {}
    settings |= {"share": "0.5"} if kind == "head2toe" else {}
    head = fit(kind, task, ArrayMatrix(pooled), **settings)
    decided = decide(head, pooled[N_TRAIN : N_TRAIN + 20].astype(np.float64), tmp_path)
    for row, expected in enumerate(decided, start=N_TRAIN):
        (found,) = map_classes(head, [PartMap(values=MAPS[row], pooling="avg")])
        assert found.shape == (2, 3, len(expected))
        np.testing.assert_allclose(found.sum(axis=(0, 1)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", LAYER_SCALES)
def test_layers_side_by_side_share_the_score(scale: str, tmp_path: Path) -> None:
    parts = [MAPS.mean(axis=(1, 2)), OTHER.mean(axis=(1, 2)).astype(np.float32)]
    joined = np.hstack(parts)
    matrix = JoinedMatrix([ArrayMatrix(one) for one in parts])
    head = fit("logreg", "classification", matrix, scale=scale)
    decided = decide(head, joined[-5:].astype(np.float64), tmp_path)
    for row, expected in zip(range(-5, 0), decided, strict=True):
        found = map_classes(
            head, [PartMap(values=one[row], pooling="avg") for one in (MAPS, OTHER)]
        )
        assert [one.shape[:2] for one in found] == [(2, 3), (4, 4)]
        total = sum(one.sum(axis=(0, 1)) for one in found)
        np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 2])
def test_a_whole_map_may_have_its_channels_anywhere(axis: int, tmp_path: Path) -> None:
    turned = np.moveaxis(MAPS, 3, axis + 1)
    rows = np.ascontiguousarray(turned).reshape(len(turned), -1)
    head = fit("ridge", "classification", ArrayMatrix(rows), scale="standard")
    expected = decide(head, rows[-1:].astype(np.float64), tmp_path)[0]
    part = PartMap(values=turned[-1], pooling="flatten", channel_axis=axis)
    (found,) = map_classes(head, [part])
    assert found.shape == (2, 3, 10)
    np.testing.assert_allclose(found.sum(axis=(0, 1)), expected, rtol=1e-5, atol=1e-5)


def test_a_position_that_alone_differs_is_where_the_head_looks() -> None:
    """What is added at one place moves the map there, and nowhere else."""
    head = fit("logreg", "two classes", ArrayMatrix(MAPS.mean(axis=(1, 2))), scale="none")
    changed = MAPS[0].copy()
    changed[1, 2] += head.linear_form().weights[:, 1].astype(np.float32)
    before, after = (
        map_classes(head, [PartMap(values=one, pooling="avg")])[0] for one in (MAPS[0], changed)
    )
    moved = np.abs(after - before).sum(axis=-1)
    assert np.flatnonzero(moved > 1e-9).tolist() == [5]
    assert after[1, 2, 1] > before[1, 2, 1]


def test_a_row_of_zeros_stays_zeros() -> None:
    head = fit("logreg", "classification", ArrayMatrix(MAPS.mean(axis=(1, 2))), scale="l2")
    (found,) = map_classes(head, [PartMap(values=np.zeros((2, 3, 16)), pooling="avg")])
    np.testing.assert_allclose(found.sum(axis=(0, 1)), head.linear_form().bias)


def test_what_is_no_sum_over_positions_is_refused_with_what_is() -> None:
    pooled = MAPS.mean(axis=(1, 2))
    part = PartMap(values=MAPS[0], pooling="avg")
    with pytest.raises(InputError, match=r"'knn' is not linear.*logreg.*--layers"):
        map_classes(fit("knn", "classification", ArrayMatrix(pooled)), [part])
    head = fit("logreg", "classification", ArrayMatrix(pooled))
    found = Calibration(method="temperature", curves=(np.ones(1),), floor=1e-300)
    with pytest.raises(InputError, match=r"'logreg' is calibrated.*without --calibrate"):
        map_classes(replace(head, calibration=found), [part])
    with pytest.raises(InputError, match=r":max are no mean over positions; fit on .*:avg"):
        map_classes(head, [PartMap(values=MAPS[0], pooling="max")])
    with pytest.raises(InputError, match="fitted on 16 features, and the maps give 32"):
        map_classes(head, [part, part])


def test_the_nearest_rows_are_those_of_scikit_learns_cosine() -> None:
    rows = np.arange(0, 200, 2)
    expected = cosine_similarity(DIGITS.data[300:301], DIGITS.data[rows])[0]
    found = measure_cosines(ArrayMatrix(DIGITS.data.astype(np.float32)), rows, DIGITS.data[300])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    mask = DIGITS.target[rows] == DIGITS.target[300]
    best = sorted(np.flatnonzero(mask), key=lambda place: -expected[place])[:4]
    assert find_largest(found, mask, n=4).tolist() == best
    assert measure_cosines(ArrayMatrix(np.zeros((2, 64), np.float32)), rows[:1], rows[:64])[0] == 0
