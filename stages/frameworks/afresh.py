"""Keras as it is before anything was built or set, in a process where much may have been."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


def run_afresh(call: Callable[[], Result], *, timeout_s: float | None = None) -> Result:
    """Call in a thread of its own, and wait for what it returns or raises.

    Keras counts layers (conv2d_94 in a second InceptionV3) and keeps its dtype policy, seeds and
    variables without values by thread. In a new one a name means the same layer in every run, and
    what the caller has set is neither heeded nor lost. `keras.utils.clear_session` would take it
    from all threads.

    An interrupted process does not wait for it.

    Parameters
    ----------
    call : callable
    timeout_s : float, optional
        After so many seconds the call is left to itself.

    Raises
    ------
    TimeoutError
        That time is over.
    """
    result: Future[Result] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
            result.set_exception(error)

    Thread(target=run, daemon=True).start()
    return result.result(timeout_s)
