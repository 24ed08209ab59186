"""A fitted classifier on disk: a head, and all it takes to feed it new images.

::

    DIR/
      model.json          layers, recipes, how the features were asked for, what it was fitted on
      head/               the head itself: head.json with head.skops or head.keras
      metrics.json        how good it is
      predictions.csv     what it says of rows that it was not fitted on; .by-COLUMN.csv of groups
      unseen.npz          the same of all rows, by folds, once it was asked for
      learning.json       how good the head is on fewer rows, once it was asked for
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.cache.disk.locks import locked_folder
from permafrost.cache.disk.publish import make_durable, make_folder
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.outputs import read_json, write_json
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.planning.recipe import build_recipe
from permafrost.stages.backbones.applications import FITTED_MODEL
from permafrost.stages.backbones.layers import parse_layer_spec
from permafrost.stages.backbones.preprocessing import parse_views
from permafrost.stages.datasets.table import read_table
from permafrost.stages.datasets.targets import MULTILABEL, REGRESSION, SEPARATOR
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.heads import Head, load_head

MODEL_NAME = FITTED_MODEL
METRICS_NAME = "metrics.json"
PREDICTIONS_NAME = "predictions.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierPart:
    """One layer that a head was fitted on.

    Attributes
    ----------
    recipe : Recipe
        Of the features; new ones must have the same.
    """

    layer: str
    recipe: Recipe
    features: FeatureOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """What ``predict`` and ``export`` need.

    Attributes
    ----------
    target : str
        The column with the truth that it was fitted on.
    order : tuple of str
        In which its classes are told; none where that is the head's own.
    views : tuple of str
        Those of each image that it was fitted on, if several; its parts are of the first.
    """

    head: Head
    parts: tuple[ClassifierPart, ...]
    target: str
    order: tuple[str, ...] = ()
    views: tuple[str, ...] = ()

    def look_at(self, views: Sequence[str]) -> Classifier:
        """Return the same for features of other views."""
        parts = (
            dataclasses.replace(
                part, features=dataclasses.replace(part.features, view=parse_views(views))
            )
            for part in self.parts
        )
        return dataclasses.replace(self, parts=tuple(parts))


def save_classifier(folder: Path, head: Head, record: Mapping[str, Any]) -> None:
    """Write the head, and then the record that vouches for it."""
    make_folder(folder / "head")
    head.save(folder / "head")
    make_durable(folder / "head")
    write_json(folder / MODEL_NAME, record)


def load_classifier(folder: Path) -> Classifier:
    """Load what ``fit`` wrote.

    Raises
    ------
    PipelineError
        The folder holds no fitted model.
    """
    file = folder / MODEL_NAME
    try:
        # A fit that runs now may be replacing these files one by one.
        with locked_folder(folder):
            record = json.loads(file.read_text(encoding="utf-8"))
            return make_classifier(load_head(folder / "head"), record)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise PipelineError(
            f"{str(folder)!r} holds no fitted model (no {MODEL_NAME}); name what fit --out wrote"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PipelineError(f"{str(file)!r} is damaged ({str(error)[:200]}); fit again") from error


def locate_files(folder: Path) -> list[Path]:
    """Return the files of features that a model was fitted on, as far as it says."""
    data = (read_json(folder / METRICS_NAME) or {}).get("data")
    files = data.get("features", ()) if isinstance(data, dict) else ()
    return [Path(os.path.normpath(folder / str(file))) for file in files]


def make_classifier(head: Head, record: Mapping[str, Any]) -> Classifier:
    """Put together a head and what ``model.json`` says.

    Raises
    ------
    ValueError, KeyError, TypeError, AttributeError
        That is something else.
    """
    parts = tuple(_read_part(part) for part in record["parts"])
    if not parts:
        raise ValueError("it names no features")
    target, order = str(record["target"]), tuple(map(str, record.get("classes", ())))
    views = tuple(map(str, record.get("views", ())))
    return Classifier(head=head, parts=parts, target=target, order=order, views=views)


def _read_part(part: Mapping[str, Any]) -> ClassifierPart:
    recipe = dict(part["recipe"])
    recipe_key(recipe)  # A ValueError where it is no canonical JSON.
    return ClassifierPart(
        layer=str(part["layer"]),
        recipe=recipe,
        features=FeatureOptions.from_json(json.dumps(part["features"])),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What a head says of n labelled rows that it was not fitted on.

    Attributes
    ----------
    paths, labels, predicted : list of str, length n
    classes : ndarray of str, shape (n_classes,)
        Sorted; none of a regression.
    outputs : ndarray of float64, shape (n, n_classes)
        Probabilities; of a regression there are none.
    """

    paths: list[str]
    labels: list[str]
    predicted: list[str]
    classes: np.ndarray
    outputs: np.ndarray


def read_predictions(folder: Path, *, classes: Sequence[str]) -> Predictions | None:
    """Read the labelled rows of what `write_predictions` wrote beside a head.

    Parameters
    ----------
    folder : Path
    classes : sequence of str
        The head's, which tell a class called ``p:path`` from one called ``path``.

    Returns
    -------
    Predictions or None
        None where there are no such rows, or no such file.

    Raises
    ------
    InputError
        It is no well-formed table.
    """
    file = folder / PREDICTIONS_NAME
    if not file.exists():
        return None
    table = read_table(file)
    labels = table.require("label")
    (_, predicted), *columns = table.extra.items() or [("", [])]
    names = np.array([one if one in classes else one.removeprefix("p:") for one, _ in columns], str)
    order, known = np.argsort(names), [row for row, label in enumerate(labels) if label]
    try:
        outputs = np.array([columns[place][1] for place in order], np.float64)
    except ValueError as error:
        raise InputError(f"{str(file)!r} is damaged ({error}); fit again") from error
    if not known:
        return None
    return Predictions(
        paths=[table.require("path")[row] for row in known],
        labels=[labels[row] for row in known],
        predicted=[predicted[row] for row in known],
        classes=names[order],
        outputs=outputs.reshape(len(names), len(labels)).T[known],
    )


def name_outputs(outputs: np.ndarray, classes: np.ndarray, task: str) -> list[object]:
    """Return what the outputs say: a class, the classes from a half on, or a value."""
    if task == REGRESSION:
        return list(outputs[:, 0].tolist())
    if task == MULTILABEL:
        return [SEPARATOR.join(classes[row]) or SEPARATOR for row in outputs >= 0.5]
    return list(classes[outputs.argmax(axis=1)].tolist())


def list_features(classifier: Classifier) -> list[FeatureOptions]:
    """Return, for each part, what to extract: all layers that are wanted of its backbone."""
    backbones = [dataclasses.replace(part.features, layers=("-",)) for part in classifier.parts]
    layers: dict[FeatureOptions, dict[str, None]] = {}
    for backbone, part in zip(backbones, classifier.parts, strict=True):
        layers.setdefault(backbone, {})[part.layer] = None
    return [dataclasses.replace(one, layers=tuple(layers[one])) for one in backbones]


def check_recipe(part: ClassifierPart, backbone: Backbone, *, is_fitted: bool = True) -> None:
    """Raise PipelineError unless a backbone still gives the features that a head was fitted on.

    Without a head, those that are there.
    """
    recipe: Recipe = {}
    why = ""
    try:
        recipe = build_recipe(part.features, backbone, parse_layer_spec(part.layer))
    except UnknownNameError:
        pass
    except InputError as error:
        why = f" ({error})"
    if recipe_key(recipe) != recipe_key(part.recipe):
        what, again = ("head was fitted on", "fit") if is_fitted else ("features are of", "extract")
        raise PipelineError(
            f"the backbone {part.features.backbone!r} is no longer the one that the {what};"
            f" restore its weights or {again} again{why}"
        )
