"""How a head's settings are declared and parsed, from ``--set KEY=VALUE`` or from YAML alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, TypeVar

from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.matrices.scaling import LAYER_SCALES, SCALES
from permafrost.stages.numbers import parse_number

T = TypeVar("T")


def setting(default: T, parse: Callable[[object], T], wanted: str) -> T:
    """Declare one field of a settings dataclass.

    Parameters
    ----------
    default : T
        The value when the user says nothing.
    parse : callable
        Text or a typed value in, the setting out; raises ValueError or TypeError when it is
        neither.
    wanted : str
        What `parse` accepts, as the end of "give ...".
    """
    return dataclasses.field(default=default, metadata={"parse": parse, "wanted": wanted})


def number(accepts: Callable[[float], bool]) -> Callable[[object], float]:
    """Return a parser of the numbers for which `accepts` is true."""

    def parse(value: object) -> float:
        parsed = _to_float(value)
        if not accepts(parsed):
            raise ValueError(value)
        return parsed

    return parse


def whole(minimum: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from `minimum` on."""

    def parse(value: object) -> int:
        parsed = _to_float(value)
        if not (parsed.is_integer() and parsed >= minimum):
            raise ValueError(value)
        return int(parsed)

    return parse


def choice(*names: str) -> Callable[[object], str]:
    """Return a parser of one of `names`; YAML's ``null`` is the name ``none``."""

    def parse(value: object) -> str:
        name = "none" if value is None else str(value).strip().lower()
        if name not in names:
            raise ValueError(value)
        return name

    return parse


def text(value: object) -> str:
    """Parse any text on one line."""
    parsed = "" if value is None else str(value).strip()
    if not parsed.isprintable():
        raise ValueError(value)
    return parsed


def layer_sizes(value: object) -> tuple[int, ...]:
    """Parse ``256,128``, ``[256, 128]``, ``256`` or a sequence of whole numbers from 1 on."""
    parse = whole(1)
    if isinstance(value, str):
        inside = value.strip().removeprefix("[").removesuffix("]").strip()
        return tuple(map(parse, inside.split(","))) if inside else ()
    if isinstance(value, list | tuple):
        return tuple(map(parse, value))
    return (parse(value),)


# The classes, or what stands for all of them, by weight.
ClassWeights = str | tuple[tuple[str, float], ...]
CLASS_WEIGHTS_WANTED = "none, balanced, or a weight above 0 for some classes, as in cat:1,dog:3"


def class_weights(value: object) -> ClassWeights:
    """Parse ``none``, ``balanced``, ``cat:1,dog:3`` or a mapping; pairs come sorted by class."""
    if value is None or (isinstance(value, str) and ":" not in value):
        return choice("none", "balanced")(value)
    if isinstance(value, str):
        inside = value.strip().removeprefix("[").removesuffix("]")
        value = [part.rpartition(":")[::2] for part in inside.split(",")]
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple):
        raise TypeError(value)
    parse_weight = number(lambda weight: 0 < weight < math.inf)
    weights = {str(name).strip(): parse_weight(weight) for name, weight in pairs}
    if len(weights) < max(1, len(pairs)):
        raise ValueError(value)
    return tuple(sorted(weights.items()))


def scale_setting(default: str = "standard") -> str:
    """Declare ``scale``, which is one thing for all heads."""
    return setting(default, choice(*SCALES), f"one of {', '.join(SCALES)}")


def layer_scale_setting(default: str = "standard") -> str:
    """Declare ``scale`` of heads that can scale each layer of several by itself."""
    return setting(default, choice(*LAYER_SCALES), f"one of {', '.join(LAYER_SCALES)}")


def dropout_setting(default: float) -> float:
    """Declare a part of values that is dropped while a network is trained."""
    return setting(default, number(lambda d: 0 <= d < 1), "a number from 0 to below 1")


def rate_setting(default: float) -> float:
    """Declare ``learning_rate``."""
    return setting(default, number(lambda r: 0 < r < math.inf), "a number above 0")


def count_setting(default: int, *, minimum: int = 1) -> int:
    """Declare a whole number, of epochs, say."""
    return setting(default, whole(minimum), f"a whole number from {minimum} on")


def optimizer_setting() -> str:
    """Declare ``optimizer``: Keras' Adam, or its SGD with momentum."""
    return setting("adam", choice("adam", "sgd"), "adam or sgd")


def class_weight_setting() -> ClassWeights:
    """Declare ``class_weight``, which is one thing for all heads."""
    default: ClassWeights = "none"
    declared: ClassWeights = setting(default, class_weights, CLASS_WEIGHTS_WANTED)
    return declared


def find_class_weights(weighting: ClassWeights, classes: Iterable[str]) -> dict[str, float]:
    """Return the weight of each class that has one of its own.

    Raises
    ------
    UnknownNameError
        A weight is given to what is not one of `classes`.
    """
    if isinstance(weighting, str):
        return {}
    known = list(classes)
    for name, _ in weighting:
        if name not in known:
            raise UnknownNameError("class", name, known, where="in class_weight")
    return dict(weighting)


def _to_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real | str):
        raise TypeError(value)
    return parse_number(value) if isinstance(value, str) else float(value)


def parse_fields(cls: type[Any], settings: Mapping[str, object], *, where: str) -> Any:
    """Build the settings dataclass `cls` from what the user wrote.

    Parameters
    ----------
    cls : type
        A dataclass whose fields were declared with `setting`.
    settings : mapping of str to object
        Text or typed values; what is missing takes its default.
    where : str
        The owner of the settings in error messages, as in "logreg".

    Raises
    ------
    UnknownNameError
        A setting does not exist; the nearest one is proposed.
    InputError
        A value cannot be used.
    """
    declared = {field.name: field for field in dataclasses.fields(cls)}
    for name in settings:
        if name not in declared:
            raise UnknownNameError("setting", str(name), declared, where=f"of {where}")
    return cls(**{n: _parse_field(declared[n], v, where=where) for n, v in settings.items()})


def _parse_field(field: dataclasses.Field[Any], value: object, *, where: str) -> object:
    try:
        return field.metadata["parse"](value)
    except (ValueError, TypeError, OverflowError):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        raise InputError(
            f"{where} cannot use {field.name}={value}: give {field.metadata['wanted']}"
            f" (default {default})"
        ) from None
