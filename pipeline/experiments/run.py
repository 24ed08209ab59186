"""``run``: index → extract → fit of several heads, from one file, doing only what is missing."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from permafrost.cache.disk.publish import make_folder
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.schema import BackboneSection, Experiment
from permafrost.pipeline.extraction.extract import extract
from permafrost.pipeline.extraction.summary import ExtractSummary
from permafrost.pipeline.models.fit import FitOptions, FitResult, find_fit, fit
from permafrost.pipeline.models.measure import name_metric
from permafrost.pipeline.models.task import TaskOptions, choose_folds
from permafrost.pipeline.options import RunOptions
from permafrost.pipeline.outputs import write_json
from permafrost.pipeline.sweeps.leaderboard import place
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.layers import parse_layer_specs
from permafrost.stages.evaluation.fold_task import explain_failure
from permafrost.stages.evaluation.metrics import PRIMARY

SUMMARY_NAME = "summary.json"
# What a terminal shows without scrolling.
_MOST_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentResult:
    """What an experiment gave.

    Attributes
    ----------
    extractions : list of ExtractSummary
        One for each backbone.
    fits : list of FitResult
        Best first, by the folds, or by the val split where there are none; never by the test split.
    n_fitted : int
        How many were fitted now; the others were there already.
    out : Path
    """

    extractions: list[ExtractSummary]
    fits: list[FitResult]
    n_fitted: int
    out: Path

    def to_dict(self) -> dict[str, object]:
        """Return the figures as a JSON object."""
        return {
            "extractions": [asdict(summary) for summary in self.extractions],
            "fits": [result.metrics | {"out": str(result.out)} for result in self.fits],
            "fitted": self.n_fitted,
            "out": str(self.out),
        }

    def describe(self) -> str:
        """Return the table of heads, best first."""
        lines = [summary.describe() for summary in self.extractions]
        metric = name_metric(PRIMARY[self.fits[0].metrics["task"]])
        n_folds = self.fits[0].metrics.get("cv_folds")
        chosen_on = "the val split" if n_folds is None else f"{n_folds} folds"
        order = f"best first, by {metric} on {chosen_on}" if len(self.fits) > 1 else "it is"
        lines.append(f"{len(self.fits)} heads, {self.n_fitted} fitted now; {order}:")
        shown = self.fits[:_MOST_SHOWN]
        lines += [f"  {_measured(result.metrics)}  {result.out}" for result in shown]
        if len(shown) < len(self.fits):
            n_more = len(self.fits) - len(shown)
            lines.append(f"  and {n_more} more in {self.out / SUMMARY_NAME}")
        return "\n".join(lines)


def _measured(metrics: dict[str, Any]) -> str:
    name = PRIMARY[metrics["task"]]
    parts = []
    if metrics.get(f"cv_{name}_mean") is not None:
        mean, std = metrics[f"cv_{name}_mean"], metrics[f"cv_{name}_std"]
        parts.append(f"cv {mean:.4f} ± {std:.4f}")
    elif metrics.get(f"val_{name}") is not None:
        parts.append(f"val {metrics[f'val_{name}']:.4f}")
    if metrics.get(name) is not None:
        parts.append(f"test {metrics[name]:.4f}")
    return "  ".join(parts) or "not measured"


def run_experiment(experiment: Experiment, run: RunOptions) -> ExperimentResult:
    """Extract every backbone's features and fit every head on every layer.

    Where there is more than one head to choose from, each is measured as a sweep would: on the
    folds asked for, else the val split, else five folds.

    Parameters
    ----------
    experiment : Experiment
    run : RunOptions

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each. Heads that cannot be fitted are told of when all others are.
    """
    out = Path(experiment.out)
    make_folder(out)
    extractions: list[ExtractSummary] = []
    fits: list[FitResult] = []
    failed: list[str] = []
    n_fitted = 0
    names = _name_backbones(experiment.backbones)
    views = [out / name / "features.h5" for name in names]
    plans = list(zip(experiment.extractions(run), views, strict=True))
    wanted = [list_fits(experiment, backbone, view, run) for (backbone, _), view in plans]
    is_choice = sum(map(len, wanted)) > 1
    for ((_, options), view), fit_list in zip(plans, wanted, strict=True):
        extractions.append(extract(options, view))
        for fit_options in _compare_fits(fit_list) if is_choice else fit_list:
            found = find_fit(fit_options)
            try:
                fits.append(found or _fit_now(fit_options))
                n_fitted += found is None
            except Exception as error:  # noqa: BLE001
                failed.append(f"{fit_options.out} ({explain_failure(error)})")
    fits.sort(key=lambda result: _place(result.metrics))
    result = ExperimentResult(extractions=extractions, fits=fits, n_fitted=n_fitted, out=out)
    write_json(out / SUMMARY_NAME, result.to_dict())
    if failed:
        raise PipelineError(
            f"{len(failed)} of {len(failed) + len(fits)} heads could not be fitted, all others are"
            f" in {str(out / SUMMARY_NAME)!r}; the first: {failed[0]}"
        )
    return result


def _compare_fits(fits: list[FitOptions]) -> list[FitOptions]:
    """Let fits on the same features be measured on rows by which they may be ranked."""
    with fits[0].data.open_files() as files:
        data = choose_folds(fits[0].data, files)
    return [dataclasses.replace(one, data=data) for one in fits]


def _fit_now(options: FitOptions) -> FitResult:
    result = fit(options)
    print(f"{_measured(result.metrics)}  {result.out}", file=sys.stderr)
    return result


def list_fits(
    experiment: Experiment, backbone: BackboneSection, view: Path, run: RunOptions
) -> list[FitOptions]:
    """List the fits on one backbone's features, each in a folder of its own."""
    layers = [str(layer) for layer in parse_layer_specs(backbone.layers)]
    data = TaskOptions(
        features=(view,),
        task=experiment.task,
        target=experiment.target,
        cv=experiment.cv,
        group=experiment.group,
        # The images of another column's classes are all those of the labels'.
        classes=experiment.named_classes if experiment.target == "label" else None,
        seed=experiment.seed,
        memory_bytes=run.memory_bytes,
    )
    # By description, so that the same head asked for twice is one.
    heads = {
        _describe_head(head.kind, settings): (head.kind, settings)
        for head in experiment.heads
        for settings in head.expand()
    }
    return [
        FitOptions(
            data=data,
            layer=layer,
            head=kind,
            settings=settings,
            out=view.parent / layer_name / head_name,
        )
        for layer, layer_name in zip(layers, _name_folders(layers), strict=True)
        for (kind, settings), head_name in zip(heads.values(), _name_folders(heads), strict=True)
    ]


def _name_backbones(backbones: list[BackboneSection]) -> list[str]:
    names = [backbone.name for backbone in backbones]
    return _name_folders(Path(x).stem if parse_backbone(x).is_file else x for x in names)


def _describe_head(kind: str, settings: dict[str, object]) -> str:
    """Write a head so that equal ones read alike: ``mlp dropout=0.6 hidden=256,128``."""
    return " ".join([kind, *(f"{name}={_type(settings[name])}" for name in sorted(settings))])


def _type(value: object) -> str:
    """Write a setting as one would type it after ``--set``."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{weight}" for name, weight in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _name_folders(texts: Iterable[str]) -> list[str]:
    """Name a folder after each text; a number tells apart what would have the same name."""
    names: list[str] = []
    for text in texts:
        name = _as_name(text)
        numbered = (f"{name}-{number}" for number in count(2))
        names.append(next(one for one in chain([name], numbered) if one not in names))
    return names


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.") or "unnamed"


def _place(metrics: dict[str, Any]) -> tuple[float, float]:
    """Order as the leaderboard of a sweep does: by score, and equal ones by log loss."""
    score, loss = (
        metrics.get(f"cv_{name}_mean", metrics.get(f"val_{name}"))
        for name in (PRIMARY[metrics["task"]], "log_loss")
    )
    return place(score, loss)
