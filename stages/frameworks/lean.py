"""A framework imported in half the time: no search for garbage, and nothing that it can do without.

Of the seconds that importing TensorFlow took, measured as 3.0 of one core, the garbage collector
spent 0.8, as thousands of modules made objects that all stayed; and 1.1 went to packages that Keras
looks for, to adapt itself to what a user of both may do.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# Keras and TensorFlow import them within a `try`: for its scikit-learn wrappers, for tables and
# sparse matrices as data, and for notebooks.
_OPTIONAL = ("IPython", "pandas", "scipy", "sklearn")
# Whether this process is ours alone, see `claim_process`.
_claims: list[bool] = []


def claim_process() -> None:
    """Say that nobody else's code uses Keras in this process: it may come without all it can do."""
    _claims[:] = [True]


@contextmanager
def importing_lean() -> Iterator[None]:
    """Import what is imported in the block without delay, and TensorFlow without what it can spare.

    Packages are left out only of a process that is `claim_process`'s, and only for the thread that
    the block runs in; what is imported already stays. After the block all can be imported.
    """
    was_enabled = gc.isenabled()
    finder = _Refusing(_OPTIONAL if _claims else ())
    gc.disable()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        if _claims:
            gc.freeze()  # or the next search goes through all of it, 0.3 s
        if was_enabled:
            gc.enable()


class _Refusing:
    """A finder of modules that says of some packages that they are not installed."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._thread = threading.get_ident()

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        """Raise ModuleNotFoundError, or leave a module to the next finder."""
        if name in self._names and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
