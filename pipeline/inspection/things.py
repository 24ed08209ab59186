"""``show``: what a thing is, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from permafrost.cache.store.layout import CacheLayout
from permafrost.command import COMMAND
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.products import SUMMARY_NAME as RUN_NAME
from permafrost.pipeline.export.classifier import MODEL_NAME
from permafrost.pipeline.inspection.datasets import show_features, show_manifest
from permafrost.pipeline.inspection.results import show_model, show_run, show_sweep
from permafrost.pipeline.inspection.sets import show_cache
from permafrost.pipeline.sweeps.leaderboard import SUMMARY_NAME as SWEEP_NAME
from permafrost.pipeline.tables import Table
from permafrost.stages.sources.folder import IMAGE_SUFFIXES

Told = tuple[list[str | Table], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What a thing may be: how it is told, and what describes it."""

    is_it: Callable[[Path], bool]
    describe: Callable[[Path], Told]


def _has(name: str) -> Callable[[Path], bool]:
    return lambda thing: (thing / name).is_file()


def _ends(*suffixes: str) -> Callable[[Path], bool]:
    return lambda thing: thing.is_file() and thing.suffix.lower() in suffixes


def _show_experiment(file: Path) -> Told:
    from permafrost.pipeline.experiments.experiment import read_experiment

    out = read_experiment(file).sweep.out
    if not (out / RUN_NAME).is_file():
        raise PipelineError(
            f"{str(file)!r} has left nothing in {str(out)!r} yet; do it with: {COMMAND} run {file}"
        )
    return show_run(out)


# By what is_it, the first that fits: a run's folder is a sweep's, too.
_KINDS = {
    "model": _Kind(is_it=_has(MODEL_NAME), describe=show_model),
    "run": _Kind(is_it=_has(RUN_NAME), describe=show_run),
    "sweep": _Kind(is_it=_has(SWEEP_NAME), describe=show_sweep),
    "cache": _Kind(
        is_it=lambda thing: CacheLayout(thing).format_file.is_file(), describe=show_cache
    ),
    "manifest": _Kind(is_it=_ends(".csv"), describe=show_manifest),
    "experiment": _Kind(is_it=_ends(".yaml", ".yml"), describe=_show_experiment),
    "features": _Kind(is_it=_ends(".h5", ".hdf5"), describe=show_features),
}
_KNOWN = (
    "a cache, a features.h5, the folder of a fit, a sweep or a run, a manifest.csv or an"
    " experiment.yaml"
)


def show(thing: Path) -> Told:
    """Describe a file or folder that this project makes.

    Returns
    -------
    list of str or Table
        For a person.
    dict
        As JSON: ``thing``, ``what`` it is, and more.

    Raises
    ------
    PipelineError
        It is nothing that is known here.
    StageError, CacheError
        It is damaged.
    """
    for what, kind in _KINDS.items():
        if kind.is_it(thing):
            parts, figures = kind.describe(thing)
            return parts, {"thing": str(thing), "what": what} | figures
    if not thing.exists():
        raise PipelineError(f"there is no {str(thing)!r}; name {_KNOWN}")
    if thing.suffix.lower() in IMAGE_SUFFIXES:
        raise PipelineError(
            f"{str(thing)!r} is an image; see where a head looks with: {COMMAND} show --image"
            f" {thing} --model DIR"
        )
    raise PipelineError(f"{str(thing)!r} is nothing that show knows; name {_KNOWN}")
