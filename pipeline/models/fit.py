"""``fit``: one head on one layer of cached features, measured on rows it has not seen."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from permafrost.cache.disk.locks import locked_folder
from permafrost.cache.disk.publish import make_folder, remove_durably
from permafrost.cache.store.derived import Artefacts
from permafrost.pipeline.export.classifier import (
    METRICS_NAME,
    MODEL_NAME,
    PREDICTIONS_NAME,
    save_classifier,
)
from permafrost.pipeline.export.export import write_backbone
from permafrost.pipeline.models.answers import Answers, describe_groups
from permafrost.pipeline.models.checkpoint import find_checkpoint, forget_checkpoints, write_epochs
from permafrost.pipeline.models.kept import describe_kept, list_kept, shorten_layers
from permafrost.pipeline.models.measure import (
    Bench,
    measure_head,
    name_metric,
    plan_trial,
    warn_of_parted_groups,
)
from permafrost.pipeline.models.record import FitOptions, build_record, check_by, tell_views
from permafrost.pipeline.models.unseen import UnseenRows, keep_unseen, name_unseen
from permafrost.pipeline.outputs import read_json, write_json
from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.pipeline.tasks.rows import FeatureFiles, read_labels
from permafrost.pipeline.tasks.task import TaskOptions, check_classes
from permafrost.pipeline.tasks.views import list_views
from permafrost.pipeline.units import describe_seconds
from permafrost.stages.backbones.applications import FITTED_NETWORK
from permafrost.stages.datasets.targets import order_classes
from permafrost.stages.errors import StageError
from permafrost.stages.evaluation.crossfit import Trial
from permafrost.stages.evaluation.folds import plan_calibration
from permafrost.stages.evaluation.metrics import PRIMARY
from permafrost.stages.heads import HEADS, Head, fit_head

_log = logging.getLogger(__name__)


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
        if found.get("by"):
            lines.append(describe_groups(found["by"]))
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
    candidate = options.make_candidate()
    with options.data.open_files() as files:
        check_by(options.answer.by, options.data.task, files.columns)
        layers = files.find_layers(options.layer)
        bench = open_bench(options.data, files, layers)
        check_classes(bench.labelled, options.data)
        # Before anything is fitted, as there may be no such folds.
        record = build_record(options, candidate, files, layers)
        trial = _plan_folds(bench, options, record["fit"])
        train = bench.stack(bench.labelled.train)
        calibration = plan_calibration(
            candidate.calibration, bench.targets.select(train), bench.groups[train], seed=bench.seed
        )
        make_folder(options.out)
        head = fit_head(
            candidate.kind,
            candidate.settings,
            bench.matrix,
            bench.targets,
            train=train,
            groups=bench.groups,
            seed=bench.seed,
            memory_bytes=bench.memory_bytes,
            store=bench.store,
            checkpoint=find_checkpoint(options.out, record["fit"], None),
            calibration=calibration,
        )
        found = measure_head(candidate, bench, head, trial)
        metrics = found.metrics
        metrics["seconds"] = round(time.monotonic() - started_s, 3)
        metrics |= {
            "head": options.head,
            "layer": record["layer"],
            "task": options.data.task,
            "target": options.data.target,
            "seed": options.data.seed,
            "settings": dataclasses.asdict(candidate.settings),
            "classes": head.classes.tolist(),
            "data": options.asked,
            **tell_views(bench.views, average_views=bench.averages),
        }
        if head.calibration is not None:
            metrics["calibration"] = head.calibration.method
        if options.head == "head2toe":
            metrics["kept"] = list_kept(head, layers, bench.matrix.widths)
        told = _tell_unseen(options, files, found.unseen)
        metrics |= told.measure(options.answer.by, seed=options.data.seed)
        _order_classes(metrics, options.data.classes or ())
        # Two fits at once into one folder would leave the head of one with the record of another.
        with locked_folder(options.out):
            remove_durably(options.out / MODEL_NAME)
            told.write(options.out / PREDICTIONS_NAME, by=options.answer.by)
            write_json(options.out / METRICS_NAME, metrics)
            write_epochs(options.out, found.epochs)
            if trial is not None and found.everything is not None:
                key = name_unseen(record["fit"], len(trial.folds))
                keep_unseen(options.out, found.everything, key=key)
            # That of an earlier fit would be another backbone than this head.
            remove_durably(options.out / FITTED_NETWORK)
            if HEADS[candidate.kind].is_network:
                _keep_network(options.out, head, record)
            # Its last file vouches for the others.
            save_classifier(options.out, head, record)
        forget_checkpoints(options.out)
    return FitResult(metrics=metrics, out=options.out)


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


def _tell_unseen(options: FitOptions, files: FeatureFiles, unseen: UnseenRows) -> Answers:
    column, by = files.column(options.data.target), options.answer.by
    keys = files.column(by) if by else []
    return Answers(
        paths=[files.paths[row] for row in unseen.rows],
        labels=[column[row] for row in unseen.rows],
        outputs=unseen.outputs,
        classes=unseen.classes,
        task=options.data.task,
        order=options.data.classes or (),
        keys=[keys[row] for row in unseen.rows] if by else [],
    )


def find_fit(options: FitOptions) -> FitResult | None:
    """Return what an earlier fit left, if it was fitted on the same rows in the same way."""
    candidate = options.make_candidate()
    with options.data.open_files() as files:
        record = build_record(options, candidate, files, files.find_layers(options.layer))
    known = read_json(options.out / MODEL_NAME)
    metrics = read_json(options.out / METRICS_NAME)
    if known is None or metrics is None or known.get("fit") != record["fit"]:
        return None
    if not (options.out / PREDICTIONS_NAME).exists():
        return None
    if known != record:
        # The backbone's file has moved.
        write_json(options.out / MODEL_NAME, record)
    if metrics.get("data") != json.loads(json.dumps(options.asked)):
        # The files with the features have moved.
        metrics["data"] = options.asked
        write_json(options.out / METRICS_NAME, metrics)
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


def describe_score(name: str, metrics: Mapping[str, Any]) -> str:
    """Write a score of the test split with its interval."""
    text = f"{name_metric(name)} {metrics[name]:.4f}"
    if metrics["interval"] is None:
        return text
    low, high = metrics["interval"]
    return f"{text} (95 %: {low:.4f} to {high:.4f})"
