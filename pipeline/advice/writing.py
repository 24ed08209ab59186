"""The next experiment as files: its images as a manifest, and ``experiment.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from permafrost.cache.disk.publish import published
from permafrost.command import COMMAND
from permafrost.pipeline.advice.known import KnownBackbone
from permafrost.pipeline.advice.proposal import Proposal
from permafrost.pipeline.experiments.experiment import read_experiment
from permafrost.pipeline.options import DEFAULT_CACHE, FeatureOptions, name_key
from permafrost.pipeline.sweeps.plan import SweepOptions
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.pipeline.tasks.task import TaskOptions
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.manifest import Manifest, write_manifest
from permafrost.stages.datasets.texts import Texts

EXPERIMENT_NAME = "experiment.yaml"
MANIFEST_NAME = "manifest.csv"


def write_experiment(
    proposal: Proposal,
    known: KnownBackbone,
    files: FeatureFiles,
    *,
    options: SweepOptions,
    comments: Sequence[str],
) -> Path | None:
    """Write an experiment on the same rows and folds, ready to run, and read it as `run` does.

    Parameters
    ----------
    proposal : Proposal
    known : KnownBackbone
    files : FeatureFiles
    options : SweepOptions
        Of the probe, with the folds that were chosen, and with the folder to write into; what the
        experiment writes comes into another one in it.
    comments : sequence of str
        Lines to begin with.

    Returns
    -------
    Path or None
        None where nobody knows how the features were asked for.
    """
    if known.options is None:
        return None
    out = options.out
    manifest = out / MANIFEST_NAME
    with published(manifest) as temporary:
        write_manifest(_list_images(files), temporary)
    cache = DEFAULT_CACHE if known.cache is None else known.cache.root
    content: dict[str, Any] = {
        "manifest": str(manifest),
        "cache": str(cache),
        "backbones": [_describe_backbone(known.options, proposal.extracted)],
        "layers": list(proposal.tried),
        "heads": proposal.heads,
        **_describe_task(options.data),
        "out": str(out / "next"),
    }
    file = out / EXPERIMENT_NAME
    head = "\n".join(f"# {line}" for line in (f"{COMMAND} run {file}", *comments))
    with published(file) as temporary:
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        temporary.write_text(f"{head}\n\n{text}", encoding="utf-8")
    read_experiment(file)
    return file


def _list_images(files: FeatureFiles) -> Manifest:
    return Manifest(
        root=files.opened[0].place,
        paths=Texts.of(files.paths),
        labels=files.column("label"),
        splits=files.column("split"),
        digests=Digests(files.digests),
        extra={name: files.column(name) for name in files.columns},
    )


def _describe_backbone(options: FeatureOptions, layers: Sequence[str]) -> dict[str, Any]:
    """Return a backbone's keys: what is not the default."""
    keys: dict[str, Any] = {"name": options.backbone}
    for option in fields(options):
        value = getattr(options, option.name)
        if option.default is not MISSING and value != option.default:
            is_size = option.name == "size"
            keys[name_key(option)] = "x".join(map(str, value)) if is_size else value
    return keys | {"layers": list(layers)}


def _describe_task(data: TaskOptions) -> dict[str, Any]:
    """Return the keys of what heads are to say, and of the folds."""
    keys: dict[str, Any] = {"task": data.task, "target": data.target, "seed": data.seed}
    given = {"cv": data.cv, "group": data.group, "classes": data.classes and list(data.classes)}
    return keys | {name: value for name, value in given.items() if value is not None}
