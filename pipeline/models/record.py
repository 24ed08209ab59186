"""What ``model.json`` says of a fit, and what is asked of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import OUT, declare
from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.pipeline.tasks.rows import JOINED_BY, FeatureFiles, read_labels
from permafrost.pipeline.tasks.task import (
    TaskOptions,
    decide_scaling,
    digest_fit,
    digest_rows,
    make_candidate,
)
from permafrost.pipeline.tasks.views import list_views
from permafrost.stages.datasets.targets import CLASSIFICATION
from permafrost.stages.errors import UnknownNameError
from permafrost.stages.evaluation.fold_task import Candidate
from permafrost.stages.heads import CALIBRATIONS, HEADS

BY_HELP = "average what is said of images with one value in a column, as patient"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """How the head that is kept answers, and is measured besides."""

    calibrate: str = declare(
        "none",
        nargs="?",
        const="auto",
        choices=CALIBRATIONS,
        help="calibrate probabilities, on folds within the training rows (alone: sigmoid of two"
        " classes, temperature of several)",
    )
    by: str | None = declare(None, metavar="COLUMN", help=BY_HELP)

    def __post_init__(self) -> None:
        if self.calibrate not in CALIBRATIONS:
            raise UnknownNameError("calibration", self.calibrate, CALIBRATIONS)

    def to_dict(self) -> dict[str, str]:
        """Return what was asked for, without what is as by default."""
        given = {"calibrate": self.calibrate, "by": self.by}
        return {name: value for name, value in given.items() if value and value != "none"}


def check_by(by: str | None, task: str, columns: Sequence[str]) -> None:
    """Raise where nothing can be averaged by a column, or the images' table has no such column.

    Raises
    ------
    UnknownNameError
        There is no such column.
    PipelineError
        Nothing but probabilities of classes is averaged.
    """
    if by is None:
        return
    if task != CLASSIFICATION:
        raise PipelineError(f"--by goes with --task {CLASSIFICATION}; drop one of the two")
    if by not in columns:
        raise UnknownNameError("column", by, columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """What ``fit`` is asked for.

    Attributes
    ----------
    settings : mapping of str to object
        As typed (``"0.1"``) or as YAML gives them (``0.1``).
    """

    data: TaskOptions = field(metadata={"options": TaskOptions})
    layer: str = field(
        metadata={"metavar": "SPEC", "help": "as block5_pool:avg; A+B joins two, all joins all"}
    )
    head: str = field(metadata={"metavar": "HEAD", "help": ", ".join(HEADS)})
    settings: Mapping[str, object] = field(default_factory=dict)
    out: Path = field(metadata=OUT)
    answer: AnswerOptions = field(
        default_factory=AnswerOptions, metadata={"options": AnswerOptions}
    )

    def make_candidate(self) -> Candidate:
        """Return the head that is asked for, see `task.make_candidate`."""
        return make_candidate(
            self.head, self.settings, task=self.data.task, calibration=self.answer.calibrate
        )

    @property
    def asked(self) -> dict[str, object]:
        """What ``metrics.json`` keeps of what was asked for, besides the head."""
        return {"layer": self.layer, **self.data.to_dict(self.out), **self.answer.to_dict()}

    @classmethod
    def read(cls, metrics: Mapping[str, Any], out: Path) -> FitOptions:
        """Read what was asked for out of ``metrics.json``.

        Raises
        ------
        KeyError, TypeError, AttributeError
            It does not say.
        """
        data = dict(metrics["data"])
        answer = {name: data.pop(name) for name in ("calibrate", "by") if name in data}
        return cls(
            answer=AnswerOptions(**answer),
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
            {"layer": str(layer.spec), "recipe": layer.recipe, "features": files.read_origin(layer)}
            for layer in layers
        ],
        "fit": digest_fit(
            digest_rows(options.data, files, by=options.answer.by),
            layers,
            candidate,
            scalings=_list_scalings(options.data, files, layers, candidate.kind),
            above=files.open_matrix(layers).origin.above,
        ),
    }


def _list_scalings(
    options: TaskOptions, files: FeatureFiles, layers: Sequence[StoredLayer], kind: str
) -> list[bool | None]:
    """Decide for the head that is kept, and for those on folds."""
    labelled = read_labels(files, task=options.task, column=options.target)
    n_features, n_views = files.open_matrix(layers).shape[1], len(list_views(layers))
    rows = [labelled.train] if options.cv is None else [labelled.train, labelled.folds]
    return [
        decide_scaling(
            kind,
            (len(some) * n_views, n_features),
            is_kept=some is labelled.train,
            memory_bytes=options.memory_bytes,
        )
        for some in rows
    ]


def tell_views(views: Sequence[str], **others: object) -> dict[str, object]:
    """Return what is kept of views, where there are several."""
    return {"views": list(views), **others} if len(views) > 1 else {}
