"""CSV and JSON files that commands write in one step, and only if their content changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from permafrost.cache.disk.publish import published
from permafrost.refusals import raise_refusal
from permafrost.stages.datasets.table import write_csv

# What differs between two runs of the same: what they had to do, and how long it took.
_COSTS = {
    *("seconds", "images_per_second", "computed", "reused", "fitted", "bytes_written", "shares"),
    *("bottleneck", "rotated", "fast_decoding"),
}
# The steps in a summary, each with costs of its own.
_PARTS = ("extractions", "predictions")


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


def write_summary(file: Path, value: dict[str, Any]) -> None:
    """Write a JSON file, unless the one that is there tells the same but for what the run cost."""
    known = read_json(file)
    if known is None or _drop_costs(known) != _drop_costs(json.loads(json.dumps(value))):
        write_json(file, value)


def _drop_costs(value: Any) -> Any:
    """Leave out what a run cost: of all of it, and of each part in its lists of objects."""
    if not isinstance(value, dict):
        return value
    kept = {name: part for name, part in value.items() if name not in _COSTS}
    lists = {name: kept[name] for name in _PARTS if isinstance(kept.get(name), list)}
    return kept | {name: list(map(_drop_costs, parts)) for name, parts in lists.items()}
