"""A whole experiment as typed options, read from its file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

from permafrost.cache.errors import CacheError
from permafrost.pipeline.audit.options import AuditOptions, SelectOptions
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.schema import (
    BackboneSection,
    ExperimentSection,
    HeadSection,
    SplitSection,
    read_section,
    read_sections,
)
from permafrost.pipeline.models.predict import PredictOptions
from permafrost.pipeline.models.record import AnswerOptions
from permafrost.pipeline.options import DatasetOptions, ExtractOptions, FeatureOptions, RunOptions
from permafrost.pipeline.sweeps.plan import SweepOptions
from permafrost.pipeline.sweeps.sweep import BEST_NAME
from permafrost.pipeline.tasks.task import TaskOptions, make_candidate
from permafrost.pipeline.tracking import TrackOptions
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.layers import parse_layer_specs
from permafrost.stages.errors import StageError
from permafrost.stages.evaluation.fold_task import Candidate

_BAD_INPUT = 2
AUDIT_FOLDER = "audit"
CurationOptions = TypeVar("CurationOptions", AuditOptions, SelectOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What ``run`` is asked for.

    Attributes
    ----------
    backbones : dict of Path to FeatureOptions
        By the ``features.h5`` that each is extracted into.
    select : SelectOptions, optional
        Of both, no layer stands for that of the best head.
    export_format : str, optional
        Where it does not follow from the file's name.
    """

    file: Path
    dataset: DatasetOptions
    cache: Path
    run: RunOptions
    backbones: dict[Path, FeatureOptions]
    sweep: SweepOptions
    tracking: TrackOptions
    predictions: tuple[PredictOptions, ...]
    audit: AuditOptions | None
    select: SelectOptions | None
    export: Path | None
    export_format: str | None

    def extract(self, features: FeatureOptions) -> ExtractOptions:
        """Return how the features of a backbone are asked for."""
        return ExtractOptions(
            dataset=self.dataset, features=features, cache=self.cache, run=self.run
        )

    def look_at(self, layer: str, options: CurationOptions) -> CurationOptions:
        """Return what ``audit`` or ``select`` is asked, on a layer unless it names its own."""
        return replace(options, data=self.sweep.data, layer=options.layer or layer)

    def with_run(self, run: RunOptions) -> Experiment:
        """Return the same, gone about in another way."""
        data = replace(self.sweep.data, memory_bytes=run.memory_bytes)
        predictions = tuple(replace(one, run=run) for one in self.predictions)
        sweep = replace(self.sweep, data=data)
        return replace(self, run=run, sweep=sweep, predictions=predictions)


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Let errors that are bad input say in which file and under which key."""
    try:
        yield
    except (StageError, CacheError, PipelineError) as error:
        if error.exit_status != _BAD_INPUT:
            raise
        raise PipelineError(f"{place}: {error}") from error


def read_experiment(file: Path) -> Experiment:
    """Read an experiment file, and check all that it takes no image and no network to check.

    Raises
    ------
    PipelineError
        The file cannot be read, or says something that makes no sense; a misspelt name gets the
        nearest valid one.
    """
    sections = read_sections(file)
    with naming(str(file)):
        keys = sections.model_dump() | {"classes": sections.list_classes()}
        backbones = _read_backbones(sections, keys)
        data = read_section(TaskOptions, keys, features=tuple(backbones))
        if data.target != "label":
            # The images of another column's classes are all those of the labels'.
            data = replace(data, classes=None)
        heads = [
            candidate
            for number, head in enumerate(sections.heads)
            for candidate in _read_head(head, number, task=data.task)
        ]
        sweep = read_section(
            SweepOptions,
            keys,
            data=data,
            # The same head asked for twice is one.
            candidates=list(dict.fromkeys(heads)),
            out=Path(sections.out),
            answer=read_section(AnswerOptions, keys),
        )
        if sweep.layers is None:
            sweep = replace(sweep, layers=_list_layers(backbones))
        run = read_section(RunOptions, keys, materialize=sections.materialize)
        return Experiment(
            file=file,
            dataset=_read_dataset(sections, keys),
            cache=Path(sections.cache),
            run=run,
            backbones=backbones,
            sweep=sweep,
            tracking=read_section(TrackOptions, keys),
            predictions=_read_predictions(sections, data, run),
            audit=_read_audit(sections, data),
            select=_read_select(sections, data),
            export=None if sections.export is None else Path(sections.export),
            export_format=sections.export_format,
        )


def _read_dataset(sections: ExperimentSection, keys: dict[str, object]) -> DatasetOptions:
    split, names = sections.split, sections.split_names
    given = dict(keys)
    if isinstance(split, SplitSection):
        given["split"] = split.rule
        if split.seed is not None:
            given["seed"] = split.seed
    if isinstance(names, dict):
        given["split_names"] = ",".join(f"{name}={split}" for name, split in names.items())
    return read_section(DatasetOptions, given)


def _read_backbones(
    sections: ExperimentSection, keys: dict[str, object]
) -> dict[Path, FeatureOptions]:
    found: list[FeatureOptions] = []
    for number, backbone in enumerate(sections.backbones):
        with naming(f"backbones.{number}"):
            found.append(_read_backbone(backbone))
    bare = [replace(one, layers=("-",), backbone=_spell(one.backbone)) for one in found]
    for number, one in enumerate(bare):
        if one in bare[:number]:
            raise PipelineError(
                f"backbones.{number}: {found[number].backbone!r} is there already, as"
                f" backbones.{bare.index(one)}; put the layers of both into one list"
            )
    folders = name_folders(
        path.stem if (path := parse_backbone(one.backbone).path) else one.backbone for one in found
    )
    out = Path(sections.out)
    return {out / name / "features.h5": one for name, one in zip(folders, found, strict=True)}


def _spell(backbone: str) -> str:
    """Write a backbone in the one way that all ways of writing it have in common."""
    name = parse_backbone(backbone)
    return f"{bool(name.preset)} {name.path.resolve()}" if name.path else str(name)


def _read_backbone(section: BackboneSection) -> FeatureOptions:
    parse_backbone(section.name)
    layers = tuple(map(str, parse_layer_specs(section.layers)))
    return read_section(FeatureOptions, section.model_dump(), backbone=section.name, layers=layers)


def _read_head(head: HeadSection, number: int, *, task: str) -> Iterator[Candidate]:
    with naming(f"heads.{number}"):
        for settings in head.expand():
            yield make_candidate(head.kind, settings, task=task, layers=head.list_layers())


def _read_predictions(
    sections: ExperimentSection, data: TaskOptions, run: RunOptions
) -> tuple[PredictOptions, ...]:
    outs = [Path(one.out) for one in sections.predict]
    for number, out in enumerate(outs):
        if out in outs[:number]:
            raise PipelineError(
                f"predict.{number}.out: {str(out)!r} is written by"
                f" predict.{outs.index(out)} already; name another file"
            )
    return tuple(
        PredictOptions(
            model=Path(sections.out) / BEST_NAME,
            images=one.images,
            out=out,
            average_views=data.average_views,
            reject=one.reject,
            by=one.by,
            cache=Path(sections.cache),
            run=run,
        )
        for one, out in zip(sections.predict, outs, strict=True)
    )


def _read_audit(sections: ExperimentSection, data: TaskOptions) -> AuditOptions | None:
    if (given := sections.audit) is None:
        return None
    out = Path(sections.out) / AUDIT_FOLDER if given.out is None else Path(given.out)
    with naming("audit"):
        keys, named = given.model_dump(), {"layer": given.layer or "", "settings": given.set or {}}
        options = read_section(AuditOptions, keys, data=data, out=out, **named)
        options.choose_candidate()
    return options


def _read_select(sections: ExperimentSection, data: TaskOptions) -> SelectOptions | None:
    if (given := sections.select) is None:
        return None
    with naming("select"):
        keys, out = given.model_dump(), Path(given.out)
        return read_section(SelectOptions, keys, data=data, n=given.n, out=out)


def _list_layers(backbones: dict[Path, FeatureOptions]) -> tuple[str, ...]:
    """List each layer of each backbone; one that several have is told apart as ``vgg16/fc1``."""
    specs = {file: parse_layer_specs(one.layers) for file, one in backbones.items()}
    n_holders = Counter(chain.from_iterable({spec.layer for spec in own} for own in specs.values()))
    return tuple(
        str(spec) if n_holders[spec.layer] == 1 else f"{file.parent.name}/{spec}"
        for file, own in specs.items()
        for spec in own
    )


def name_folders(texts: Iterable[str]) -> list[str]:
    """Name a folder after each text; a number tells apart what would have the same name."""
    names: list[str] = []
    taken = [BEST_NAME]
    for text in texts:
        name = re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.") or "unnamed"
        numbered = (f"{name}-{number}" for number in count(2))
        names.append(next(one for one in chain([name], numbered) if one not in taken + names))
    return names
