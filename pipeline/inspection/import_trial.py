"""Packages imported one after the other: ``python -m …import_trial MODULE MODULE``.

In a process of its own, as what is broken may take its process along. After each it prints a
line of JSON, with what went wrong.
"""

from __future__ import annotations

import importlib
import json
import sys

from permafrost.stages.errors import in_one_line


def try_import(module: str) -> str | None:
    """Return what importing a module raises; None where it can be imported."""
    try:
        importlib.import_module(module)
    except BaseException as error:  # noqa: BLE001 - whatever a broken package raises is what is told
        return f"{type(error).__name__}: {in_one_line(str(error))}"
    return None


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(json.dumps({"module": name, "problem": try_import(name)}), flush=True)
