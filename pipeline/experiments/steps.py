"""The steps of an experiment, each with its files and as a command of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from permafrost.command import PROGRAM
from permafrost.pipeline.audit.audit import ISSUES_NAME
from permafrost.pipeline.audit.audit import SUMMARY_NAME as AUDIT_NAME
from permafrost.pipeline.experiments.check import check_experiment
from permafrost.pipeline.experiments.experiment import Experiment, naming
from permafrost.pipeline.experiments.products import SUMMARY_NAME, Products
from permafrost.pipeline.experiments.run import run_experiment
from permafrost.pipeline.export.classifier import METRICS_NAME, MODEL_NAME, PREDICTIONS_NAME
from permafrost.pipeline.extraction.extract import extract
from permafrost.pipeline.options import DatasetOptions, FeatureOptions
from permafrost.pipeline.sweeps.leaderboard import FOLDS_NAME
from permafrost.pipeline.sweeps.leaderboard import SUMMARY_NAME as SWEEP_NAME
from permafrost.pipeline.sweeps.sweep import BEST_NAME, sweep
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.errors import UnknownNameError

_TABLES = ("leaderboard.csv", "results.csv", FOLDS_NAME, SWEEP_NAME)
_BEST = tuple(f"{BEST_NAME}/{name}" for name in (METRICS_NAME, PREDICTIONS_NAME, MODEL_NAME))
# What is said of something to a person, and to a program.
_Told = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A part of an experiment.

    Attributes
    ----------
    inputs, outputs : tuple of str
        Files and folders, as the experiment names them: outputs that are there after every run.
    do : callable
        Does it, what is before it being done; returns what came of it.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    do: Callable[[], _Told]


def list_steps(experiment: Experiment) -> list[Step]:
    """List the steps of an experiment, in an order in which they can be done; reads no image."""
    out, products = experiment.sweep.out, Products(experiment)
    file, model = str(experiment.file), str(out / BEST_NAME / MODEL_NAME)
    images = tuple(_list_images(experiment.dataset))
    steps = [
        Step(
            name=f"extract-{view.parent.name}",
            inputs=(file, *images, *_list_networks(features)),
            outputs=(str(view),),
            do=partial(_describe, extract, experiment.extract(features), view),
        )
        for view, features in experiment.backbones.items()
    ]
    sweeping = Step(
        name="sweep",
        inputs=(file, *map(str, experiment.backbones)),
        outputs=tuple(str(out / name) for name in (*_TABLES, *_BEST)),
        do=partial(_describe, sweep, experiment.sweep),
    )
    predictions = [
        Step(
            name=f"predict-{number}",
            inputs=(file, model, *_as_files(one.images)),
            outputs=(str(one.out),),
            do=partial(_make, one.out, products.predict, number),
        )
        for number, one in enumerate(experiment.predictions)
    ]
    steps += [sweeping, *predictions, *_list_curation(experiment, products)]
    if (to := experiment.export) is not None:
        do = partial(_make, to, products.export)
        steps.append(Step(name="export", inputs=(file, model), outputs=(str(to),), do=do))
    files = dict.fromkeys(one for step in steps for one in (*step.inputs, *step.outputs))
    whole = partial(_describe, run_experiment, experiment)
    summary = (str(out / SUMMARY_NAME),)
    return [*steps, Step(name="summary", inputs=tuple(files), outputs=summary, do=whole)]


def _list_curation(experiment: Experiment, products: Products) -> Iterator[Step]:
    board = str(experiment.sweep.out / SWEEP_NAME)
    inputs = (str(experiment.file), *map(str, experiment.backbones), board)
    if (wanted := experiment.audit) is not None:
        files = tuple(str(wanted.out / name) for name in (ISSUES_NAME, AUDIT_NAME))
        do = partial(_make, wanted.out, products.audit)
        yield Step(name="audit", inputs=inputs, outputs=files, do=do)
    if experiment.select is not None:
        out = experiment.select.out
        do = partial(_make, out, products.select)
        yield Step(name="select", inputs=inputs, outputs=(str(out),), do=do)


def _list_images(dataset: DatasetOptions) -> Iterator[str]:
    yield from _as_files(dataset.images or str(dataset.manifest))
    kind, _, table = (dataset.labels or "").partition(":")
    if kind == "csv":
        archive, is_zipped, _ = table.partition(".zip/")
        yield f"{archive}.zip" if is_zipped else table


def _as_files(source: str) -> list[str]:
    return [] if "://" in source else [source]


def _list_networks(features: FeatureOptions) -> Iterator[str]:
    path = parse_backbone(features.backbone).path
    if path:
        yield str(path)
    if features.weights not in ("imagenet", "random"):
        yield features.weights


def _describe(do: Callable[..., Any], *arguments: object) -> _Told:
    result = do(*arguments)
    return result.describe(), result.to_dict()


def _make(file: Path, make: Callable[..., dict[str, Any]], *arguments: object) -> _Told:
    return f"→ {file}", make(*arguments)


def run_step(experiment: Experiment, name: str) -> _Told:
    """Do one step of an experiment.

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each; no step has that name.
    """
    steps = {step.name: step for step in list_steps(experiment)}
    with naming(str(experiment.file)):
        if name not in steps:
            raise UnknownNameError("step", name, steps)
        return steps[name].do()


def rehearse(experiment: Experiment) -> _Told:
    """Say what each step would compute; compute and write nothing.

    Raises
    ------
    StageError, CacheError, PipelineError
        What a run would raise before it computes.
    """
    checked = check_experiment(experiment, dry=True)
    n_images = len(checked.dataset.manifest)
    work: list[tuple[int | None, str]] = [
        *((n, f"of {n_images} images to compute") for n in checked.n_computed.values()),
        (checked.n_fits, f"fits to do, for {checked.n_configurations} configurations"),
        *((len(one.manifest), "images to predict") for one in checked.new),
        *((n_images, "images to audit") for _ in filter(None, [experiment.audit])),
        *((one.n, "images to choose") for one in filter(None, [experiment.select])),
    ]
    told, lines = [], ["nothing of this is done:"]
    for step in list_steps(experiment):
        n, what = work.pop(0) if work else (None, "")
        told.append({"name": step.name, "to_do": n, "what": what, "outputs": list(step.outputs)})
        lines.append(f"  {step.name}:{f' {n} {what}' if what else ''} → {', '.join(step.outputs)}")
    return "\n".join(lines), {"steps": told}


def describe_steps(experiment: Experiment, arguments: Sequence[str]) -> _Told:
    """Return the steps for a workflow runner, as JSON; `arguments` are those of the whole run."""
    steps = [
        {
            "name": step.name,
            "inputs": list(step.inputs),
            "outputs": list(step.outputs),
            "command": [*PROGRAM, *arguments, "--step", step.name],
        }
        for step in list_steps(experiment)
    ]
    told = {"experiment": str(experiment.file), "folder": str(Path.cwd()), "steps": steps}
    return json.dumps(told), told
