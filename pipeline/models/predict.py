"""``predict``: new images through the backbone and head that ``fit`` kept."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.cache.disk.publish import make_folder, temporary_folder
from permafrost.cache.errors import NotAViewError
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import open_cache
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.export.classifier import (
    Classifier,
    check_recipe,
    list_features,
    load_classifier,
)
from permafrost.pipeline.extraction.extract import extract
from permafrost.pipeline.extraction.results import read_failures, write_failures
from permafrost.pipeline.extraction.summary import ExtractSummary, failures_path
from permafrost.pipeline.models.answers import UNSURE, Answers, check_reject, describe_groups
from permafrost.pipeline.models.record import BY_HELP, check_by
from permafrost.pipeline.options import (
    DEFAULT_CACHE,
    SOURCES,
    DatasetOptions,
    ExtractOptions,
    RunOptions,
    declare,
)
from permafrost.pipeline.parsers import read_number
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.planning.dataset import Dataset, open_dataset
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.pipeline.tasks.views import check_several
from permafrost.stages.datasets.targets import parse_targets
from permafrost.stages.errors import StageError
from permafrost.stages.evaluation.metrics import score
from permafrost.stages.heads import Head
from permafrost.stages.heads.head import predict_images

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions:
    """What ``predict`` is asked for.

    Attributes
    ----------
    out : Path
        The CSV file; ``<out>.failures.csv`` lists the images that could not be read.
    """

    model: Path = field(metadata={"type": Path, "metavar": "DIR", "help": "what fit wrote"})
    images: str = field(metadata={"metavar": "SOURCE", "help": SOURCES})
    out: Path = field(metadata={"type": Path, "metavar": "predictions.csv", "help": "the table"})
    average_views: bool = declare(
        default=False,
        action="store_true",
        help="say the mean over the views that the head was fitted on, not what the first gives",
    )
    reject: float = declare(
        0.0,
        type=read_number,
        metavar="P",
        help=f"predict {UNSURE} where no class has this probability, as 0.9",
    )
    by: str | None = declare(None, metavar="COLUMN", help=BY_HELP)
    cache: Path = DEFAULT_CACHE
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.reject <= 1:
            raise PipelineError(f"--reject {self.reject:g} is no probability; give 0.5 to 1")


def predict(options: PredictOptions, *, dataset: Dataset | None = None) -> dict[str, object]:
    """Classify images and write ``path,label,predicted`` and a probability column a class.

    Parameters
    ----------
    dataset : Dataset, optional
        The images, where they are listed and hashed already.

    Returns
    -------
    dict
        The figures of the extraction, and of the predictions where all labels are known.

    Raises
    ------
    PipelineError
        The backbone is no longer the one that the head was fitted on, or there is one view.
    """
    out, run = options.out, options.run
    check_predictions_file(out)
    fitted = classifier = load_classifier(options.model)
    head = fitted.head
    check_reject(options.reject, task=head.task, classes=head.classes.tolist())
    if options.average_views:
        views = fitted.views or fitted.parts[0].features.views
        check_several(views, what=f"{str(options.model)!r} was fitted on")
        classifier = fitted.look_at(views)
    images = name_images(options.images)
    # Checked first, or an hour may be spent on features that the head cannot use.
    with Index(open_cache(options.cache).index_file) as index:
        for part in fitted.parts:
            check_recipe(part, Backbone(part.features, index))
        if options.by is not None:
            dataset = dataset or open_dataset(images, index, workers=run.n_threads)
            check_by(options.by, head.task, sorted(dataset.manifest.extra))
    make_folder(out.parent)
    with temporary_folder(out.parent) as folder:
        outs, summaries = [], []
        for number, features in enumerate(dict.fromkeys(list_features(classifier))):
            outs.append(folder / f"{number}.h5")
            extraction = ExtractOptions(
                dataset=images,
                features=features,
                cache=options.cache,
                run=dataclasses.replace(run, materialize=False),
            )
            summaries.append(extract(extraction, outs[-1], dataset=dataset))
        with FeatureFiles(outs) as files:
            figures = _sum_up(summaries).to_dict() | _classify(classifier, files, options)
        _keep_failures(outs, failures_path(out))
    figures |= {"features": None, "predictions": str(out)}
    figures["failures"] = str(failures_path(out)) if failures_path(out).exists() else None
    return figures


def describe_predictions(figures: Mapping[str, Any], out: object) -> str:
    """Write what came of it as a person wants it."""
    lines = [f"{figures['images']} images → {out}"]
    if "unsure" in figures:
        accuracy = figures.get("accuracy_of_answered")
        right = "" if accuracy is None else f"; accuracy of the others {accuracy:.4f}"
        lines.append(f"  {UNSURE}: {figures['unsure']}, below {figures['reject']:g}{right}")
    if "by" in figures:
        lines.append(describe_groups(figures["by"]))
    return "\n".join(lines)


def check_predictions_file(out: Path) -> None:
    """Raise PipelineError where no predictions can be written."""
    if out.is_dir():
        raise PipelineError(f"--out {str(out)!r} is a folder; name a file in it, as {out}/new.csv")


def name_images(images: str) -> DatasetOptions:
    """Return how images are asked for that nothing is trained on or measured by."""
    return DatasetOptions(images=images, split="none")


def _classify(
    classifier: Classifier, files: FeatureFiles, options: PredictOptions
) -> dict[str, object]:
    head = classifier.head
    wanted = list_features(classifier)
    views = list(dict.fromkeys(wanted))
    layers = [
        files.find_layer(views.index(features), part.layer)
        for features, part in zip(wanted, classifier.parts, strict=True)
    ]
    rows, n_views = np.arange(len(files)), len(layers[0].views)
    outputs = predict_images(head, files.open_matrix(layers), rows, n_views=n_views)
    labels = _read_truth(classifier, files)
    by = options.by
    answers = Answers(
        paths=files.paths,
        labels=labels,
        outputs=outputs,
        classes=head.classes,
        task=head.task,
        order=classifier.order,
        keys=files.column(by) if by else (),
        reject=options.reject,
    )
    answers.write(options.out, by=by)
    scores = _score(head, outputs, labels, files.paths) if all(labels) else {}
    return scores | answers.count_unsure() | answers.measure(by)


def _read_truth(classifier: Classifier, files: FeatureFiles) -> list[str]:
    """Return the column that the head was fitted on; new images may well not have it."""
    try:
        return files.column(classifier.target)
    except NotAViewError:
        return [""] * len(files)


def _score(
    head: Head, outputs: np.ndarray, labels: Sequence[str], paths: Sequence[str]
) -> dict[str, object]:
    try:
        truth, _ = parse_targets(labels, task=head.task, names=paths)
    except StageError as error:
        # For example the names of folders, where the head predicts numbers.
        _log.warning("the predictions are not scored: %s", error)
        return {}
    return dict(score(truth, outputs, head.classes))


def _sum_up(summaries: Sequence[ExtractSummary]) -> ExtractSummary:
    """Put the figures of all backbones together; the images are the same."""
    seconds = sum(one.seconds for one in summaries)
    computed = max(one.computed for one in summaries)
    return dataclasses.replace(
        max(summaries, key=lambda one: one.seconds),
        computed=computed,
        reused=min(one.reused for one in summaries),
        failed=max(one.failed for one in summaries),
        seconds=round(seconds, 3),
        images_per_second=round(computed / seconds, 2),
        bytes_written=sum(one.bytes_written for one in summaries),
    )


def _keep_failures(views: Sequence[Path], final: Path) -> None:
    """Put the lists of failures together; one image may have failed with several backbones."""
    reasons: dict[str, str] = {}
    for view in views:
        reasons |= read_failures(view)
    write_failures(final, list(reasons.items()))
