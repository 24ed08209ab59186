"""``audit``: what is suspicious about a dataset, out of its features and its pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.cache.disk.publish import make_folder
from permafrost.pipeline.audit.findings import (
    Table,
    judge_truth,
    list_copies,
    list_labels,
    list_near,
    list_outliers,
    list_patterns,
    list_pictures,
)
from permafrost.pipeline.audit.issues import (
    Issue,
    count_kinds,
    describe_issues,
    sort_issues,
    write_issues,
)
from permafrost.pipeline.audit.options import AuditOptions
from permafrost.pipeline.audit.pictures import look_at_pictures
from permafrost.pipeline.audit.unseen import UnseenLabels, predict_labels
from permafrost.pipeline.extraction.results import read_failures
from permafrost.pipeline.models.fit import open_bench
from permafrost.pipeline.outputs import write_summary
from permafrost.pipeline.progress import tell
from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.pipeline.tasks.task import check_classes
from permafrost.stages.audit.patterns import compare_groups, list_groups, measure_orders
from permafrost.stages.datasets.targets import CLASSIFICATION
from permafrost.stages.errors import InputError
from permafrost.stages.evaluation.neighbours import find_nearest

ISSUES_NAME = "issues.csv"
SUMMARY_NAME = "audit.json"
N_NEIGHBOURS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditResult:
    """What was found; `figures` is what ``audit.json`` holds."""

    issues: list[Issue]
    figures: dict[str, Any]
    out: Path

    def describe(self) -> str:
        """Return a short table for a person."""
        n_images = self.figures["images"]
        head = f"{len(self.issues)} suspicions about {n_images} images → {self.out / ISSUES_NAME}"
        notes = [f"  {note}" for note in self.figures["notes"]]
        return "\n".join([head, *describe_issues(self.issues), *notes])


def audit(options: AuditOptions) -> AuditResult:
    """Look for what is suspicious, and write ``issues.csv`` and ``audit.json``.

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each.
    """
    started_s = time.monotonic()
    candidate = options.choose_candidate()
    notes: list[str] = []
    figures: dict[str, Any] = {
        "layer": options.layer,
        "head": candidate.kind,
        "settings": asdict(candidate.settings),
        "task": options.data.task,
        "target": options.data.target,
        "seed": options.data.seed,
    }
    with options.data.open_files() as files:
        layers = files.find_layers(options.layer)
        table = Table.of(files, options.data.target)
        unseen = _predict(options, files, layers, notes)
        issues = list(_list_unreadable(options))
        issues += list_copies(table)
        figures["source"] = options.images or files.opened[0].place
        figures |= {"images": len(files), "labelled": 0 if unseen is None else len(unseen.rows)}
        if unseen is not None:
            issues += _judge_labels(table, files, unseen, figures, notes)
        pictures = look_at_pictures(files, layers[0], images=options.images, notes=notes)
        figures["pictures"] = int(pictures.known.sum())
        issues += list_pictures(table, pictures)
        tell("audit", "comparing every row with all others")
        nearest = find_nearest(
            files.open_matrix(layers),
            np.arange(len(files)),
            n_best=min(N_NEIGHBOURS, max(1, len(files) - 1)),
            memory_bytes=options.data.memory_bytes,
            is_centred=True,
        )
        issues += list_near(table, nearest, pictures)
        issues += list_outliers(table, nearest)
    issues = sort_issues(issues)
    figures |= {"issues": len(issues), "kinds": count_kinds(issues), "notes": notes}
    figures["seconds"] = round(time.monotonic() - started_s, 3)
    make_folder(options.out)
    write_issues(options.out / ISSUES_NAME, issues)
    write_summary(options.out / SUMMARY_NAME, figures)
    return AuditResult(issues=issues, figures=figures, out=options.out)


def _predict(
    options: AuditOptions, files: FeatureFiles, layers: list[StoredLayer], notes: list[str]
) -> UnseenLabels | None:
    if not any(map(str.strip, files.column(options.data.target))):
        notes.append("no label was checked: no row has one")
        return None
    bench = open_bench(options.data, files, layers)
    check_classes(bench.labelled, options.data)
    if options.data.task == CLASSIFICATION and len(bench.labelled.targets.classes) < 2:
        notes.append("no label was checked: all are the same")
        return None
    tell("audit", "predicting every labelled row by a head that has not seen it")
    try:
        return predict_labels(bench, options.choose_candidate(), n_folds=options.data.cv)
    except InputError as error:
        if options.data.cv is not None:
            raise
        notes.append(f"no label was checked: {error}")
        return None


def _judge_labels(
    table: Table,
    files: FeatureFiles,
    unseen: UnseenLabels,
    figures: dict[str, Any],
    notes: list[str],
) -> Iterator[Issue]:
    wrong, tags = judge_truth(unseen)
    figures["folds"] = unseen.n_folds
    figures["doubted"] = unseen.n_doubted
    figures["wrong_labels"] = int(wrong.is_pruned.sum())
    yield from list_labels(table, unseen, wrong, tags)
    if unseen.targets.task != CLASSIFICATION:
        notes.append("groups and orders are looked at for --task classification alone")
        return
    codes = np.searchsorted(unseen.targets.classes, unseen.targets.values)
    is_right = unseen.outputs.argmax(axis=1) == codes
    figures["accuracy"] = float(is_right.mean())
    columns = {name: files.column(name) for name in files.columns}
    rows = unseen.rows.tolist()
    groups = compare_groups(
        is_right, {name: list_groups([one[row] for row in rows]) for name, one in columns.items()}
    )
    paths = [table.paths[row] for row in rows]
    orders = list(measure_orders(paths, codes, unseen.outputs))
    figures["groups"] = [asdict(one) for one in groups]
    figures["orders"] = [asdict(one) for one in orders]
    yield from list_patterns(groups, orders)


def _list_unreadable(options: AuditOptions) -> Iterator[Issue]:
    """Yield the images that extraction could not read, of which there are no features."""
    told: dict[str, str] = {}
    for file in options.data.features:
        told |= read_failures(file)
    for path, reason in told.items():
        yield Issue(kind="unreadable", score=1.0, path=path, detail=reason)
