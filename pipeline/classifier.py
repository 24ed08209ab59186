"""A fitted classifier on disk: a head, and all it takes to feed it new images.

::

    DIR/
      model.json          layer, recipe, how the features were asked for, what it was fitted on
      head/               the head itself: head.json with head.skops or head.keras
      metrics.json        how good it is
      predictions.csv     what it says of rows that it was not fitted on
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.files import published
from cache.key import Recipe
from pipeline.errors import PipelineError
from pipeline.options import FeatureOptions
from stages.heads import Head, load_head
from stages.table import make_writer

MODEL_NAME = "model.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """What ``predict`` needs.

    Attributes
    ----------
    head : Head
    layer : str
        The layer spec it was fitted on.
    recipe : Recipe
        Of the features it was fitted on; new ones must have the same.
    features : FeatureOptions
        How to ask for them.
    """

    head: Head
    layer: str
    recipe: Recipe
    features: FeatureOptions


def read_json(file: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file of an earlier fit; None where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def load_classifier(folder: Path) -> Classifier:
    """Load what ``fit`` wrote.

    Raises
    ------
    PipelineError
        The folder holds no fitted model.
    """
    file = folder / MODEL_NAME
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return Classifier(
            head=load_head(folder / "head"),
            layer=str(record["layer"]),
            recipe=dict(record["recipe"]),
            features=FeatureOptions.from_json(json.dumps(record["features"])),
        )
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise PipelineError(
            f"{str(folder)!r} holds no fitted model (no {MODEL_NAME}); name what fit --out wrote"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PipelineError(f"{str(file)!r} is damaged ({error}); fit again") from error


def write_predictions(
    file: Path,
    *,
    paths: Sequence[str],
    labels: Sequence[str],
    probabilities: np.ndarray,
    classes: np.ndarray,
) -> None:
    """Write ``path,label,predicted`` and one probability column a class.

    Parameters
    ----------
    file : Path
    paths, labels : sequence of str, length n
    probabilities : ndarray of float64, shape (n, n_classes)
    classes : ndarray of str, shape (n_classes,)
    """
    predicted = classes[probabilities.argmax(axis=1)].tolist()
    rows = zip(paths, labels, predicted, probabilities.tolist(), strict=True)
    with (
        published(file) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        writer = make_writer(stream, (*paths, *labels, *classes))
        writer.writerow(["path", "label", "predicted", *classes])
        writer.writerows([path, label, name, *values] for path, label, name, values in rows)


def write_json(file: Path, value: object) -> None:
    """Write a JSON file in one step."""
    with published(file) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
