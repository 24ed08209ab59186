"""The keys of experiment.yaml, and what is said of one that does not fit.

What the command line takes is a key here too, because both come from the same declared options.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator

from permafrost.pipeline.audit.options import AuditOptions, SelectOptions
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.experiments.yaml_text import read_yaml
from permafrost.pipeline.models.record import AnswerOptions
from permafrost.pipeline.options import (
    DEFAULT_CACHE,
    DatasetOptions,
    FeatureOptions,
    RunOptions,
    name_key,
)
from permafrost.pipeline.parsers import parse_names, read_whole
from permafrost.pipeline.sweeps.plan import SweepOptions
from permafrost.pipeline.tasks.task import TaskOptions
from permafrost.pipeline.tracking import TrackOptions
from permafrost.stages.backbones.preprocessing import parse_views

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Options = TypeVar("Options", bound=DataclassInstance)

# What YAML gives for an option, by the parser of its text; for any other parser, a number or text.
_KINDS: Mapping[Any, Any] = {
    None: str,
    Path: str,
    read_whole: int,
    parse_names: list[str],
    parse_views: list[str] | str,
}
# Settings of heads whose value is a list itself.
_LISTS = ("hidden", "filters")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _is_key(option: Any) -> bool:
    """Tell whether a field is declared as an option that has a default."""
    has_default = not option.default is option.default_factory is MISSING
    return has_default and bool(option.metadata) and "options" not in option.metadata


def _with_options(
    *options: type[DataclassInstance], without: str = ""
) -> Callable[[type[_Section]], type[_Section]]:
    """Add the keys of what is declared as an option; ``null`` stands for the default."""
    keys: dict[str, Any] = {
        name_key(option): (_find_kind(option) | None, None)
        for one in options
        for option in fields(one)
        if _is_key(option)
    }

    def add(section: type[_Section]) -> type[_Section]:
        new = {
            key: kind for key, kind in keys.items() if key not in (*section.model_fields, without)
        }
        return create_model(section.__name__, __base__=section, **new)

    return add


def _find_kind(option: Any) -> Any:
    """Return the type of what YAML gives for an option."""
    if option.metadata.get("action") == "store_true":
        return bool
    return _KINDS.get(option.metadata.get("type"), int | str)


def read_section(options: type[Options], keys: Mapping[str, Any], **named: Any) -> Options:
    """Build options from the keys of a section, and from what has no key.

    Raises
    ------
    PipelineError, StageError
        A value cannot be used.
    """
    given = dict(named)
    for option in fields(options):
        value, parse = keys.get(name_key(option)), option.metadata.get("type")
        if not option.metadata or value is None or option.name in named:
            continue
        if _KINDS.get(parse) in (str, None) and parse is not None:
            value = parse(str(value))
        given[option.name] = tuple(value) if isinstance(value, list) else value
    return options(**given)


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


@_with_options(FeatureOptions)
class BackboneSection(_Section):
    """One backbone and the layers to keep of it; the other keys are options of ``extract``."""

    name: str
    layers: list[str] = Field(min_length=1)


class PredictSection(_Section):
    """Images to put through the best head, and the file with what it says of them."""

    images: str
    out: str
    reject: float = Field(default=0.0, ge=0, le=1, strict=False)
    by: str | None = None


@_with_options(AuditOptions)
class AuditSection(_Section):
    """What looks wrong in the data; the other keys are options of ``audit``."""

    layer: str | None = None
    set: dict[str, Any] | None = None
    out: str | None = None


# What is unsure is said on the layer of the best head, by a head that `select` fits itself.
@_with_options(SelectOptions, without="model")
class SelectSection(_Section):
    """What to label next; the other keys are options of ``select``."""

    n: int
    out: str


class HeadSection(BaseModel):
    """A head; a setting with a list of values stands for one head each.

    `layers` are those that it is tried on, by default all that the sweep goes over.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str
    layers: list[str] | str | None = Field(default=None, min_length=1)

    def list_layers(self) -> list[str]:
        """Return its own layers; none for all."""
        if isinstance(self.layers, str):
            return list(parse_names(self.layers))
        return self.layers or []

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
        if not value and name not in _LISTS:
            raise PipelineError(f"{name}: [] stands for no head at all; give it a value or drop it")
        if name in _LISTS and not any(isinstance(part, list) for part in value):
            return [value]
        return value


@_with_options(DatasetOptions, TaskOptions, SweepOptions, AnswerOptions, RunOptions, TrackOptions)
class ExperimentSection(_Section):
    """A whole experiment; the other keys are options of ``extract`` and ``sweep``.

    Relative paths start from the folder the command runs in, as on the command line.
    """

    split: SplitSection | str | None = None
    split_names: dict[str, str] | str | None = None
    classes: list[str | int] | str | None = Field(default=None, min_length=1)
    cache: str = str(DEFAULT_CACHE)
    materialize: bool = False
    backbones: list[BackboneSection] = Field(min_length=1)
    heads: list[HeadSection] = Field(min_length=1)
    out: str
    predict: list[PredictSection] = []
    audit: AuditSection | None = None
    select: SelectSection | None = None
    export: str | None = None
    export_format: str | None = None

    def list_classes(self) -> list[str] | None:
        """Return the classes as the command line takes them."""
        if self.classes is None:
            return None
        names = parse_names(self.classes) if isinstance(self.classes, str) else self.classes
        return list(dict.fromkeys(map(str, names)))

    @field_validator("split")
    @classmethod
    def _check_split(cls, split: SplitSection | str | None) -> SplitSection | str | None:
        if isinstance(split, SplitSection) and not split.rule:
            raise ValueError("name a share, as {test: 0.3}")
        return split

    @field_validator("predict", mode="before")
    @classmethod
    def _list_predictions(cls, predict: object) -> object:
        return [predict] if isinstance(predict, dict) else predict or []


def read_sections(file: Path) -> ExperimentSection:
    """Read an experiment file, and check its keys and the types of their values.

    Raises
    ------
    PipelineError
        The file cannot be read, or holds something else; a misspelt key names the nearest valid
        one.
    """
    try:
        with file.open(encoding="utf-8") as stream:
            content = read_yaml(stream)
    except OSError as error:
        raise PipelineError(
            f"cannot read {str(file)!r}: {error.strerror}; name an experiment.yaml"
        ) from error
    except ValueError as error:
        # Also of bytes that are not UTF-8, and of an unquoted 2024-13-01, which is no date.
        raise PipelineError(
            f"{str(file)!r} is not YAML: {error}; mend it, or name an experiment.yaml"
        ) from error
    if not isinstance(content, dict):
        raise PipelineError(
            f"{str(file)!r} should hold keys: {', '.join(ExperimentSection.model_fields)}"
        )
    try:
        return ExperimentSection.model_validate(content)
    except ValidationError as error:
        raise PipelineError(f"{file}: {_explain(error)}") from error


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
    types = ("SplitSection", "int", "str", "list[str]", "dict[str,str]")
    return [str(part) for part in loc if part not in types]


def _find_section(places: list[str]) -> type[BaseModel]:
    sections: dict[str, type[BaseModel]] = {
        "split": SplitSection,
        "backbones": BackboneSection,
        "heads": HeadSection,
        "predict": PredictSection,
        "audit": AuditSection,
        "select": SelectSection,
    }
    return sections[places[0]] if places else ExperimentSection
