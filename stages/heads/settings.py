"""How a head's settings are declared and parsed, from ``--set KEY=VALUE`` or from YAML alike."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, TypeVar

from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.matrices.scaling import LAYER_SCALES
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


_parse_positive = number(lambda value: 0 < value < math.inf)


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


def unwrap(listed: str) -> str:
    """Return what stands between brackets, or all where there are none."""
    return listed.strip().removeprefix("[").removesuffix("]").strip()


def layer_sizes(value: object) -> tuple[int, ...]:
    """Parse ``256,128``, ``[256, 128]``, ``256`` or a sequence of whole numbers from 1 on."""
    parse = whole(1)
    if isinstance(value, str):
        value = unwrap(value).split(",") if unwrap(value) else ()
    return tuple(map(parse, value)) if isinstance(value, list | tuple) else (parse(value),)


def parse_pairs(
    value: object, parse: Callable[[object], T], *, part: Callable[[str], Iterable[str]]
) -> tuple[tuple[str, T], ...]:
    """Parse ``cat:1,dog:3``, a mapping or pairs; no class comes twice, and all come sorted.

    `part` parts the text of a pair into the class, the colon, and what `parse` makes the rest of.
    """
    if isinstance(value, str):
        value = [tuple(part(one))[::2] for one in unwrap(value).split(",") if unwrap(value)]
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if not isinstance(pairs, list | tuple):
        raise TypeError(value)
    parsed = {str(name).strip(): parse(other) for name, other in pairs}
    if len(parsed) < len(pairs):
        raise ValueError(value)
    return tuple(sorted(parsed.items()))


# The classes, or what stands for all of them, by weight.
ClassWeights = str | tuple[tuple[str, float], ...]
CLASS_WEIGHTS_WANTED = "none, balanced, or a weight above 0 for some classes, as in cat:1,dog:3"


def class_weights(value: object) -> ClassWeights:
    """Parse ``none``, ``balanced``, ``cat:1,dog:3`` or a mapping; pairs come sorted by class."""
    if value is None or (isinstance(value, str) and ":" not in value):
        return choice("none", "balanced")(value)
    weights = parse_pairs(value, _parse_positive, part=lambda text: text.rpartition(":"))
    if not weights:
        raise ValueError(value)
    return weights


def layer_scale_setting(default: str = "standard") -> str:
    """Declare ``scale`` of heads that can scale each layer of several by itself."""
    return setting(default, choice(*LAYER_SCALES), f"one of {', '.join(LAYER_SCALES)}")


def dropout_setting(default: float) -> float:
    """Declare a part of values that is dropped while a network is trained."""
    return setting(default, number(lambda d: 0 <= d < 1), "a number from 0 to below 1")


def positive_setting(default: float) -> float:
    """Declare a number above 0, as ``C`` or ``learning_rate``."""
    return setting(default, _parse_positive, "a number above 0")


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
