"""Whether a server answers at all: what downloads weights would ask it for minutes, or for ever."""

from __future__ import annotations

import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from permafrost.stages.frameworks.afresh import run_afresh

# Somebody is waiting. A server behind a slow proxy takes two or three.
PATIENCE_S = 8
_reached: set[str] = set()


def is_reached(url: str) -> bool:
    """Tell whether the server of a URL answers, whatever it says; through a proxy where one is set.

    One that did is not asked again.
    """
    server = urllib.parse.urljoin(url, "/")
    if server not in _reached:
        try:
            run_afresh(lambda: _ask(server), timeout_s=PATIENCE_S)
        except (OSError, ValueError):  # ValueError: an address that is none.
            return False
        _reached.add(server)
    return True


def _ask(server: str) -> None:
    request = urllib.request.Request(server, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE_S).close()
    except urllib.error.HTTPError as error:
        error.close()
    except urllib.error.URLError as error:
        # Others may know its certificate.
        if not isinstance(error.reason, ssl.SSLError):
            raise


@contextmanager
def asking_before_downloads() -> Iterator[None]:
    """Have Keras ask whether the server of a file answers, before it downloads it."""
    import keras

    # Keras has no timeout, and its own name for the function that downloads.
    module: Any = sys.modules[keras.utils.get_file.__module__]
    download = module.urlretrieve

    def ask_and_download(url: str, *args: Any) -> Any:
        if not is_reached(url):
            raise urllib.error.URLError("its server does not answer")
        return download(url, *args)

    module.urlretrieve = ask_and_download
    try:
        yield
    finally:
        module.urlretrieve = download
