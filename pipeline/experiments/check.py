"""All that can be found wrong with an experiment, found before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from permafrost.cache.disk.publish import make_folder, temporary_folder
from permafrost.cache.errors import NotAViewError
from permafrost.cache.shards.format import RowFormat
from permafrost.cache.shards.locations import join_digests
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout, open_cache
from permafrost.cache.store.recipe import Recipe
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.curation import check_curation
from permafrost.pipeline.experiments.experiment import Experiment, naming
from permafrost.pipeline.export.export import check_export_file, check_preset, share_pixels
from permafrost.pipeline.models.answers import check_reject
from permafrost.pipeline.models.predict import check_predictions_file, name_images
from permafrost.pipeline.models.record import check_by
from permafrost.pipeline.planning.dataset import Dataset, open_dataset
from permafrost.pipeline.planning.prepare import prepare
from permafrost.pipeline.sweeps.journal import Journal
from permafrost.pipeline.sweeps.plan import find_missing, plan_configurations, plan_rows
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.engines.support import check_precision
from permafrost.stages.export.formats import choose_format
from permafrost.stages.heads import HEADS

if TYPE_CHECKING:
    from permafrost.cache.views.features import Features


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What checking an experiment found.

    Attributes
    ----------
    n_fits : int
        Those of the sweep that are not done yet.
    n_computed : dict of Path to int
        How many images go through each backbone, by the ``features.h5`` to come.
    """

    dataset: Dataset
    new: tuple[Dataset, ...]
    n_configurations: int
    n_fits: int
    n_computed: Mapping[Path, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlannedFeatures:
    """A ``features.h5`` that is still to be written, as far as it is known: all but the values."""

    path: Path
    manifest: Manifest
    origin: str = ""
    formats: Mapping[str, tuple[Recipe, RowFormat]] = field(default_factory=dict)
    cache: Path | None = None
    n_computed: int = 0

    @property
    def layers(self) -> list[str]:
        return sorted(self.formats)

    @property
    def columns(self) -> list[str]:
        return sorted(self.manifest.extra)

    @property
    def paths(self) -> Sequence[str]:
        return self.manifest.paths

    @property
    def digests(self) -> np.ndarray:
        return join_digests(self.manifest.digests)

    def column(self, name: str) -> Sequence[str]:
        manifest = self.manifest
        own = {"path": manifest.paths, "label": manifest.labels, "split": manifest.splits}
        found = {**manifest.extra, **own}
        if name not in found:
            there = ", ".join(map(repr, (*own, *self.columns)))
            raise NotAViewError(f"the images have no column {name!r}; they have: {there}")
        return found[name]

    def recipe(self, layer: str) -> Recipe:
        return self.formats[layer][0]

    def shape(self, layer: str) -> tuple[int, ...]:
        return self.formats[layer][1].shape

    def folder(self, layer: str) -> Path | None:
        return self.cache and CacheLayout(self.cache).feature_set_folder(self.recipe(layer))


def check_experiment(experiment: Experiment, *, dry: bool = False) -> Checked:
    """Look at everything that an experiment names: what takes longest comes last.

    Images are listed and hashed, and backbones that the cache does not know are loaded; both is
    remembered there. What a sweep would refuse is found by planning it.

    Parameters
    ----------
    dry : bool
        Whether to create neither the folders that will be written into nor a cache, and so not to
        try whether that can be done.

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each, with file and key.
    """
    file = experiment.file
    with naming(str(file)):
        _check_outputs(experiment)
        if not dry:
            _check_folders(experiment)
        layout = CacheLayout(experiment.cache)
        if experiment.cache.exists() or not dry:
            layout = open_cache(experiment.cache)
        with Index(layout.index_file if layout.root.exists() else None) as index:
            workers = experiment.run.n_threads
            dataset = open_dataset(experiment.dataset, index, workers=workers)
            paths = list(experiment.backbones)
            planned = [_plan(path, dataset, ()) for path in paths]
            with _open(planned, experiment) as files:
                plan_rows(experiment.sweep, files)
            new = []
            for number, one in enumerate(experiment.predictions):
                with naming(f"predict.{number}.images"):
                    new.append(open_dataset(name_images(one.images), index, workers=workers))
                with naming(f"predict.{number}"):
                    task, columns = experiment.sweep.data.task, sorted(new[-1].manifest.extra)
                    check_by(one.by, task, columns)
                    check_reject(one.reject, task=task, classes=dataset.manifest.labels)
            planned = [
                _check_backbone(experiment, number, dataset, layout, index)
                for number in range(len(paths))
            ]
        with _open(planned, experiment) as files:
            rows = plan_rows(experiment.sweep, files)
            check_curation(experiment, files)
            configurations = plan_configurations(experiment.sweep, files, rows)
            journal = Journal(experiment.sweep.out)
            missing = find_missing(configurations, journal, n_folds=rows.n_folds)
            if missing:
                rows.make_folds(files)  # which tells whether there are such folds
            if experiment.export is not None:
                layers = dict.fromkeys(one.layer for one in configurations)
                # The presets of a finished experiment were checked before.
                _check_export(experiment, files, list(layers), checks_presets=bool(missing))
    return Checked(
        dataset=dataset,
        new=tuple(new),
        n_configurations=len(configurations),
        n_fits=len(missing),
        n_computed={one.path: one.n_computed for one in planned},
    )


def _open(planned: Sequence[_PlannedFeatures], experiment: Experiment) -> FeatureFiles:
    known = {one.path: one for one in planned}
    data = experiment.sweep.data
    return FeatureFiles(
        list(known),
        group=data.group,
        classes=data.classes,
        column=data.target,
        # It is asked for nothing but what is known.
        open_file=lambda path: nullcontext(cast("Features", known[path])),
    )


def _check_folders(experiment: Experiment) -> None:
    check_folder(experiment.sweep.out, "out")
    for number, one in enumerate(experiment.predictions):
        check_folder(one.out.parent, f"predict.{number}.out")
    if experiment.audit is not None:
        check_folder(experiment.audit.out, "audit.out")
    if experiment.select is not None:
        check_folder(experiment.select.out.parent, "select.out")
    if experiment.export is not None:
        check_folder(experiment.export.parent, "export")


def _check_outputs(experiment: Experiment) -> None:
    for number, one in enumerate(experiment.predictions):
        with naming(f"predict.{number}.out"):
            check_predictions_file(one.out)
    if experiment.export is None:
        return
    with naming("export"):
        check_export_file(experiment.export, experiment.export_format)
    if experiment.sweep.answer.calibrate == "isotonic":
        raise PipelineError(
            "export: what is calibrated as isotonic cannot be exported; choose temperature or"
            " sigmoid, or leave export out"
        )
    for head in experiment.sweep.candidates:
        if HEADS[head.kind].keeps_rows:
            raise PipelineError(
                f"export: {head.kind} consists of training rows and cannot be exported if it comes"
                " first; leave out that head, or export"
            )
    for number, features in enumerate(experiment.backbones.values()):
        if Path(features.backbone).is_dir():
            raise PipelineError(
                f"export: backbones.{number}, {features.backbone!r}, is a SavedModel folder and"
                " cannot be exported; leave it or export out, or save it as a .keras file"
            )


def check_folder(folder: Path, key: str) -> None:
    """Raise PipelineError where nothing can be written."""
    try:
        make_folder(folder.absolute())
        with temporary_folder(folder):
            pass
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise PipelineError(
            f"{key}: cannot write into the folder {str(folder)!r} ({str(error.strerror).lower()});"
            " choose another, or make room for it"
        ) from error


def _check_backbone(
    experiment: Experiment, number: int, dataset: Dataset, layout: CacheLayout, index: Index
) -> _PlannedFeatures:
    path, features = list(experiment.backbones.items())[number]
    with naming(f"backbones.{number}"):
        prepared = prepare(experiment.extract(features), layout, index, dataset=dataset)
        if prepared.plan.digests:
            check_precision(features.engine, features.precision)
    formats = {str(one.spec): (one.recipe, one.row) for one in prepared.plan.layers}
    planned = _plan(path, dataset, prepared.failures, formats)
    return replace(
        planned,
        origin=features.to_json(),
        cache=experiment.cache,
        n_computed=len(prepared.plan.digests),
    )


def _plan(
    path: Path,
    dataset: Dataset,
    failures: Sequence[bytes] | Mapping[bytes, str],
    formats: Mapping[str, tuple[Recipe, RowFormat]] | None = None,
) -> _PlannedFeatures:
    digests = dataset.manifest.digests
    kept = [row for row, digest in enumerate(digests) if digest and digest not in failures]
    if not kept:
        raise PipelineError(f"none of the {len(digests)} images can be read; name others")
    manifest = dataset.manifest.select(kept)
    return _PlannedFeatures(path=path, manifest=manifest, formats=formats or {})


def _check_export(
    experiment: Experiment, files: FeatureFiles, layers: Sequence[str], *, checks_presets: bool
) -> None:
    """Raise where the best head on one of these layers could not be exported."""
    assert experiment.export is not None
    with naming("export"):
        for layer in layers:
            share_pixels([(str(one.spec), one.recipe) for one in files.find_layers(layer)])
        form = choose_format(experiment.export, experiment.export_format)
        for number, features in enumerate(experiment.backbones.values() if checks_presets else ()):
            with naming(f"backbones.{number}"):
                check_preset(features, form)
