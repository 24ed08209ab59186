"""Hostile files: models, weights, heads, views, shards and texts, all refused and nothing run."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from permafrost.cache.errors import CacheError
from permafrost.cache.views.features import Features
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.experiment import read_experiment
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
from permafrost.stages.errors import StageError
from permafrost.stages.heads import load_head
from tests.helpers import hostile, hostile_hdf5, hostile_heads
from tests.resilience.report import Result

_WHAT = "hostile models, weights, heads, views, shards and texts: refused in one line, nothing run"
_TEXTS = {
    "a bomb of aliases": "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]",
    "a bomb of merges": "a: &a {x: 1}\nb: {<<: [*a, *a]}",
    "a tag": "a: !!python/object/apply:os.system [touch it-ran]",
    "a key twice": "cv: 3\ncv: 5",
    "brackets": "[" * 50_000,
    "a number of 5,000 digits": "cv: " + "9" * 5000,
}


def run(seed: int) -> Result:
    """Open each of them once; `seed` is not needed."""
    cases = dict(_list_cases())
    failures = [f"{name}: {why}" for name, case in cases.items() if (why := _try(case))]
    n_refused = len(cases) - len(failures)
    return Result(what=_WHAT, injected=len(cases), survived=n_refused, failures=failures)


def _try(case: Callable[[Path], object]) -> str | None:
    """Return what is wrong with how a hostile file was met."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = Path(name).resolve()
        try:
            case(folder)
        except (StageError, CacheError, PipelineError) as error:
            ran = list(folder.rglob(hostile.EVIDENCE))
            return "its code ran" if ran else "its error has several lines" * ("\n" in str(error))
        except Exception as error:  # noqa: BLE001 - it is what is looked for
            return f"{type(error).__name__}: {error}"
    return "it was taken"


def _list_cases() -> Iterator[tuple[str, Callable[[Path], object]]]:
    for name, write in hostile.MODEL_FILES.items():
        yield f"model, {name}", functools.partial(_load, write)
    for kind, changes in (("logreg", hostile_heads.ESTIMATORS), ("mlp", hostile_heads.NETWORKS)):
        for name, change in changes.items():
            yield f"{kind}, {name}", functools.partial(_load_head, kind, change)
    for what, views in (
        ("view", hostile_hdf5.VIEWS),
        ("values", hostile_hdf5.MATERIALIZED),
        ("shard", hostile_hdf5.SHARDS),
    ):
        for name, change in views.items():
            yield f"{what}, {name}", functools.partial(_read, what, change)
    for name, text in _TEXTS.items():
        yield f"experiment, {name}", functools.partial(_read_text, text)


@functools.cache
def _make_sample(kind: str) -> Path:
    """Write what nothing is wrong with, once."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    atexit.register(shutil.rmtree, folder)
    if kind in ("logreg", "mlp"):
        return hostile_heads.write_head(folder, kind)
    hostile_hdf5.write_cache(folder, materialize=kind == "values")
    return folder


def _load(write: hostile.Writer, folder: Path) -> None:
    load_backbone(BackboneRequest(backbone=parse_backbone(str(write(folder)))))


def _load_head(kind: str, change: hostile_heads.Change, folder: Path) -> None:
    shutil.copytree(_make_sample(kind), folder / "head")
    change(folder / "head")
    load_head(folder / "head")


def _read(what: str, change: hostile_hdf5.Change, folder: Path) -> None:
    shutil.copytree(_make_sample(what), folder, dirs_exist_ok=True)
    view, shard = folder / "features.h5", next(folder.rglob("shard-*.h5"))
    hostile_hdf5.change_file(shard if what == "shard" else view, change, folder)
    with Features(view) as features:
        _ = features.paths, features.labels, features.splits, features.root, features.origin
        _ = [features.column(name) for name in features.columns]
        _ = features.recipe(hostile_hdf5.LAYER), features.folder(hostile_hdf5.LAYER)
        features.read(hostile_hdf5.LAYER)


def _read_text(text: str, folder: Path) -> None:
    (folder / "experiment.yaml").write_text(text)
    read_experiment(folder / "experiment.yaml")
