"""What an experiment says of its own images: what looks wrong, and what to label next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from permafrost.pipeline.audit.audit import ISSUES_NAME
from permafrost.pipeline.audit.select import check_table, part_rows
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.experiment import Experiment, naming
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.stages.sources.source import open_source


def check_curation(experiment: Experiment, files: FeatureFiles) -> None:
    """Look at all that ``audit`` and ``select`` name.

    Raises
    ------
    StageError, CacheError, PipelineError
        One line for the user each, with the key.
    """
    for key, options in (("audit", experiment.audit), ("select", experiment.select)):
        if options is not None and options.layer:
            with naming(f"{key}.layer"):
                files.find_layers(options.layer)
    if experiment.audit is not None and experiment.audit.images is not None:
        with naming("audit.images"):
            open_source(experiment.audit.images)
    if (wanted := experiment.select) is not None:
        with naming("select"):
            part_rows(wanted, files, files.column(wanted.data.target))
        taken = {one.out: place for place, one in enumerate(experiment.predictions)}
        with naming("select.out"):
            check_table(wanted.out, wanted.data.target)
            if (place := taken.get(wanted.out)) is not None:
                raise PipelineError(
                    f"{str(wanted.out)!r} is written by predict.{place} already; name another file"
                )


def describe_curation(summary: Mapping[str, Any]) -> Iterator[str]:
    """Say in a line each what looks wrong and what to label next, out of a run's figures."""
    if found := summary.get("audit"):
        kinds = ", ".join(f"{n} {kind}" for kind, n in found["kinds"].items()) or "none"
        told = f"{found['issues']} suspicions about {found['images']} images ({kinds})"
        yield f"{told} → {found['out']}/{ISSUES_NAME}"
    if found := summary.get("select"):
        yield f"{found['selected']} of {found['pool']} images to label next → {found['out']}"
