"""What an experiment makes when its best head is known, made once: predictions, and so on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from permafrost.pipeline.audit.audit import ISSUES_NAME
from permafrost.pipeline.audit.audit import SUMMARY_NAME as AUDIT_NAME
from permafrost.pipeline.audit.options import AuditOptions, SelectOptions
from permafrost.pipeline.experiments.curation import audit_images, find_best_layer, select_images
from permafrost.pipeline.experiments.experiment import CurationOptions, Experiment, Prediction
from permafrost.pipeline.export.classifier import MODEL_NAME
from permafrost.pipeline.export.export import export
from permafrost.pipeline.models.predict import TellOptions, predict
from permafrost.pipeline.outputs import read_json
from permafrost.pipeline.planning.dataset import Dataset
from permafrost.stamps import write_stamp

SUMMARY_NAME = "summary.json"
# Of a prediction that was there already, as of an extraction.
_NOTHING_DONE = {"seconds": 0.0, "images_per_second": 0.0, "bytes_written": 0}


class Products:
    """Files that are made after the sweep, unless an earlier run made the same.

    Parameters
    ----------
    experiment : Experiment
    model : Path
        The best head's folder.
    features : sequence of str
        Digests of what its files of features say.
    """

    def __init__(self, experiment: Experiment, model: Path, features: Sequence[str]) -> None:
        self._experiment = experiment
        self._model = model
        self._features = list(features)
        self._fit = (read_json(model / MODEL_NAME) or {}).get("fit")
        known = read_json(experiment.sweep.out / SUMMARY_NAME) or {}
        told = [*(known.get("predictions") or ()), *map(known.get, ("audit", "select", "export"))]
        self._known = {one["key"]: one for one in told if isinstance(one, dict) and "key" in one}

    def predict(self, wanted: Prediction, images: Dataset) -> dict[str, Any]:
        """Return the figures of `predict`."""
        rows = images.manifest
        digests = [digest.hex() for digest in rows.digests]
        facts: list[object] = [rows.root, list(rows.paths), digests, rows.labels, rows.extra]
        if wanted.telling != TellOptions():
            facts.append(dataclasses.asdict(wanted.telling))
        experiment = self._experiment

        def make() -> dict[str, Any]:
            return predict(
                self._model,
                wanted.images,
                out=wanted.out,
                cache=experiment.cache,
                run=experiment.run,
                average_views=experiment.sweep.data.average_views,
                dataset=images,
                telling=wanted.telling,
            )

        figures, is_new = self._make(wanted.out, [self._fit, facts], make)
        if is_new:
            return figures
        n_reused = figures["computed"] + figures["reused"]
        return figures | _NOTHING_DONE | {"computed": 0, "reused": n_reused}

    def export(self, out: Path) -> dict[str, Any]:
        """Return the figures of `export`."""
        form = self._experiment.export_format
        return self._make(out, [self._fit, form], lambda: export(self._model, out, form=form))[0]

    def audit(self, wanted: AuditOptions, images: Dataset) -> dict[str, Any]:
        """Return the figures of `audit`."""
        facts = self._list_facts(wanted, images)
        table, summary = wanted.out / ISSUES_NAME, wanted.out / AUDIT_NAME
        return self._make(table, facts, lambda: audit_images(self._experiment), summary)[0]

    def select(self, wanted: SelectOptions, images: Dataset) -> dict[str, Any]:
        """Return the figures of `select`."""
        facts = self._list_facts(wanted, images)
        return self._make(wanted.out, facts, lambda: select_images(self._experiment))[0]

    def _list_facts(self, wanted: CurationOptions, images: Dataset) -> list[object]:
        """List all that decides about what is said of the experiment's own images."""
        layer = find_best_layer(self._experiment)
        options = dataclasses.asdict(self._experiment.look_at(layer, wanted))
        options["data"].pop("memory_bytes")
        # What could not be read has no features, and is told of as well.
        unread = [images.manifest.root, list(images.manifest.paths)]
        return [json.loads(json.dumps(options, default=str)), self._features, unread]

    def _make(
        self, out: Path, facts: list[object], make: Callable[[], dict[str, Any]], *others: Path
    ) -> tuple[dict[str, Any], bool]:
        """Make a file unless the one that is there was made of the same; say whether it was."""
        made_of = [str(out), *facts]
        if all(one.exists() for one in (out, *others)):
            known = self._known.get(_digest(made_of, out))
            if known is not None:
                return known, False
        figures = make()
        return {**figures, "key": _digest(made_of, out)}, True


def _digest(made_of: object, out: Path) -> str:
    text = json.dumps([made_of, write_stamp(out.stat())], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
