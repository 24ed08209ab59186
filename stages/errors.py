"""Everything a stage may complain about.

::

    StageError                  exit_status 2: one line to the user, no traceback
    ├── InputError              a source, table, label or split that cannot be used
    ├── UnknownNameError        a name that does not exist; proposes the nearest ones
    ├── WeightsError            weights or a model file that cannot be loaded
    ├── UnreachableError        a server that stopped answering (exit_status 75)
    └── ImageError              one image that cannot be read (exit_status 3 when fatal)
        └── DecoderError        not this time; the image may be good
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import ClassVar

from permafrost.refusals import TRY_AGAIN_STATUS


class StageError(Exception):
    """Base of all errors that a user can cause and mend."""

    exit_status: ClassVar[int] = 2


class InputError(StageError):
    """A source, table, label or split that cannot be used."""


class WeightsError(StageError):
    """Weights or a model file that cannot be loaded."""


class UnreachableError(StageError):
    """A server that stopped answering; what was finished is kept."""

    exit_status: ClassVar[int] = TRY_AGAIN_STATUS


class ImageError(StageError):
    """One image that cannot be read; its text is the reason alone, without the path."""

    exit_status: ClassVar[int] = 3


class DecoderError(ImageError):
    """One image whose decoder failed for what may not be the image's fault: time, memory, a crash.

    Asked again, it may be read.
    """


def in_one_line(error: Exception | str) -> str:
    """Return what an error of another package says, in one line that is not too long."""
    plain = re.sub(r"\x1b\[\d*m", "", str(error))  # Keras writes some of it in bold.
    return " ".join(plain.split())[:300] or type(error).__name__


class UnknownNameError(StageError):
    """A name that does not exist.

    Parameters
    ----------
    kind : str
        What the name should have been: ``"layer"``, ``"backbone"``.
    name : str
        What the user wrote.
    known : iterable of str
        The names that exist; the nearest ones are proposed.
    where : str, optional
        Where it was looked for, as in "of vgg16".
    remedy : str, optional
        How to list the names.
    """

    def __init__(
        self, kind: str, name: str, known: Iterable[str], *, where: str = "", remedy: str = ""
    ) -> None:
        names = list(known)
        # A wrong case is the nearest miss of all, and unlike anything to difflib.
        spelt = {known.casefold(): known for known in names}
        close = difflib.get_close_matches(name.casefold(), spelt, n=3, cutoff=0.5)
        near = [spelt[one] for one in close]
        place = f" {where}" if where else ""
        if near:
            hint = f"did you mean {' or '.join(repr(n) for n in near)}?" + (remedy and " ")
        else:
            hint = f"there are: {', '.join(names[:20])}" if names else "there are none"
            hint += ", …" if len(names) > 20 else ""
            hint += remedy and "; "
        super().__init__(f"unknown {kind} {name!r}{place}; {hint}{remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        # Only the text travels between processes: what it was made of does not fit `__init__`.
        return InputError, (str(self),)
