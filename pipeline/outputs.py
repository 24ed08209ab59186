"""CSV and JSON files that commands write in one step: whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from permafrost.cache.disk.publish import published
from permafrost.refusals import raise_refusal
from permafrost.stages.datasets.table import write_csv


def write_rows(file: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file in one step, see `write_csv`.

    Undecodable bytes of a file name are written as the file system has them.
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    with (
        published(file) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        write_csv(stream, header, columns)


def read_json(file: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file of an earlier fit; None where there is none.

    What the system does not let be read is an `OSError`: it is no reason to fit again.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise_refusal(error, file)
        return None
    return found if isinstance(found, dict) else None


def write_json(file: Path, value: object) -> None:
    """Write a JSON file in one step."""
    with published(file) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
