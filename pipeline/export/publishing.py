"""Models in other formats than Keras' own put in their place: a file, two files or a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from permafrost.cache.disk.publish import (
    make_durable,
    note_change,
    published,
    remove_durably,
    sync,
    temporary_folder,
)
from permafrost.stages.export.formats import FORMATS, write_format

# The file without which a folder is no SavedModel.
SAVED_MODEL = "saved_model.pb"


def publish_format(network: Any, out: Path, form: str) -> None:
    """Write a model; what was there before stays until the whole of it is on the disk.

    Parameters
    ----------
    out : Path
        The file, or of a SavedModel the folder.
    """
    chosen = FORMATS[form]
    with temporary_folder(out.absolute().parent) as folder:
        written = folder / f"model{chosen.suffix}"
        write_format(network, written, form)
        if not chosen.suffix:
            make_durable(written)
            shutil.rmtree(out, ignore_errors=True)
            written.rename(out)
            sync(out.absolute().parent)
            note_change(out)
            return
        files = list_files(out, form)
        news = [written.with_suffix(file.suffix) for file in files]
        if len(files) > 1 and not all(map(_is_same, news, files)):
            # A reader finds no structure rather than that of other weights.
            remove_durably(out)
        for new, file in reversed(list(zip(news, files, strict=True))):
            with published(file) as temporary:
                shutil.move(new, temporary)


def _is_same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


def list_files(out: Path, form: str) -> list[Path]:
    """List the files that a written model consists of, the first of them first."""
    if not FORMATS[form].suffix:
        return sorted(file for file in out.rglob("*") if file.is_file())
    companion = FORMATS[form].companion
    return [out, out.with_suffix(companion)] if companion else [out]


def is_empty(folder: Path) -> bool:
    """Tell whether there is a folder, and nothing in it."""
    return folder.is_dir() and not any(folder.iterdir())
