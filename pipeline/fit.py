"""``fit``: one head on one layer of cached features, measured on rows it has not seen."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cache.features import Features
from cache.files import make_folder
from cache.key import canonical_json
from pipeline.classifier import MODEL_NAME, read_json, write_json, write_predictions
from pipeline.errors import PipelineError
from stages.evaluate import cross_validate, score
from stages.heads import Head, fit_head, parse_settings
from stages.layers import parse_layer_spec

# What scikit-learn and Keras take.
_SEEDS = 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """What ``fit`` is asked for.

    Attributes
    ----------
    features : Path
        A ``features.h5``.
    layer : str
        One of its layers.
    head : str
    settings : mapping of str to object
        As typed (``"0.1"``) or as YAML gives them (``0.1``).
    cv : int, optional
        Folds over all rows that are not in the test split.
    seed : int
    out : Path
        Folder for what is fitted and measured.
    """

    features: Path
    layer: str
    head: str
    settings: Mapping[str, object] = field(default_factory=dict)
    cv: int | None = None
    seed: int = 0
    out: Path

    def __post_init__(self) -> None:
        if not 0 <= self.seed < _SEEDS:
            raise PipelineError(f"cannot use seed {self.seed}; give one from 0 to {_SEEDS - 1}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What was measured; `metrics` is what ``metrics.json`` holds."""

    metrics: dict[str, Any]
    out: Path

    def describe(self) -> str:
        """Return the figures as a person wants them."""
        lines = [f"{self.metrics['head']} on {self.metrics['layer']} → {self.out}"]
        if "accuracy" in self.metrics:
            lines.append(
                f"  test: accuracy {self.metrics['accuracy']:.4f},"
                f" log loss {self.metrics['log_loss']:.4f}, {self.metrics['n_test']} rows"
            )
        if "cv_accuracy_mean" in self.metrics:
            lines.append(
                f"  {self.metrics['cv_folds']}-fold: accuracy"
                f" {self.metrics['cv_accuracy_mean']:.4f} ± {self.metrics['cv_accuracy_std']:.4f}"
            )
        if len(lines) == 1:
            lines.append("  not measured: no row is in the test split; split, or use --cv 5")
        lines.append(f"  {self.metrics['n_train']} training rows, {self.metrics['seconds']:.1f} s")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRows:
    """A layer in memory with its labels, and which rows are for what.

    Attributes
    ----------
    values : ndarray of float32 or float16, shape (n, n_features)
    labels : ndarray of str, shape (n,)
        ``""`` where there is none.
    train, test, folds, unlabelled : ndarray of int64
        Rows: to fit on (neither val nor test); to measure on; to cross-validate over (all but
        test); without a label.
    """

    values: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    test: np.ndarray
    folds: np.ndarray
    unlabelled: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """What is said of rows by a head that was not fitted on them.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        Ascending.
    probabilities : ndarray of float64, shape (m, n_classes)
    classes : ndarray of str, shape (n_classes,)
    """

    rows: np.ndarray
    probabilities: np.ndarray
    classes: np.ndarray


def fit(options: FitOptions) -> FitResult:
    """Fit a head, measure it, and keep it with all that ``predict`` needs.

    Parameters
    ----------
    options : FitOptions

    Returns
    -------
    FitResult

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each.
    """
    started_s = time.monotonic()
    settings = parse_settings(options.head, options.settings)
    with Features(options.features) as features:
        # Asked as it was extracted, or in any other way of writing the same.
        layer = str(parse_layer_spec(options.layer))
        record = _build_record(options, features, layer)
        rows = read_rows(features, layer)
        _clear(options.out)
        head = fit_head(
            options.head,
            settings,
            rows.values[rows.train],
            rows.labels[rows.train],
            seed=options.seed,
        )
        metrics, unseen = _measure(options, settings, rows, head)
        head.save(options.out / "head")
        write_predictions(
            options.out / "predictions.csv",
            paths=[features.paths[row] for row in unseen.rows],
            labels=rows.labels[unseen.rows].tolist(),
            probabilities=unseen.probabilities,
            classes=unseen.classes,
        )
        metrics["seconds"] = round(time.monotonic() - started_s, 3)
        metrics |= {"head": options.head, "layer": layer, "seed": options.seed}
        metrics |= {"settings": dataclasses.asdict(settings), "classes": head.classes.tolist()}
        write_json(options.out / "metrics.json", metrics)
        # The last file, so that it vouches for the others.
        write_json(options.out / MODEL_NAME, record)
    return FitResult(metrics=metrics, out=options.out)


def find_fit(options: FitOptions) -> FitResult | None:
    """Return what an earlier fit left, if it was fitted on the same rows in the same way."""
    with Features(options.features) as features:
        record = _build_record(options, features, str(parse_layer_spec(options.layer)))
    known = read_json(options.out / MODEL_NAME)
    metrics = read_json(options.out / "metrics.json")
    if known is None or metrics is None or known.get("fit") != record["fit"]:
        return None
    if not (options.out / "predictions.csv").exists():
        return None
    if known != record:
        # The backbone's file has moved.
        write_json(options.out / MODEL_NAME, record)
    return FitResult(metrics=metrics, out=options.out)


def _build_record(options: FitOptions, features: Features, layer: str) -> dict[str, Any]:
    """Build ``model.json``: what `predict` needs, and a digest of all that the fit depends on."""
    facts = [
        canonical_json(features.recipe(layer)),
        features.paths,
        hashlib.sha256(features.digests.tobytes()).hexdigest(),
        features.labels,
        features.splits,
        options.head,
        dataclasses.asdict(parse_settings(options.head, options.settings)),
        options.cv,
        options.seed,
    ]
    return {
        "layer": layer,
        "recipe": features.recipe(layer),
        "features": _read_origin(features, layer),
        "fit": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest(),
    }


def read_rows(features: Features, layer: str) -> LabelledRows:
    """Read a layer and sort out its rows.

    Raises
    ------
    PipelineError
        No row has a label, or none is left to fit on.
    """
    labels = np.array(features.labels, np.str_)
    splits = np.array(features.splits, np.str_)
    labelled = labels != ""
    if not labelled.any():
        raise PipelineError(
            f"no row of {str(features.path)!r} has a label; extract again with --labels"
        )
    train = np.flatnonzero(labelled & ~np.isin(splits, ("val", "test")))
    if not len(train):
        raise PipelineError(
            f"every labelled row of {str(features.path)!r} is in the test or val split,"
            " none is left to fit on; extract again with --split test=0.3"
        )
    return LabelledRows(
        values=features.read(layer).reshape(len(labels), -1),
        labels=labels,
        train=train,
        test=np.flatnonzero(labelled & (splits == "test")),
        folds=np.flatnonzero(labelled & (splits != "test")),
        unlabelled=np.flatnonzero(~labelled),
    )


def _read_origin(features: Features, layer: str) -> dict[str, Any]:
    """Return how this layer was asked for; which others were does not matter."""
    try:
        return {**json.loads(features.origin), "layers": [layer]}
    except (ValueError, TypeError) as error:
        raise PipelineError(
            f"{str(features.path)!r} does not say how its features were made; extract again"
        ) from error


def _clear(folder: Path) -> None:
    """Take back what vouches for an earlier fit, before any of its files is replaced."""
    make_folder(folder)
    (folder / MODEL_NAME).unlink(missing_ok=True)


def _measure(
    options: FitOptions, settings: object, rows: LabelledRows, head: Head
) -> tuple[dict[str, Any], Unseen]:
    """Return the metrics, and what is said of the rows that the head was not fitted on."""
    metrics: dict[str, Any] = {"n_train": len(rows.train), "n_test": len(rows.test)}
    classes, measured, probabilities = head.classes, rows.test, np.empty((0, len(head.classes)))
    if len(rows.test):
        probabilities = head.predict_proba(rows.values[rows.test])
        metrics |= score(rows.labels[rows.test], probabilities, classes)
    if options.cv is not None:
        found = _cross_validate(options, settings, rows)
        out_of_fold = found.pop("probabilities")
        metrics |= found | {"cv_folds": options.cv}
        if not len(rows.test):
            classes = np.unique(rows.labels[rows.folds])
            measured, probabilities = rows.folds, out_of_fold
    # A class that only val rows have is in the folds, but not in the head.
    unlabelled = np.zeros((len(rows.unlabelled), len(classes)))
    columns = np.searchsorted(classes, head.classes)
    unlabelled[:, columns] = head.predict_proba(rows.values[rows.unlabelled])
    numbers = np.concatenate([measured, rows.unlabelled])
    order = np.argsort(numbers)
    values = np.concatenate([probabilities, unlabelled])
    return metrics, Unseen(rows=numbers[order], probabilities=values[order], classes=classes)


def _cross_validate(options: FitOptions, settings: object, rows: LabelledRows) -> dict[str, Any]:
    with Features(options.features) as features:
        digests = features.digests[rows.folds]
    return dict(
        cross_validate(
            options.head,
            settings,
            rows.values[rows.folds],
            rows.labels[rows.folds],
            digests,
            n_folds=options.cv or 0,
            seed=options.seed,
        )
    )
