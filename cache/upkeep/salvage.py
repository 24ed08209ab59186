"""Save the intact rows of a damaged shard, and put damaged files aside: nothing is ever deleted.

A damaged file leaves its place only after another shard with its intact rows has been published.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from permafrost.cache.disk.orphans import list_folder
from permafrost.cache.disk.publish import make_folder, sync
from permafrost.cache.shards.format import shard_name
from permafrost.cache.store.folders import mark_used
from permafrost.cache.upkeep.examine import ShardExam, examine_shard
from permafrost.cache.upkeep.rewrite import Part, write_parts
from permafrost.cache.upkeep.survey import SetSurvey, describe_shard

QUARANTINE = "quarantine"


def salvage_rows(shard: ShardExam, folder: Path) -> Path | None:
    """Write the intact rows of a shard as a new one into the folder of their feature set.

    A file that has the new one's name and does not hold these rows gets another name first.

    Returns
    -------
    Path or None
        The new shard; None where no row is intact.

    Raises
    ------
    DamagedError, OSError
        They cannot be read any more, or cannot be written; nothing has changed.
    """
    rows = np.flatnonzero(shard.intact)
    if shard.digests is None or shard.key is None or not len(rows):
        return None
    final = folder / shard_name(shard.digests[rows])
    if final.exists():
        if examine_shard(final, shard.key).damage is None:
            return final
        _move(final, folder)
    stored = describe_shard(shard.path, shard.key, shard.digests)
    survey = SetSurvey(folder=folder, key=shard.key, shards=[stored])
    return write_parts(survey, [Part(shard=stored, rows=rows)])


def quarantine(file: Path) -> Path:
    """Move a file into ``quarantine/`` beside it, under a name that is free there; return that."""
    folder = file.parent / QUARANTINE
    make_folder(folder, shared=True)
    place = _move(file, folder)
    sync(file.parent)
    mark_used(place)  # gc counts the days from now on.
    return place


def _move(file: Path, folder: Path) -> Path:
    """Move a file into a folder, numbered where its name is taken."""
    numbered = (folder / f"{file.stem}-{number}{file.suffix}" for number in itertools.count(1))
    place = next(
        place for place in itertools.chain([folder / file.name], numbered) if not place.exists()
    )
    file.rename(place)
    sync(folder)
    return place


def list_quarantined(folder: Path) -> list[Path]:
    """List what lies in the quarantine of a feature set's folder."""
    return sorted(list_folder(folder / QUARANTINE))
