"""``predict``: new images through the backbone and head that ``fit`` kept."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from cache.features import Features
from cache.files import make_folder
from cache.index import Index
from cache.key import recipe_key
from cache.layout import open_cache
from pipeline.backbones import Backbone
from pipeline.classifier import Classifier, load_classifier, write_predictions
from pipeline.errors import PipelineError
from pipeline.extract import extract
from pipeline.options import DatasetOptions, ExtractOptions, RunOptions
from pipeline.recipe import build_recipe
from pipeline.results import failures_path
from stages.errors import UnknownNameError
from stages.evaluate import score
from stages.layers import parse_layer_spec


def predict(
    model: Path, images: str, *, out: Path, cache: Path, run: RunOptions
) -> dict[str, object]:
    """Classify images and write ``path,label,predicted`` and a probability column a class.

    Parameters
    ----------
    model : Path
        What ``fit`` wrote.
    images : str
        A source, labelled or not.
    out : Path
        The CSV file; ``<out>.failures.csv`` lists the images that could not be read.
    cache : Path
        Activations are kept here, as in any extraction.
    run : RunOptions

    Returns
    -------
    dict
        The figures of the extraction, and ``accuracy`` and ``log_loss`` where labels are known.

    Raises
    ------
    PipelineError
        The backbone is no longer the one that the head was fitted on.
    """
    if out.is_dir():
        raise PipelineError(f"--out {str(out)!r} is a folder; name a file in it, as {out}/new.csv")
    classifier = load_classifier(model)
    options = ExtractOptions(
        dataset=DatasetOptions(images=images),
        features=dataclasses.replace(classifier.features, layers=(classifier.layer,)),
        cache=cache,
        run=dataclasses.replace(run, materialize=False),
    )
    _check_backbone(classifier, options)
    make_folder(out.parent)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".predict-") as folder:
        view = Path(folder) / "features.h5"
        figures = extract(options, view).to_dict()
        with Features(view) as features:
            figures |= _classify(classifier, features, out)
        failures = failures_path(out)
        if failures_path(view).exists():
            failures_path(view).replace(failures)
        else:
            failures.unlink(missing_ok=True)
    figures |= {"features": None, "predictions": str(out)}
    figures["failures"] = str(failures) if figures["failures"] else None
    return figures


def _check_backbone(classifier: Classifier, options: ExtractOptions) -> None:
    """Compare the recipes before an hour is spent on features that the head cannot use."""
    try:
        with Index(open_cache(options.cache).index_file) as index:
            backbone = Backbone(options.features, index)
            recipe = build_recipe(options.features, backbone, parse_layer_spec(classifier.layer))
    except UnknownNameError:
        recipe = {}
    if recipe_key(recipe) != recipe_key(classifier.recipe):
        raise PipelineError(
            f"the backbone {classifier.features.backbone!r} is no longer the one that the head"
            " was fitted on; restore its weights or fit again"
        )


def _classify(classifier: Classifier, features: Features, out: Path) -> dict[str, object]:
    head = classifier.head
    blocks = features.iterate(classifier.layer)
    probabilities = np.concatenate(
        [head.predict_proba(block.reshape(len(block), -1)) for block in blocks]
    )
    labels = features.labels
    write_predictions(
        out,
        paths=features.paths,
        labels=labels,
        probabilities=probabilities,
        classes=head.classes,
    )
    if not all(labels):
        return {}
    return dict(score(np.array(labels, np.str_), probabilities, head.classes))
