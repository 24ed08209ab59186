"""Options out of what was typed: from the parser's namespace to typed values."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import DatasetOptions, ExtractOptions, FeatureOptions, RunOptions
from permafrost.stages.cores import count_cores
from permafrost.stages.decoding.isolation import Isolation

if TYPE_CHECKING:
    from permafrost.pipeline.models.task import TaskOptions


def read_extract_options(parsed: argparse.Namespace) -> ExtractOptions:
    """Read the options of `extract` and `plan`, as their parser gave them."""
    return ExtractOptions(
        dataset=DatasetOptions(
            images=parsed.images,
            manifest=parsed.manifest,
            labels=parsed.labels,
            split=parsed.split,
            seed=parsed.seed,
        ),
        features=FeatureOptions(
            backbone=parsed.backbone,
            layers=tuple(parsed.layers.split(",")),
            weights=parsed.weights,
            size=parsed.size,
            resize=parsed.resize,
            resize_mode=parsed.resize_mode,
            preprocess=parsed.preprocess,
            view=parsed.view,
            orient=parsed.orient,
            dtype=parsed.dtype,
            engine=parsed.engine,
            precision=parsed.precision,
            decode=parsed.decode,
        ),
        cache=Path(parsed.cache),
        run=read_run_options(parsed),
    )


def read_run_options(parsed: argparse.Namespace) -> RunOptions:
    """Read how a run goes about it."""
    return RunOptions(
        batch_size=_read_batch_size(parsed.batch_size),
        workers=read_workers(parsed),
        memory_bytes=parsed.memory,
        compression=parsed.compression,
        on_error=parsed.on_error,
        scheduler=parsed.scheduler,
        materialize=getattr(parsed, "materialize", False),
        isolation=_read_isolation(parsed),
    )


def _read_isolation(parsed: argparse.Namespace) -> Isolation | None:
    timeout_s = parsed.image_timeout
    if not parsed.isolate:
        if timeout_s is not None:
            raise PipelineError(f"--image-timeout {timeout_s:g} goes with --isolate; add it")
        return None
    return Isolation() if timeout_s is None else Isolation(timeout_s=timeout_s)


def _read_batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise PipelineError(f"--batch-size {text!r}: write auto or a number of images, as 32")
    return int(text)


def read_workers(parsed: argparse.Namespace) -> int:
    """Read ``--workers``: the cores by default."""
    if parsed.workers is None:
        return count_cores()
    if parsed.workers < 1:
        raise PipelineError(f"--workers {parsed.workers}: at least 1 is needed")
    return int(parsed.workers)


def read_task_options(parsed: argparse.Namespace) -> TaskOptions:
    """Read what `fit` and `sweep` share."""
    from permafrost.pipeline.models.task import TaskOptions

    return TaskOptions(
        features=tuple(parsed.features),
        task=parsed.task,
        target=parsed.target,
        cv=parsed.cv,
        seed=parsed.seed,
        memory_bytes=parsed.memory,
    )


def split_names(text: str | None, option: str) -> tuple[str, ...] | None:
    """Split ``one,two``; None where the option was not given."""
    if text is None:
        return None
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise PipelineError(f"{option} {text!r} has an empty name; write names as one,two")
    return tuple(dict.fromkeys(parts))


def read_settings(pairs: list[str]) -> dict[str, str]:
    """Read ``--set KEY=VALUE``, given any number of times."""
    settings: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = (part.strip() for part in pair.partition("="))
        if not separator or not key:
            raise PipelineError(f"--set {pair!r}: write it as KEY=VALUE, as in --set C=0.1")
        if key in settings:
            raise PipelineError(f"--set {key} is given twice; give it once (to sweep, as C=0.1,1)")
        settings[key] = value
    return settings
