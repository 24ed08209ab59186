"""What an experiment makes when its best head is known, made once: predictions, and so on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from permafrost.cache.disk.locks import locked_folder
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import open_cache
from permafrost.cache.store.recipe import canonical_json
from permafrost.cache.views.features import Features
from permafrost.cache.views.mark import digest_parts
from permafrost.pipeline.audit.audit import ISSUES_NAME, audit
from permafrost.pipeline.audit.audit import SUMMARY_NAME as AUDIT_NAME
from permafrost.pipeline.audit.select import select
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.experiment import CurationOptions, Experiment
from permafrost.pipeline.export.classifier import MODEL_NAME
from permafrost.pipeline.export.export import export
from permafrost.pipeline.models.predict import name_images, predict
from permafrost.pipeline.options import DatasetOptions
from permafrost.pipeline.outputs import read_json, write_json
from permafrost.pipeline.planning.dataset import Dataset, open_dataset
from permafrost.pipeline.sweeps.leaderboard import SUMMARY_NAME as SWEEP_NAME
from permafrost.pipeline.sweeps.sweep import BEST_NAME
from permafrost.stamps import write_stamp

SUMMARY_NAME = "summary.json"
PRODUCTS_NAME = "products.json"
# Of a prediction that was there already, as of an extraction.
_NOTHING_DONE = {"seconds": 0.0, "images_per_second": 0.0, "bytes_written": 0, "computed": 0}
# What was made, and out of what, but for the file itself.
_Made = Callable[[], dict[str, Any]]


class Products:
    """Files that are made after the sweep, unless an earlier run or step made the same.

    Each method returns the figures of the command of its name. Images that are not listed yet are
    listed where that tells what is new.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._out = experiment.sweep.out
        self._model = self._out / BEST_NAME

    def predict(self, number: int, images: Dataset | None = None) -> dict[str, Any]:
        """Classify the images of one of the predictions."""
        wanted = self._experiment.predictions[number]
        listed = images or self._list_images(name_images(wanted.images))
        rows = listed.manifest
        digests = [digest.hex() for digest in rows.digests]
        facts: list[object] = [rows.root, list(rows.paths), digests, rows.labels, rows.extra]
        if wanted.reject or wanted.by:
            facts.append({"reject": wanted.reject, "by": wanted.by})
        known = self._find(wanted.out, [self._fit, facts])
        if known is None:
            return self._make(
                f"predict-{number}",
                wanted.out,
                [self._fit, facts],
                lambda: predict(wanted, dataset=listed),
            )
        return known | _NOTHING_DONE | {"reused": known["computed"] + known["reused"]}

    def export(self, _images: Dataset | None = None) -> dict[str, Any]:
        """Write the best head and its backbones as one model, for any images."""
        out, form = self._experiment.export, self._experiment.export_format
        assert out is not None
        facts = [self._fit, form]
        return self._find(out, facts) or self._make(
            "export", out, facts, lambda: export(self._model, out, form=form)
        )

    def audit(self, images: Dataset | None = None) -> dict[str, Any]:
        """Say what looks wrong in the experiment's own images."""
        options = self._look(self._experiment.audit)
        table, summary = options.out / ISSUES_NAME, options.out / AUDIT_NAME
        facts = self._list_facts(options, images)
        return self._find(table, facts, summary) or self._make(
            "audit", table, facts, lambda: audit(options).figures | {"out": str(options.out)}
        )

    def select(self, images: Dataset | None = None) -> dict[str, Any]:
        """Say which of the experiment's own images to label next."""
        options = self._look(self._experiment.select)
        facts = self._list_facts(options, images)
        return self._find(options.out, facts) or self._make(
            "select", options.out, facts, lambda: select(options).figures
        )

    @property
    def _fit(self) -> object:
        return self._read(f"{BEST_NAME}/{MODEL_NAME}", "fit")

    def _look(self, asked: CurationOptions | None) -> CurationOptions:
        """Return what is asked, on the layer of the best head unless it names its own."""
        first, *_ = self._read(SWEEP_NAME, "configurations")
        assert asked is not None
        return self._experiment.look_at(str(first["layer"]), asked)

    def _read(self, name: str, key: str) -> Any:
        """Return what the sweep left in one of its files."""
        found = (read_json(self._out / name) or {}).get(key)
        if not found:
            raise PipelineError(f"there is no sweep in {str(self._out)!r}; do its step first")
        return found

    def _list_images(self, options: DatasetOptions) -> Dataset:
        with Index(open_cache(self._experiment.cache).index_file) as index:
            return open_dataset(options, index, workers=self._experiment.run.n_threads)

    def _list_facts(self, wanted: CurationOptions, images: Dataset | None) -> list[object]:
        """List all that decides about what is said of the experiment's own images."""
        options = asdict(wanted)
        options["data"].pop("memory_bytes")
        # What could not be read has no features, and is told of as well.
        listed = (images or self._list_images(self._experiment.dataset)).manifest
        unread = [listed.root, list(listed.paths)]
        return [json.loads(json.dumps(options, default=str)), self._features, unread]

    @cached_property
    def _features(self) -> list[str]:
        """Digests of what the files of features say, as `extract` tells them."""
        return list(map(_digest_features, self._experiment.backbones))

    def _find(self, out: Path, facts: list[object], *others: Path) -> dict[str, Any] | None:
        """Return the figures of what is there, if it was made of the same."""
        if not all(one.exists() for one in (out, *others)):
            return None
        known = read_json(self._out / SUMMARY_NAME) or {}
        told = [*(known.get("predictions") or ()), *map(known.get, ("audit", "select", "export"))]
        told += (read_json(self._out / PRODUCTS_NAME) or {}).values()
        key = _digest([str(out), *facts], out)
        return next((one for one in told if isinstance(one, dict) and one.get("key") == key), None)

    def _make(self, name: str, out: Path, facts: list[object], make: _Made) -> dict[str, Any]:
        """Make a file, and keep its figures for whoever asks for the same."""
        figures = make()
        figures |= {"key": _digest([str(out), *facts], out)}
        with locked_folder(self._out):  # as other steps may end now
            file = self._out / PRODUCTS_NAME
            write_json(file, (read_json(file) or {}) | {name: figures})
        return figures


def _digest_features(path: Path) -> str:
    with Features(path) as file:
        columns = [(name, file.column(name)) for name in file.columns]
        layers = [(name, canonical_json(file.recipe(name))) for name in file.layers]
        own = (file.digests, file.paths, file.labels, file.splits)
        return digest_parts([*own, *chain.from_iterable([*columns, *layers])])


def _digest(made_of: object, out: Path) -> str:
    text = json.dumps([made_of, write_stamp(out.stat())], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
