"""What ``fit`` left, opened again with the rows it was fitted on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.export.classifier import METRICS_NAME, MODEL_NAME
from permafrost.pipeline.models.fit import find_fit, open_bench
from permafrost.pipeline.models.measure import Bench, cross_validate, plan_trial
from permafrost.pipeline.models.record import FitOptions
from permafrost.pipeline.models.unseen import (
    UnseenRows,
    join_unseen,
    keep_unseen,
    name_unseen,
    recall_unseen,
)
from permafrost.pipeline.outputs import read_json
from permafrost.pipeline.tasks.task import TaskOptions, count_folds
from permafrost.stages.evaluation.fold_task import Candidate
from permafrost.stages.heads import HEADS, load_head
from permafrost.warn import warn_once


@dataclass(frozen=True, slots=True, kw_only=True)
class ReopenedFit:
    """A fitted head, and all that measuring it on other folds takes.

    Attributes
    ----------
    key : str
        Digest of all that the fit depends on.
    """

    folder: Path
    options: TaskOptions
    candidate: Candidate
    bench: Bench
    metrics: dict[str, Any]
    key: str

    @property
    def is_network(self) -> bool:
        """Whether fitting it again on folds would take hours."""
        return HEADS[self.candidate.kind].is_network


@contextmanager
def reopen_fit(folder: Path, *, memory_bytes: int | None = None) -> Iterator[ReopenedFit]:
    """Open what ``fit`` left, for as long as the context lasts.

    Parameters
    ----------
    memory_bytes : int, optional
        Budget for features in memory; that of the fit by default.

    Raises
    ------
    PipelineError
        The folder holds no fitted head, one of an earlier version, or one whose features have
        changed since.
    CacheError
        A file of features is missing or damaged.
    """
    metrics, record = read_json(folder / METRICS_NAME), read_json(folder / MODEL_NAME)
    if metrics is None or record is None:
        raise PipelineError(f"{str(folder)!r} holds no fitted model; name what fit --out wrote")
    try:
        asked = FitOptions.read(metrics, folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise PipelineError(
            f"{str(folder / METRICS_NAME)!r} does not say which features it is of; fit again"
        ) from error
    options = asked.data
    if find_fit(asked) is None:
        names = " and ".join(repr(str(file)) for file in options.features)
        raise PipelineError(f"{names} have changed since {str(folder)!r} was fitted; fit again")
    if memory_bytes is not None:
        options = replace(options, memory_bytes=memory_bytes)
    with options.open_files() as files:
        yield ReopenedFit(
            folder=folder,
            options=options,
            candidate=asked.make_candidate(),
            bench=open_bench(options, files, files.find_layers(asked.layer)),
            metrics=metrics,
            key=str(record["fit"]),
        )


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Warn where something cannot be kept beside a head, and go on: nothing depends on it."""
    try:
        yield
    except OSError as error:
        warn_once(
            f"cannot keep what a head says in {str(folder)!r} ({error.strerror or error}); it is"
            " worked out again each time"
        )


def predict_unseen(fit: ReopenedFit, *, n_folds: int | None = None) -> UnseenRows | None:
    """Predict every labelled row: those of the folds out of fold, those for testing by the head.

    What was predicted is kept beside the head, and found there the next time.

    Parameters
    ----------
    n_folds : int, optional
        Over all rows outside the test split; as many as the fit was asked for by default, or five.

    Returns
    -------
    UnseenRows or None
        None of a network that was never measured on these folds, since training it takes hours.
    """
    bench = fit.bench
    n_folds = n_folds or fit.options.cv or count_folds(bench.labelled, bench.files)
    key = name_unseen(fit.key, n_folds)
    known = recall_unseen(fit.folder, key=key)
    if known is not None or fit.is_network:
        return known
    trial = plan_trial(bench, n_folds=n_folds)
    _, out_of_fold, _ = cross_validate(fit.candidate, trial)
    head = load_head(fit.folder / "head")
    tested = bench.predict(head, bench.labelled.test), head.classes
    found = join_unseen(bench.labelled, trial.folds, out_of_fold, tested)
    with keeping(fit.folder):
        keep_unseen(fit.folder, found, key=key)
    return found
