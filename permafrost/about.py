"""What this package says of itself: its version, and which packages it needs.

Imported by every command: what is slow to import is imported where it is used.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from permafrost.command import HOME, IS_CHECKOUT

NAME = "permafrost"
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?\s*(?:>=\s*([0-9.]+))?")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A package that is needed.

    Attributes
    ----------
    name : str
    extras : tuple of str
        Of that package.
    at_least : str
        The oldest version that will do; ``""`` for any.
    """

    name: str
    extras: tuple[str, ...] = ()
    at_least: str = ""


def read_version() -> str:
    """Return the version of this package."""
    if IS_CHECKOUT:
        return str(_read_project()["version"])
    return find_version(NAME) or "unknown"


def find_version(name: str) -> str | None:
    """Return the version of an installed package; None where there is none, or it does not say."""
    from importlib import metadata

    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name) or None
    return None


def list_requirements() -> dict[str, list[Requirement]]:
    """Return the packages that are needed: those of all under ``""``, and those of each extra."""
    if not IS_CHECKOUT:
        return sort_requirements(NAME)
    project = _read_project()
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {name: [parse_requirement(text) for text in texts] for name, texts in groups.items()}


def sort_requirements(package: str) -> dict[str, list[Requirement]]:
    """Sort what an installed package needs by the extra that it is of."""
    from importlib import metadata

    groups: dict[str, list[Requirement]] = {"": []}
    texts: list[str] = []
    with suppress(metadata.PackageNotFoundError):
        texts = metadata.requires(package) or []
    for text in texts:
        wanted, _, marker = text.partition(";")
        extra = _EXTRA.search(marker)
        groups.setdefault(extra[1] if extra else "", []).append(parse_requirement(wanted))
    return groups


def parse_requirement(text: str) -> Requirement:
    """Read ``tensorflow[and-cuda]>=2.17``."""
    found = _REQUIREMENT.match(text)
    if found is None:
        raise ValueError(f"{text!r} is no requirement")
    name, extras, at_least = found.groups()
    parts = tuple(part.strip() for part in (extras or "").split(",") if part.strip())
    return Requirement(name=name, extras=parts, at_least=at_least or "")


def _read_project() -> Any:
    import tomllib

    return tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
