"""How a run ends early, and which exit status says so.

::

    PipelineError               exit_status 2: one line to the user, no traceback
    ├── StoppedError            exit_status 3: an image or a value stopped the run
    └── UnavailableError        exit_status 75: what the run needs is not there now
    Interrupted                 exit_status 129, 130 or 143: SIGHUP, SIGINT or SIGTERM

The stages and the cache have hierarchies of their own (`stages.errors`, `cache.errors`).
"""

from __future__ import annotations

from typing import ClassVar

from permafrost.refusals import TRY_AGAIN_STATUS

# The exit status that says that an error is nobody's but ours.
BUG_STATUS = 1


class PipelineError(Exception):
    """Options that make no sense together, or an experiment file that cannot be used."""

    exit_status: ClassVar[int] = 2


class StoppedError(PipelineError):
    """An image that cannot be read, with ``--on-error fail``, or a value that cannot be stored."""

    exit_status: ClassVar[int] = 3


class UnavailableError(PipelineError):
    """What the run needs is not there now, as a cluster or memory; another run may find it."""

    exit_status: ClassVar[int] = TRY_AGAIN_STATUS


class Interrupted(BaseException):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_status = 128 + number


class UnreadableError(StoppedError):
    """An image that cannot be read, where one is enough to stop.

    Parameters
    ----------
    path, reason : str
    remedy : str
        How to go on without the image, in the words of the command line or of Python.
    """

    def __init__(
        self, path: str, reason: str, remedy: str = "--on-error skip goes on without"
    ) -> None:
        # All of them, so that the error survives the way back from a worker process.
        super().__init__(path, reason, remedy)
        self.path = path
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot read {self.path!r}: {self.reason}; {self.remedy}"
