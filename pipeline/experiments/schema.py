"""experiment.yaml ↔ typed, frozen models, checked before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.yaml_text import read_yaml
from permafrost.pipeline.options import (
    DEFAULT_CACHE,
    DatasetOptions,
    ExtractOptions,
    FeatureOptions,
    RunOptions,
    parse_names,
    read_options,
)
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.layers import parse_layer_specs
from permafrost.stages.datasets.targets import CLASSIFICATION, TASKS
from permafrost.stages.heads import check_task, parse_settings


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SplitSection(_Section):
    """A random split: ``{test: 0.3, val: 0.1, seed: 0}``."""

    test: float | None = Field(default=None, gt=0, lt=1)
    val: float | None = Field(default=None, gt=0, lt=1)
    seed: int | None = Field(default=None, ge=0)

    @property
    def rule(self) -> str:
        """The rule as on the command line."""
        shares = {"test": self.test, "val": self.val}
        return ",".join(f"{name}={share}" for name, share in shares.items() if share)


# The options of a feature set that have a default, and those of them that are read from text.
_OPTIONS = [option for option in fields(FeatureOptions) if option.default is not MISSING]
_PARSERS = {
    option.name: option.metadata["type"] for option in _OPTIONS if "type" in option.metadata
}


class _NamedBackbone(_Section):
    """One backbone and the layers to keep of it; the other keys are options of ``extract``."""

    name: str
    layers: list[str] = Field(min_length=1)

    def to_options(self) -> FeatureOptions:
        """Return the same as `extract` takes it."""
        given = self.model_dump(exclude_unset=True, exclude_none=True)
        given |= {name: _PARSERS[name](str(given[name])) for name in _PARSERS.keys() & given}
        named = {"backbone": self.name, "layers": tuple(self.layers)}
        return read_options(FeatureOptions, given | named)


if TYPE_CHECKING:
    BackboneSection = _NamedBackbone
else:
    _KEYS = {
        option.name: (int | str | None if option.name in _PARSERS else str, option.default)
        for option in _OPTIONS
    }
    BackboneSection = create_model("BackboneSection", __base__=_NamedBackbone, **_KEYS)


class HeadSection(BaseModel):
    """A head; a setting with a list of values stands for one head each."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    def expand(self) -> Iterator[dict[str, object]]:
        """Yield the settings of each head that the section stands for.

        ``C: [0.01, 0.1]`` is two values; ``hidden: [256, 128]`` is one, two layers deep, and
        ``hidden: [[256], [256, 128]]`` two.
        """
        settings: Mapping[str, Any] = self.model_extra or {}
        names = list(settings)
        for values in product(*(self._values(name, settings[name]) for name in names)):
            yield dict(zip(names, values, strict=True))

    def _values(self, name: str, value: object) -> list[object]:
        if not isinstance(value, list):
            return [value]
        if not value and name != "hidden":
            raise ValueError(f"{name}: [] stands for no head at all; give it a value or drop it")
        if name == "hidden" and not any(isinstance(part, list) for part in value):
            return [value]
        return value


class Experiment(_Section):
    """A whole experiment; the keys of ``experiment.yaml``.

    Relative paths start from the folder the command runs in, as on the command line.
    """

    images: str
    labels: str | None = None
    split: SplitSection | str | None = None
    split_names: dict[str, str] | str | None = None
    classes: list[str | int] | str | None = Field(default=None, min_length=1)
    cache: str = str(DEFAULT_CACHE)
    backbones: list[BackboneSection] = Field(min_length=1)
    heads: list[HeadSection] = Field(min_length=1)
    task: str = CLASSIFICATION
    target: str = "label"
    cv: int | None = Field(default=None, ge=2)
    group: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)
    out: str

    @field_validator("split")
    @classmethod
    def _check_split(cls, split: SplitSection | str | None) -> SplitSection | str | None:
        if isinstance(split, SplitSection) and not split.rule:
            raise ValueError("name a share, as {test: 0.3}")
        return split

    @field_validator("heads")
    @classmethod
    def _check_heads(cls, heads: list[HeadSection]) -> list[HeadSection]:
        for head in heads:
            for settings in head.expand():
                parse_settings(head.kind, settings)
        return heads

    @field_validator("task")
    @classmethod
    def _check_task(cls, task: str) -> str:
        if task not in TASKS:
            raise ValueError(f"{task!r} is no task; write {', '.join(TASKS)}")
        return task

    @property
    def named_classes(self) -> tuple[str, ...] | None:
        """The classes as the command line takes them."""
        if isinstance(self.classes, list):
            return tuple(dict.fromkeys(map(str, self.classes)))
        return None if self.classes is None else parse_names(self.classes)

    def extractions(self, run: RunOptions) -> Iterator[tuple[BackboneSection, ExtractOptions]]:
        """Yield what to extract for each backbone."""
        split, seed = self.split, self.seed
        if isinstance(split, SplitSection):
            seed = seed if split.seed is None else split.seed
            split = split.rule
        names = self.split_names
        if isinstance(names, dict):
            names = ",".join(f"{name}={split}" for name, split in names.items())
        dataset = DatasetOptions(
            images=self.images,
            labels=self.labels,
            split=split,
            split_names=names,
            seed=seed,
            group=self.group,
            classes=self.named_classes,
        )
        for backbone in self.backbones:
            yield (
                backbone,
                ExtractOptions(
                    dataset=dataset,
                    features=backbone.to_options(),
                    cache=Path(self.cache),
                    run=run,
                ),
            )


def read_experiment(file: Path) -> Experiment:
    """Read and check an experiment file.

    Raises
    ------
    PipelineError
        The file cannot be read, or says something that makes no sense; a misspelt key names the
        nearest valid one.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            content = read_yaml(stream)
    except OSError as error:
        raise PipelineError(f"cannot read {str(file)!r}: {error.strerror}") from error
    except ValueError as error:
        # Also of bytes that are not UTF-8, and of an unquoted 2024-13-01, which is no date.
        raise PipelineError(f"{str(file)!r} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise PipelineError(f"{str(file)!r} should hold keys: {', '.join(Experiment.model_fields)}")
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        raise PipelineError(f"{file}: {_explain(error)}") from error
    # All of them now, not each after the hours that those before it take.
    for head in experiment.heads:
        check_task(head.kind, experiment.task)
    for backbone in experiment.backbones:
        parse_backbone(backbone.name)
        parse_layer_specs(backbone.layers)
        backbone.to_options()
    return experiment


def _explain(error: ValidationError) -> str:
    """Say the first thing that is wrong, in words of the file; a misspelt key before others."""
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    kind, loc, given = first["type"], first["loc"], first["input"]
    if kind == "extra_forbidden":
        return _explain_key(str(loc[-1]), _list_places(loc[:-1]))
    where = ".".join(_list_places(loc))
    if kind == "missing":
        near = difflib.get_close_matches(str(loc[-1]), map(str, given), n=1, cutoff=0.5)
        return f"{where} is missing" + (f"; is {near[0]!r} a misspelling of it?" if near else "")
    if kind == "model_type":
        known = ", ".join(_find_section(_list_places(loc)).model_fields)
        return f"{where}: write it with its keys ({known}), not as {given!r}"
    if kind == "value_error":
        return f"{where}: {first['ctx']['error']}"
    return f"{where}: {first['msg'].lower()}, not {given!r}"


def _explain_key(key: str, places: list[str]) -> str:
    known = list(_find_section(places).model_fields)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    return f"unknown key {key!r} ({'.'.join([*places, key])}); {hint}"


def _list_places(loc: tuple[int | str, ...]) -> list[str]:
    """Leave out the types that pydantic tried, which are ours and not the user's."""
    return [str(part) for part in loc if part not in ("SplitSection", "int", "str")]


def _find_section(places: list[str]) -> type[BaseModel]:
    sections: dict[str, type[BaseModel]] = {
        "split": SplitSection,
        "backbones": BackboneSection,
        "heads": HeadSection,
    }
    return sections[places[0]] if places else Experiment
