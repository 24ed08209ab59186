"""``run``: index → extract → fit of several heads, from one file, doing only what is missing."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache.features import Features
from cache.files import make_folder
from pipeline.classifier import read_fit_key, write_json
from pipeline.config import BackboneSection, Experiment
from pipeline.extract import ExtractSummary, extract
from pipeline.fit import FitOptions, FitResult, build_fit_key, fit, read_metrics
from pipeline.options import RunOptions
from stages.layers import parse_layer_specs


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentResult:
    """What an experiment gave.

    Attributes
    ----------
    extractions : list of ExtractSummary
        One for each backbone.
    fits : list of FitResult
        Best first: by cross-validated accuracy where there is one, else by test accuracy.
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
        lines.append(f"{len(self.fits)} heads, {self.n_fitted} fitted now; best first:")
        lines += [f"  {_measured(result.metrics)}  {result.out}" for result in self.fits]
        return "\n".join(lines)


def _measured(metrics: dict[str, Any]) -> str:
    parts = []
    if "cv_accuracy_mean" in metrics:
        mean, std = metrics["cv_accuracy_mean"], metrics["cv_accuracy_std"]
        parts.append(f"cv {mean:.4f} ± {std:.4f}")
    if "accuracy" in metrics:
        parts.append(f"test {metrics['accuracy']:.4f}")
    return "  ".join(parts) or "not measured"


def run_experiment(experiment: Experiment, run: RunOptions) -> ExperimentResult:
    """Extract every backbone's features and fit every head on every layer.

    Parameters
    ----------
    experiment : Experiment
    run : RunOptions
    """
    out = Path(experiment.out)
    make_folder(out)
    extractions: list[ExtractSummary] = []
    fits: list[FitResult] = []
    n_fitted = 0
    for (backbone, options), name in zip(
        experiment.extractions(run), _name_backbones(experiment.backbones), strict=True
    ):
        view = out / name / "features.h5"
        extractions.append(extract(options, view))
        for fit_options in _list_fits(experiment, backbone, view):
            found = _find_fit(fit_options)
            n_fitted += found is None
            fits.append(found or _fit_now(fit_options))
    fits.sort(key=lambda result: _rank(result.metrics), reverse=True)
    result = ExperimentResult(extractions=extractions, fits=fits, n_fitted=n_fitted, out=out)
    write_json(out / "summary.json", result.to_dict())
    return result


def _fit_now(options: FitOptions) -> FitResult:
    result = fit(options)
    print(f"{_measured(result.metrics)}  {result.out}", file=sys.stderr)
    return result


def _list_fits(experiment: Experiment, backbone: BackboneSection, view: Path) -> list[FitOptions]:
    return [
        FitOptions(
            features=view,
            layer=str(layer),
            head=head.kind,
            settings=settings,
            cv=experiment.cv,
            seed=experiment.seed,
            out=view.parent / _as_name(str(layer)) / _as_name(_name_head(head.kind, settings)),
        )
        for layer in parse_layer_specs(backbone.layers)
        for head in experiment.heads
        for settings in head.expand()
    ]


def _find_fit(options: FitOptions) -> FitResult | None:
    """Return what is in the folder if it was fitted on the same rows in the same way."""
    key = read_fit_key(options.out)
    if key is None:
        return None
    with Features(options.features) as features:
        if key != build_fit_key(options, features):
            return None
    metrics = read_metrics(options.out)
    return None if metrics is None else FitResult(metrics=metrics, out=options.out)


def _name_backbones(backbones: list[BackboneSection]) -> list[str]:
    """Name a folder for each; a number tells two of the same name apart."""
    names: list[str] = []
    for backbone in backbones:
        name = _as_name(Path(backbone.name).stem)
        taken = sum(other == name or other.startswith(f"{name}-") for other in names)
        names.append(f"{name}-{taken + 1}" if taken else name)
    return names


def _name_head(kind: str, settings: dict[str, object]) -> str:
    return "-".join([kind, *(f"{name}={value}" for name, value in settings.items())])


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-") or "unnamed"


def _rank(metrics: dict[str, Any]) -> tuple[float, float]:
    return metrics.get("cv_accuracy_mean", -1.0), metrics.get("accuracy", -1.0)
