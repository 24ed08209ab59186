"""experiment.yaml ↔ typed, frozen models, checked before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.errors import PipelineError
from pipeline.options import (
    DEFAULT_CACHE,
    DatasetOptions,
    ExtractOptions,
    FeatureOptions,
    RunOptions,
)
from stages.heads import parse_settings


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SplitSection(_Section):
    """A random split: ``{test: 0.3, val: 0.1, seed: 0}``."""

    test: float = 0.0
    val: float = 0.0
    seed: int = 0

    @property
    def rule(self) -> str:
        """The rule as on the command line."""
        shares = {"test": self.test, "val": self.val}
        return ",".join(f"{name}={share}" for name, share in shares.items() if share)


class BackboneSection(_Section):
    """One backbone and the layers to keep of it; the other keys are options of ``extract``."""

    name: str
    layers: list[str] = Field(min_length=1)
    weights: str = "imagenet"
    size: int | None = None
    resize: str = "bilinear"
    resize_mode: str = "stretch"
    preprocess: str = "auto"
    view: str = "identity"
    orient: str = "ignore"
    dtype: str = "float32"

    def to_options(self) -> FeatureOptions:
        """Return the same as `extract` takes it."""
        fields = self.model_dump(exclude={"name", "layers", "size"})
        size = None if self.size is None else (self.size, self.size)
        return FeatureOptions(backbone=self.name, layers=tuple(self.layers), size=size, **fields)


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
    cache: str = str(DEFAULT_CACHE)
    backbones: list[BackboneSection] = Field(min_length=1)
    heads: list[HeadSection] = Field(min_length=1)
    cv: int | None = Field(default=None, ge=2)
    seed: int = 0
    out: str

    @field_validator("heads")
    @classmethod
    def _check_heads(cls, heads: list[HeadSection]) -> list[HeadSection]:
        for head in heads:
            for settings in head.expand():
                parse_settings(head.kind, settings)
        return heads

    def extractions(self, run: RunOptions) -> Iterator[tuple[BackboneSection, ExtractOptions]]:
        """Yield what to extract for each backbone."""
        split = self.split.rule if isinstance(self.split, SplitSection) else self.split
        seed = self.split.seed if isinstance(self.split, SplitSection) else self.seed
        dataset = DatasetOptions(images=self.images, labels=self.labels, split=split, seed=seed)
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
            content = yaml.safe_load(stream)
    except OSError as error:
        raise PipelineError(f"cannot read {str(file)!r}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PipelineError(f"{str(file)!r} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise PipelineError(f"{str(file)!r} should hold keys: {', '.join(Experiment.model_fields)}")
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        raise PipelineError(f"{file}: {_explain(error)}") from error
    for backbone in experiment.backbones:
        backbone.to_options()
    return experiment


def _explain(error: ValidationError) -> str:
    """Say the first thing that is wrong, in words of the file."""
    first = error.errors()[0]
    # The names of union members (SplitSection) are ours, not the user's.
    place = [part for part in first["loc"] if not (isinstance(part, str) and part[:1].isupper())]
    where = ".".join(str(part) for part in place)
    if first["type"] == "extra_forbidden":
        known = _known_keys(place)
        near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
        return f"unknown key {str(place[-1])!r} ({where}); {hint}"
    if first["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {first['msg'].lower()}, not {first['input']!r}"


def _known_keys(place: list[int | str]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {"backbones": BackboneSection, "split": SplitSection}
    section = sections.get(str(place[0]), Experiment) if len(place) > 1 else Experiment
    return list(section.model_fields)
