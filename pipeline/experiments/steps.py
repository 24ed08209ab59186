"""The steps of an experiment, each with its files and as a command of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from permafrost.command import PROGRAM
from permafrost.pipeline.experiments.check import check_experiment
from permafrost.pipeline.experiments.experiment import Experiment, Prediction, naming
from permafrost.pipeline.experiments.products import SUMMARY_NAME
from permafrost.pipeline.experiments.run import run_experiment
from permafrost.pipeline.extraction.extract import extract
from permafrost.pipeline.models.classifier import MODEL_NAME
from permafrost.pipeline.models.export import export
from permafrost.pipeline.models.predict import predict
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.sweeps.leaderboard import FOLDS_NAME
from permafrost.pipeline.sweeps.leaderboard import SUMMARY_NAME as SWEEP_NAME
from permafrost.pipeline.sweeps.sweep import BEST_NAME, sweep
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.errors import UnknownNameError


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A part of an experiment.

    Attributes
    ----------
    name : str
    inputs, outputs : tuple of str
        Files and folders, as the experiment names them: outputs that are there after every run.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def to_dict(self, arguments: Sequence[str]) -> dict[str, object]:
        """Return the step as a JSON object, with the command that does it.

        `arguments` are those of ``run`` for the whole experiment.
        """
        return {
            "name": self.name,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "command": [*PROGRAM, *arguments, "--step", self.name],
        }


def list_steps(experiment: Experiment) -> list[Step]:
    """List the steps of an experiment, in an order in which they can be done; reads no image."""
    steps = [Step(name=name, inputs=i, outputs=o) for name, i, o in _list_files(experiment)]
    whole = Step(
        name="summary",
        inputs=tuple(
            dict.fromkeys(file for step in steps for file in (*step.inputs, *step.outputs))
        ),
        outputs=(str(experiment.sweep.out / SUMMARY_NAME),),
    )
    return [*steps, whole]


def _list_files(experiment: Experiment) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    out, file = experiment.sweep.out, str(experiment.file)
    images = tuple(_list_images(experiment))
    for view, features in experiment.backbones.items():
        inputs = (file, *images, *_list_networks(features))
        yield f"extract-{view.parent.name}", inputs, (str(view),)
    tables = ("leaderboard.csv", "results.csv", FOLDS_NAME, SWEEP_NAME)
    best = [f"{BEST_NAME}/{name}" for name in ("metrics.json", "predictions.csv", MODEL_NAME)]
    views = tuple(map(str, experiment.backbones))
    yield "sweep", (file, *views), tuple(str(out / name) for name in (*tables, *best))
    model = str(out / BEST_NAME / MODEL_NAME)
    for number, one in enumerate(experiment.predictions):
        yield f"predict-{number}", (file, model, *_as_files(one.images)), (str(one.out),)
    if experiment.export is not None:
        yield "export", (file, model), (str(experiment.export),)


def _list_images(experiment: Experiment) -> Iterator[str]:
    dataset = experiment.dataset
    yield from _as_files(dataset.images or str(dataset.manifest))
    kind, _, table = (dataset.labels or "").partition(":")
    if kind == "csv":
        # A table may lie in an archive.
        archive, zipped, _ = table.partition(".zip/")
        yield f"{archive}.zip" if zipped else table


def _as_files(source: str) -> list[str]:
    return [] if "://" in source else [source]


def _list_networks(features: FeatureOptions) -> Iterator[str]:
    if parse_backbone(features.backbone).is_file:
        yield features.backbone
    if features.weights not in ("imagenet", "random"):
        yield features.weights


def run_step(experiment: Experiment, name: str) -> tuple[str, dict[str, Any]]:
    """Do one step of an experiment, what is before it being done.

    Returns
    -------
    str
        What came of it, for a person.
    dict
        Its figures.

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each; no step has that name.
    """
    steps = {
        **{
            f"extract-{view.parent.name}": partial(_extract, experiment, features, view)
            for view, features in experiment.backbones.items()
        },
        "sweep": partial(_describe, sweep, experiment.sweep),
        **{
            f"predict-{number}": partial(_predict, experiment, one)
            for number, one in enumerate(experiment.predictions)
        },
        "export": partial(_export, experiment),
        "summary": partial(_describe, run_experiment, experiment),
    }
    known = [step.name for step in list_steps(experiment)]
    with naming(str(experiment.file)):
        if name not in known:
            raise UnknownNameError("step", name, known)
        return steps[name]()


def _describe(do: Any, *arguments: object) -> tuple[str, dict[str, Any]]:
    result = do(*arguments)
    return result.describe(), result.to_dict()


def _extract(
    experiment: Experiment, features: FeatureOptions, view: Path
) -> tuple[str, dict[str, Any]]:
    return _describe(extract, experiment.extract(features), view)


def _predict(experiment: Experiment, wanted: Prediction) -> tuple[str, dict[str, Any]]:
    figures = predict(
        experiment.sweep.out / BEST_NAME,
        wanted.images,
        out=wanted.out,
        cache=experiment.cache,
        run=experiment.run,
        average_views=experiment.sweep.data.average_views,
    )
    return f"{figures['images']} images → {wanted.out}", figures


def _export(experiment: Experiment) -> tuple[str, dict[str, Any]]:
    assert experiment.export is not None
    figures = export(experiment.sweep.out / BEST_NAME, experiment.export)
    return f"{experiment.sweep.out / BEST_NAME} → {experiment.export}", figures


def rehearse(experiment: Experiment) -> tuple[str, dict[str, Any]]:
    """Say what each step would compute; compute and write nothing.

    Raises
    ------
    StageError, CacheError, PipelineError
        What a run would raise before it computes.
    """
    checked = check_experiment(experiment, dry=True)
    n_images = len(checked.dataset.manifest)
    todo: list[tuple[str, int]] = [
        *((f"of {n_images} images to compute", n) for n in checked.n_computed.values()),
        (f"fits to do, for {checked.n_configurations} configurations", checked.n_fits),
        *(("images to predict", len(one.manifest)) for one in checked.new),
    ]
    steps = list_steps(experiment)
    told = [
        {"name": step.name, "outputs": list(step.outputs), "to_do": n, "what": what}
        for step, (what, n) in zip(steps, todo, strict=False)
    ]
    told += [{"name": step.name, "outputs": list(step.outputs)} for step in steps[len(todo) :]]
    lines = [f"{len(steps)} steps, of which nothing is done or written:"]
    for one in told:
        work = f" {one['to_do']} {one['what']}" if "what" in one else ""
        lines.append(f"  {one['name']}:{work} → {', '.join(one['outputs'])}")  # type: ignore[arg-type]
    return "\n".join(lines), {"steps": told}


def describe_steps(experiment: Experiment, arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the steps for a workflow runner, as JSON; see `Step.to_dict`."""
    figures = {
        "experiment": str(experiment.file),
        "folder": str(Path.cwd()),
        "steps": [step.to_dict(arguments) for step in list_steps(experiment)],
    }
    return json.dumps(figures), figures
