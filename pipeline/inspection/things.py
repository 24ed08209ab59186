"""``show``: what a thing is, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from permafrost.cache.store.layout import CacheLayout
from permafrost.command import COMMAND
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.products import SUMMARY_NAME as RUN_NAME
from permafrost.pipeline.export.classifier import MODEL_NAME
from permafrost.pipeline.inspection.datasets import show_features, show_manifest
from permafrost.pipeline.inspection.results import Told, show_model, show_run, show_sweep
from permafrost.pipeline.inspection.sets import show_cache
from permafrost.pipeline.sweeps.leaderboard import SUMMARY_NAME as SWEEP_NAME
from permafrost.stages.sources.folder import IMAGE_SUFFIXES


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


# What tells that a thing is of a kind, and what describes it. The first that fits counts: a run's
# folder is a sweep's, too.
_KINDS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Told]]] = {
    "model": (_has(MODEL_NAME), show_model),
    "run": (_has(RUN_NAME), show_run),
    "sweep": (_has(SWEEP_NAME), show_sweep),
    "cache": (lambda thing: CacheLayout(thing).format_file.is_file(), show_cache),
    "manifest": (_ends(".csv"), show_manifest),
    "experiment": (_ends(".yaml", ".yml"), _show_experiment),
    "features": (_ends(".h5", ".hdf5"), show_features),
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
    for what, (is_it, describe) in _KINDS.items():
        if is_it(thing):
            parts, figures = describe(thing)
            return parts, {"thing": str(thing), "what": what} | figures
    if not thing.exists():
        raise PipelineError(f"there is no {str(thing)!r}; name {_KNOWN}")
    if thing.suffix.lower() in IMAGE_SUFFIXES:
        raise PipelineError(
            f"{str(thing)!r} is an image; see where a head looks with: {COMMAND} show --image"
            f" {thing} --model DIR"
        )
    raise PipelineError(f"{str(thing)!r} is nothing that show knows; name {_KNOWN}")
