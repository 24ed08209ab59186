"""``fit``: one head on one layer of cached features, measured on rows it has not seen."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.cache.disk.locks import locked_folder
from permafrost.cache.disk.publish import make_folder, remove_durably
from permafrost.cache.store.derived import Artefacts
from permafrost.pipeline.export.classifier import MODEL_NAME, save_classifier, write_predictions
from permafrost.pipeline.export.export import write_backbone
from permafrost.pipeline.models.checkpoint import (
    Epochs,
    find_checkpoint,
    forget_checkpoints,
    write_epochs,
)
from permafrost.pipeline.models.kept import describe_kept, list_kept, shorten_layers
from permafrost.pipeline.models.measure import (
    Bench,
    Unseen,
    cross_validate,
    measure_test,
    measure_val,
    name_metric,
    plan_trial,
    warn_of_near_duplicates,
    warn_of_new_classes,
    warn_of_parted_groups,
)
from permafrost.pipeline.outputs import read_json, write_json
from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.pipeline.tasks.rows import JOINED_BY, FeatureFiles, read_labels
from permafrost.pipeline.tasks.task import (
    Scaling,
    TaskOptions,
    check_classes,
    digest_fit,
    digest_rows,
    make_candidate,
)
from permafrost.pipeline.tasks.views import list_views
from permafrost.pipeline.units import describe_seconds
from permafrost.stages.backbones.applications import FITTED_NETWORK
from permafrost.stages.datasets.targets import order_classes
from permafrost.stages.errors import StageError
from permafrost.stages.evaluation.crossfit import Trial
from permafrost.stages.evaluation.fold_task import Candidate
from permafrost.stages.evaluation.metrics import PRIMARY
from permafrost.stages.heads import HEADS, Head, fit_head

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """What ``fit`` is asked for.

    Attributes
    ----------
    data : TaskOptions
    layer : str
        A layer spec, or several joined by ``+``.
    head : str
    settings : mapping of str to object
        As typed (``"0.1"``) or as YAML gives them (``0.1``).
    out : Path
        Folder for what is fitted and measured.
    """

    data: TaskOptions
    layer: str
    head: str
    settings: Mapping[str, object] = field(default_factory=dict)
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What was measured; `metrics` is what ``metrics.json`` holds."""

    metrics: dict[str, Any]
    out: Path

    def describe(self) -> str:
        """Return the figures as a person wants them."""
        found = self.metrics
        name = PRIMARY[found["task"]]
        lines = [f"{found['head']} on {shorten_layers(found['layer'])} → {self.out}"]
        if found.get(name) is not None:
            others = f", log loss {found['log_loss']:.4f}" if "log_loss" in found else ""
            lines.append(f"  test: {describe_score(name, found)}{others}, {found['n_test']} rows")
        if found.get(f"val_{name}") is not None:
            lines.append(f"  val: {name_metric(name)} {found[f'val_{name}']:.4f}")
        if found.get(f"cv_{name}_mean") is not None:
            lines.append(
                f"  {found['cv_folds']}-fold: {name_metric(name)}"
                f" {found[f'cv_{name}_mean']:.4f} ± {found[f'cv_{name}_std']:.4f}"
            )
        if len(lines) == 1:
            lines.append("  not measured: no row is in the test split; split, or use --cv 5")
        if found.get("kept"):
            lines.append(describe_kept(found["kept"]))
        views = f" in {len(found['views'])} views" if "views" in found else ""
        lines.append(
            f"  {found['n_train']} training rows{views}, {describe_seconds(found['seconds'])}"
        )
        return "\n".join(lines)


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
    candidate = make_candidate(options.head, options.settings, task=options.data.task)
    with options.data.open_files() as files:
        layers = files.find_layers(options.layer)
        bench = open_bench(options.data, files, layers)
        check_classes(bench.labelled, options.data)
        # Before anything is fitted, as there may be no such folds.
        record = _build_record(options, candidate, files, layers)
        trial = _plan_folds(bench, options, record["fit"])
        make_folder(options.out)
        head = fit_head(
            candidate.kind,
            candidate.settings,
            bench.matrix,
            bench.targets,
            train=bench.stack(bench.labelled.train),
            groups=bench.groups,
            seed=bench.seed,
            memory_bytes=bench.memory_bytes,
            store=bench.store,
            checkpoint=find_checkpoint(options.out, record["fit"], None),
        )
        metrics, unseen, epochs = _measure(candidate, bench, head, trial)
        metrics["seconds"] = round(time.monotonic() - started_s, 3)
        metrics |= {
            "head": options.head,
            "layer": record["layer"],
            "task": options.data.task,
            "target": options.data.target,
            "seed": options.data.seed,
            "settings": dataclasses.asdict(candidate.settings),
            "classes": head.classes.tolist(),
            **_tell_views(bench.views, average_views=bench.averages),
        }
        if options.head == "head2toe":
            metrics["kept"] = list_kept(head, layers, bench.matrix.widths)
        _order_classes(metrics, options.data.classes or ())
        # Two fits at once into one folder would leave the head of one with the record of another.
        with locked_folder(options.out):
            remove_durably(options.out / MODEL_NAME)
            _write_unseen(options, files, unseen)
            write_json(options.out / "metrics.json", metrics)
            write_epochs(options.out, epochs)
            if HEADS[candidate.kind].is_network:
                _keep_network(options.out, head, record)
            # Its last file vouches for the others.
            save_classifier(options.out, head, record)
        forget_checkpoints(options.out)
    return FitResult(metrics=metrics, out=options.out)


def _tell_views(views: Sequence[str], **others: object) -> dict[str, object]:
    """Return what is kept of views, where there are several."""
    return {"views": list(views), **others} if len(views) > 1 else {}


def _order_classes(metrics: dict[str, Any], order: Sequence[str]) -> None:
    """Tell of classes in the order in which they were named."""
    metrics["classes"] = [metrics["classes"][n] for n in order_classes(metrics["classes"], order)]
    if found := metrics.get("per_class"):
        places = order_classes([one["class"] for one in found], order)
        metrics["per_class"] = [found[place] for place in places]
    if confusion := metrics.get("confusion"):
        names = confusion["classes"]
        places = order_classes(names, order)
        metrics["confusion"] = {
            "classes": [names[place] for place in places],
            "counts": [[confusion["counts"][row][n] for n in places] for row in places],
        }


def _plan_folds(bench: Bench, options: FitOptions, key: str) -> Trial | None:
    if options.data.cv is not None:
        trial = plan_trial(bench, n_folds=options.data.cv)
        return dataclasses.replace(
            trial, find_checkpoint=lambda fit: find_checkpoint(options.out, key, fit[1])
        )
    warn_of_parted_groups(bench.files)
    return None


def _keep_network(out: Path, head: Head, record: Mapping[str, Any]) -> None:
    """Write the whole network, from pixels on, so that the folder is a backbone itself."""
    try:
        write_backbone(out / FITTED_NETWORK, head, record)
    except StageError as error:
        _log.info("%s cannot be a backbone: %s", out, error)


def _write_unseen(options: FitOptions, files: FeatureFiles, unseen: Unseen) -> None:
    column = files.column(options.data.target)
    write_predictions(
        options.out / "predictions.csv",
        paths=[files.paths[row] for row in unseen.rows],
        labels=[column[row] for row in unseen.rows],
        outputs=unseen.outputs,
        classes=unseen.classes,
        task=options.data.task,
        order=options.data.classes or (),
    )


def find_fit(options: FitOptions) -> FitResult | None:
    """Return what an earlier fit left, if it was fitted on the same rows in the same way."""
    candidate = make_candidate(options.head, options.settings, task=options.data.task)
    with options.data.open_files() as files:
        record = _build_record(options, candidate, files, files.find_layers(options.layer))
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


def open_bench(options: TaskOptions, files: FeatureFiles, layers: Sequence[StoredLayer]) -> Bench:
    """Put together what heads are fitted on and measured with."""
    stores = [Artefacts(files.artefact_folder(layer)) for layer in layers]
    return Bench(
        files=files,
        matrix=files.open_matrix(layers, stores=stores),
        labelled=read_labels(files, task=options.task, column=options.target),
        views=list_views(layers, averages=options.average_views),
        averages=options.average_views,
        seed=options.seed,
        memory_bytes=options.memory_bytes,
        # What is made of all of them lies with the first.
        store=stores[0],
    )


def _build_record(
    options: FitOptions, candidate: Candidate, files: FeatureFiles, layers: Sequence[StoredLayer]
) -> dict[str, Any]:
    """Build ``model.json``: what `predict` needs, and a digest of all that the fit depends on."""
    return ({"classes": list(options.data.classes)} if options.data.classes else {}) | {
        **_tell_views(list_views(layers)),
        "task": options.data.task,
        "target": options.data.target,
        # From here, so that both can move together.
        "files": [os.path.relpath(file.path, options.out) for file in files.opened],
        "layer": JOINED_BY.join(dict.fromkeys(str(layer.spec) for layer in layers)),
        "parts": [
            {
                "layer": str(layer.spec),
                "recipe": layer.recipe,
                "features": files.read_origin(layer),
            }
            for layer in layers
        ],
        "fit": digest_fit(
            digest_rows(options.data, files),
            layers,
            candidate,
            scalings=_list_scalings(options.data, files, layers),
            above=files.open_matrix(layers).origin.above,
        ),
    }


def _list_scalings(
    options: TaskOptions, files: FeatureFiles, layers: Sequence[StoredLayer]
) -> list[Scaling]:
    labelled = read_labels(files, task=options.task, column=options.target)
    n_features, n_views = files.open_matrix(layers).shape[1], len(list_views(layers))
    kept = Scaling(
        n_rows=len(labelled.train) * n_views,
        n_features=n_features,
        is_kept=True,
        memory_bytes=options.memory_bytes,
    )
    if options.cv is None:
        return [kept]
    n_rows = len(labelled.folds) * n_views
    return [kept, dataclasses.replace(kept, n_rows=n_rows, is_kept=False)]


def _measure(
    candidate: Candidate, bench: Bench, head: Head, trial: Trial | None
) -> tuple[dict[str, Any], Unseen, Epochs]:
    """Return metrics, what is said of rows that the head was not fitted on, and the trainings."""
    labelled = bench.labelled
    epochs: Epochs = {None: getattr(head, "history", ())}
    metrics: dict[str, Any] = {"n_train": len(labelled.train), "n_test": len(labelled.test)}
    classes, measured = head.classes, labelled.test
    outputs = np.empty((0, max(1, len(classes))))
    if len(labelled.test):
        found, outputs = measure_test(head, bench)
        figures, warning = warn_of_near_duplicates(bench)
        metrics |= found | figures
        for line in filter(None, (warning, warn_of_new_classes(labelled))):
            _log.warning("%s", line)
    if len(labelled.val):
        metrics |= measure_val(head, bench)
    if trial is not None:
        found, out_of_fold, trainings = cross_validate(candidate, trial)
        metrics |= found
        epochs |= trainings
        if not len(labelled.test):
            classes, measured, outputs = labelled.targets.classes, labelled.folds, out_of_fold
    unseen = Unseen(rows=measured, outputs=outputs, classes=classes)
    return metrics, _join_unlabelled(unseen, bench, head), epochs


def _join_unlabelled(measured: Unseen, bench: Bench, head: Head) -> Unseen:
    rows = bench.labelled.unlabelled
    said = bench.predict(head, rows)
    outputs = np.zeros((len(rows), measured.outputs.shape[1]))
    # A class that only val rows have is in the folds, but not in the head.
    known = np.searchsorted(measured.classes, head.classes) if len(head.classes) else [0]
    outputs[:, known] = said
    numbers = np.concatenate([measured.rows, rows])
    order = np.argsort(numbers)
    return Unseen(
        rows=numbers[order],
        outputs=np.concatenate([measured.outputs, outputs])[order],
        classes=measured.classes,
    )


def describe_score(name: str, metrics: Mapping[str, Any]) -> str:
    """Write a score of the test split with its interval."""
    text = f"{name_metric(name)} {metrics[name]:.4f}"
    if metrics["interval"] is None:
        return text
    low, high = metrics["interval"]
    return f"{text} (95 %: {low:.4f} to {high:.4f})"
