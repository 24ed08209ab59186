"""What fits, sweeps and runs left, as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.curation import describe_curation
from permafrost.pipeline.experiments.products import SUMMARY_NAME as RUN_NAME
from permafrost.pipeline.export.classifier import METRICS_NAME, MODEL_NAME, locate_files
from permafrost.pipeline.models.fit import FitResult
from permafrost.pipeline.models.measure import name_metric
from permafrost.pipeline.outputs import read_json
from permafrost.pipeline.sweeps.leaderboard import SUMMARY_NAME as SWEEP_NAME
from permafrost.pipeline.sweeps.leaderboard import write_p
from permafrost.pipeline.sweeps.sweep import BEST_NAME
from permafrost.pipeline.tables import Table, list_pairs
from permafrost.pipeline.units import count, describe_seconds

Told = tuple[list[str | Table], dict[str, Any]]

_SHOWN = 15
_COUNTED = ("images", "computed", "reused", "failed")


def _naming_damage(describe: Callable[[Path], Told]) -> Callable[[Path], Told]:
    """Let what is not as we wrote it be one line."""

    @wraps(describe)
    def call(folder: Path) -> Told:
        try:
            return describe(folder)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise PipelineError(
                f"what {str(folder)!r} says is damaged ({error}); repeat the command that wrote it"
            ) from error

    return call


@_naming_damage
def show_model(folder: Path) -> Told:
    """Describe what a fit left; the head is not loaded."""
    record, head = _read(folder / MODEL_NAME), read_json(folder / "head" / "head.json") or {}
    metrics = read_json(folder / METRICS_NAME) or {}
    backbones = list(dict.fromkeys(str(one["features"]["backbone"]) for one in record["parts"]))
    layer, target = str(record["layer"]), str(record["target"])
    settings = " ".join(f"{name}={value}" for name, value in head["settings"].items())
    classes = list(map(str, record.get("classes") or head["classes"]))
    kind = str(head["kind"])
    files = [str(file) for file in locate_files(folder)]
    points = [
        ("head", f"{kind} {settings}"),
        ("layer", f"{layer}, {count(int(head['n_features']), 'feature')}"),
        ("backbone", ", ".join(backbones)),
        ("classes", _shorten(classes)),
        ("target", target if target != "label" else ""),
        ("fitted on", ", ".join(files)),
    ]
    parts: list[str | Table] = [str(folder), list_pairs(points)]
    if metrics:
        parts += FitResult(metrics=metrics, out=folder).describe().splitlines()[1:]
    figures = {"head": kind, "settings": head["settings"], "layer": layer, "backbones": backbones}
    figures |= {"classes": classes, "target": target, "files": files, "metrics": metrics}
    return parts, figures


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, … {len(names)} in all"


@_naming_damage
def show_sweep(folder: Path) -> Told:
    """Describe a sweep: its leaderboard, and the winner's figures."""
    found = _read(folder / SWEEP_NAME)
    best = read_json(folder / BEST_NAME / METRICS_NAME)
    return _lay_out(folder, found, best), found | {"best_metrics": best}


@_naming_damage
def show_run(folder: Path) -> Told:
    """Describe what an experiment left: extractions, leaderboard, and what was made of it."""
    found = _read(folder / RUN_NAME)
    parts = _lay_out(folder, found, found.get("best_metrics"))
    rows = [_list_cells(one) for one in found.get("extractions") or ()]
    header = ("features", *(f">{name}" for name in _COUNTED), ">took")
    parts += ["", Table(header=header, rows=rows)] if rows else []
    for one in found.get("predictions") or ():
        parts.append(f"{count(one['images'], 'image')} → {one['predictions']}")
    parts += describe_curation(found)
    if found.get("export"):
        parts.append(f"exported → {found['export']['model']}")
    return parts, found


def _list_cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    counts = (f"{one[name]:,}" for name in _COUNTED)
    return str(one["features"]), *counts, describe_seconds(one["seconds"])


def _lay_out(
    folder: Path, found: Mapping[str, Any], best: Mapping[str, Any] | None
) -> list[str | Table]:
    parts: list[str | Table] = [str(folder), _rank(found)]
    if best is not None:
        result = FitResult(metrics=dict(best), out=folder / BEST_NAME)
        parts += ["", *result.describe().splitlines()]
    return parts


def _rank(found: Mapping[str, Any]) -> Table:
    metric, entries = str(found["metric"]), found["configurations"]
    varied = _find_varied(entries)
    rows = [
        (
            str(number),
            *(_write(one.get(f"{metric}_{part}"), ".4f") for part in ("mean", "std")),
            write_p(one.get("p_value")),
            describe_seconds(one["seconds"]),
            str(one["layer"]),
            _name_head(one, varied),
        )
        for number, one in enumerate(entries[:_SHOWN], start=1)
    ]
    if len(entries) > _SHOWN:
        rows.append(("", "", "", "", "", f"… {len(entries)} in all", ""))
    header = (">", f">{name_metric(metric)}", ">± std", ">p", ">took", "layer", "head")
    return Table(header=header, rows=rows)


def _find_varied(entries: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """Return the settings of each head that not all of its entries have alike."""
    seen: dict[tuple[str, str], set[str]] = {}
    for one in entries:
        for name, value in one["settings"].items():
            seen.setdefault((one["head"], name), set()).add(str(value))
    return {key for key, values in seen.items() if len(values) > 1}


def _name_head(one: Mapping[str, Any], varied: set[tuple[str, str]]) -> str:
    head = str(one["head"])
    told = [f"{key}={value}" for key, value in one["settings"].items() if (head, key) in varied]
    return " ".join([head, *told, str(one.get("error") or "")]).strip()


def _write(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _read(file: Path) -> dict[str, Any]:
    found = read_json(file)
    if found is None:
        raise PipelineError(f"{str(file)!r} is damaged; repeat what wrote it")
    return found
