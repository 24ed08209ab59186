"""``advise``: which scenario this is, with its evidence, and what to try next."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from permafrost.cores import count_cores
from permafrost.pipeline.advice.cost import estimate
from permafrost.pipeline.advice.known import look_up
from permafrost.pipeline.advice.probe import Probed, list_probed, list_probes, measure_layers
from permafrost.pipeline.advice.proposal import Ladder, propose
from permafrost.pipeline.advice.report import SUMMARY_NAME, Advice, Evidence
from permafrost.pipeline.advice.writing import write_experiment
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.outputs import write_summary
from permafrost.pipeline.sweeps.plan import SweepOptions, plan_rows
from permafrost.pipeline.sweeps.sweep import sweep
from permafrost.pipeline.tasks.rows import FeatureFiles, LabelledRows
from permafrost.pipeline.tasks.task import TaskOptions
from permafrost.stages.datasets.targets import CLASSIFICATION, MULTILABEL


@dataclass(frozen=True, slots=True, kw_only=True)
class AdviseOptions:
    """What ``advise`` is asked for; `out` is the folder for all it writes."""

    data: TaskOptions = field(metadata={"options": TaskOptions})
    jobs: int = field(default_factory=count_cores)
    out: Path


def advise(options: AdviseOptions) -> Advice:
    """Probe every layer on the same folds, judge what that says, and write the next experiment.

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each.
    """
    with options.data.open_files() as files:
        layers = list_probed(files)
        probes = SweepOptions(
            data=options.data,
            layers=tuple(layers),
            candidates=list_probes(options.data.task),
            jobs=options.jobs,
            out=options.out,
        )
        found = sweep(probes)
        rows = plan_rows(probes, files)
        ranked = measure_layers(files, rows, layers, found.board)
        ladders = _build_ladders(files, ranked)
        evidence = Evidence(ladders=ladders, **_count_rows(rows.labelled))
        proposal = propose(ladders[0], evidence.size, task=rows.data.task)
        cost = estimate(
            proposal,
            ladders[0],
            n_images=len(np.unique(files.digests, axis=0)),
            n_rows=len(rows.labelled.folds),
            n_folds=rows.n_folds,
        )
        experiment = write_experiment(
            proposal,
            ladders[0].known,
            files,
            options=replace(probes, data=rows.data),
            comments=[*evidence.explain(), f"→ {proposal.recipe}"],
        )
    advice = Advice(
        ranked=ranked,
        evidence=evidence,
        n_outputs=max(1, len(rows.labelled.targets.classes)),
        proposal=proposal,
        cost=cost,
        experiment=experiment,
        sweep=found,
    )
    write_summary(options.out / SUMMARY_NAME, advice.to_dict())
    return advice


def _build_ladders(files: FeatureFiles, ranked: list[Probed]) -> list[Ladder]:
    """Put the best probe of each network layer in the order of depth, for each backbone."""
    by_file: defaultdict[int, dict[str, Probed]] = defaultdict(dict)
    for one in ranked:
        if not one.stored.spec.is_pixels:
            by_file[one.stored.file].setdefault(one.layer, one)
    if not by_file:
        raise PipelineError(
            f"{files.name} has no layer of a network that a probe could be fitted on, but only"
            " pixels; extract some with --backbone"
        )
    ladders = []
    for number, found in by_file.items():
        known = look_up(files.opened[number])
        layers = sorted(found.values(), key=lambda one: known.place(one.layer))
        ladders.append(Ladder(known=known, layers=layers))
    return ladders


def _count_rows(labelled: LabelledRows) -> dict[str, Any]:
    """Count training rows, in all and for each class or tag."""
    targets = labelled.targets.select(labelled.train)
    per_class = float(len(targets))
    if targets.task == CLASSIFICATION:
        per_class /= len(np.unique(targets.values))
    elif targets.task == MULTILABEL:
        per_class = float(targets.values.sum(axis=0).mean())
    return {"n_rows": len(targets), "rows_per_class": per_class}
