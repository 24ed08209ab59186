"""What is said of a class to a text tower: its name, in some sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from permafrost.stages.errors import UnknownNameError
from permafrost.stages.heads.settings import parse_pairs, setting, unwrap

# Where the name goes.
_NAME = "{}"


def parse_templates(value: object) -> tuple[str, ...]:
    """Parse ``a photo of a {};a picture of a {}``, or a list of such texts."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise TypeError(value)
    if isinstance(value, str):
        texts = unwrap(value).split(";")
    templates = tuple(str(text).strip() for text in texts)
    if not templates or not all(one.count(_NAME) == 1 and one.isprintable() for one in templates):
        raise ValueError(value)
    return templates


def parse_names(value: object) -> tuple[tuple[str, str], ...]:
    """Parse ``cat:house cat,dog:dog`` or a mapping; pairs come sorted by class."""
    names = parse_pairs(
        value, lambda name: str(name).strip(), part=lambda text: text.partition(":")
    )
    if not all(name.isprintable() and name for _, name in names):
        raise ValueError(value)
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShotSettings:
    """Settings of a classifier that is made of the names of its classes.

    Parameters
    ----------
    templates : tuple of str
        Sentences, with ``{}`` where the name goes. The mean over all of them stands for a class.
    names : tuple of (str, str)
        What some classes are called there; others by their label, with blanks for ``_``.
    """

    templates: tuple[str, ...] = setting(
        ("a photo of a {}.",),
        parse_templates,
        "sentences with {} where the name goes, separated by ;",
    )
    names: tuple[tuple[str, str], ...] = setting(
        (), parse_names, "a name for some classes, as in cat:house cat,dog:dog"
    )

    @property
    def scale(self) -> str:
        """That of its rows: cosines are compared."""
        return "l2"


def write_prompts(settings: ZeroShotSettings, classes: Sequence[str]) -> list[str]:
    """Return the sentences about each class, those of the first class first.

    Raises
    ------
    UnknownNameError
        What is given a name is no class.
    """
    names = dict(settings.names)
    for label in names:
        if label not in classes:
            raise UnknownNameError("class", label, classes, where="in names")
    return [
        template.replace(_NAME, names.get(label, label.replace("_", " ")))
        for label in classes
        for template in settings.templates
    ]
