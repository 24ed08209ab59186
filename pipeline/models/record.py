"""What ``model.json`` says of a fit, and what is asked of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.pipeline.tasks.rows import JOINED_BY, FeatureFiles, read_labels
from permafrost.pipeline.tasks.task import Scaling, TaskOptions, digest_fit, digest_rows
from permafrost.pipeline.tasks.views import list_views
from permafrost.stages.evaluation.fold_task import Candidate


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

    @property
    def asked(self) -> dict[str, object]:
        """What ``metrics.json`` keeps of what was asked for, besides the head."""
        return {"layer": self.layer, **self.data.to_dict(self.out)}

    @classmethod
    def read(cls, metrics: Mapping[str, Any], out: Path) -> FitOptions:
        """Read what was asked for out of ``metrics.json``.

        Raises
        ------
        KeyError, TypeError, AttributeError
            It does not say.
        """
        data = dict(metrics["data"])
        return cls(
            layer=data.pop("layer"),
            data=TaskOptions.from_dict(data, out),
            head=metrics["head"],
            settings=metrics["settings"],
            out=out,
        )


def build_record(
    options: FitOptions, candidate: Candidate, files: FeatureFiles, layers: Sequence[StoredLayer]
) -> dict[str, Any]:
    """Build ``model.json``: what `predict` needs, and a digest of all that the fit depends on."""
    return ({"classes": list(options.data.classes)} if options.data.classes else {}) | {
        **tell_views(list_views(layers)),
        "task": options.data.task,
        "target": options.data.target,
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


def tell_views(views: Sequence[str], **others: object) -> dict[str, object]:
    """Return what is kept of views, where there are several."""
    return {"views": list(views), **others} if len(views) > 1 else {}
