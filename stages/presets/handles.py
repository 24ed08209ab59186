"""What a user names as a preset, and which version of it lies here, without KerasHub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from permafrost.stages.errors import InputError

PREFIX = "hub:"
CONFIG_NAME = "config.json"
# The last layer of a preset that compares images with texts: what it compares.
IMAGE_EMBEDDING = "image_embedding"
KAGGLE = "kaggle://"
HUGGING_FACE = "hf://"
_EXAMPLES = (
    "hub:dinov2_base, hub:hf://ORG/NAME, hub:kaggle://ORG/MODEL/keras/VARIATION, hub:./folder"
)


def parse_preset(text: str) -> str:
    """Read what follows ``hub:``.

    Returns
    -------
    str
        A preset's name, a handle, or the path of a folder with a ``/`` in it.

    Raises
    ------
    InputError
        It is neither, or the folder holds no preset.
    """
    preset = text.strip()
    kaggle = rf"{KAGGLE}[\w.-]+/[\w.-]+/[\w.-]+/[\w.-]+(/\d+)?"
    if re.fullmatch(rf"[\w-][\w.-]*|{HUGGING_FACE}[\w.-]+/[\w.-]+|{kaggle}", preset):
        return preset
    if not preset or "://" in preset:
        raise InputError(f"cannot read the preset {preset!r}; write it as {_EXAMPLES}")
    # Unlike pathlib, these say no of a name that is longer than one can be.
    if not os.path.isfile(os.path.join(preset, CONFIG_NAME)):  # noqa: PTH113, PTH118
        what = f"has no {CONFIG_NAME}" if os.path.isdir(preset) else "is no folder"  # noqa: PTH112
        raise InputError(
            f"{preset!r} {what}; name a folder that save_to_preset wrote, or write {_EXAMPLES}"
        )
    return preset if "/" in preset else f"./{preset}"


def find_folder(preset: str) -> Path | None:
    """Return the folder that a preset names, where it is one of this machine's."""
    return Path(preset) if "/" in preset and "://" not in preset else None


def find_revision(preset: str) -> str:
    """Return which version of a handle without one lies in the cache of its hub; ``""`` for others.

    Those that KerasHub names have a version with each version of KerasHub.
    """
    if preset.startswith(HUGGING_FACE):
        name = preset.removeprefix(HUGGING_FACE).replace("/", "--")
        reference = _find_hugging_face_cache() / f"models--{name}" / "refs" / "main"
        return reference.read_text(encoding="utf-8").strip() if reference.is_file() else ""
    return ",".join(list_versions(preset))


def list_versions(preset: str) -> list[str]:
    """List the versions that lie in Kaggle's cache, of a handle without one; none for others."""
    if not preset.startswith(KAGGLE) or re.search(r"/\d+$", preset):
        return []
    folder = _find_kaggle_cache() / "models" / preset.removeprefix(KAGGLE)
    return sorted(path.name for path in folder.glob("[0-9]*") if path.name.isdigit())


def _find_hugging_face_cache() -> Path:
    """Return the folder that the package huggingface_hub keeps its files in."""
    home = os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE", Path(home) / "hub"))


def _find_kaggle_cache() -> Path:
    """Return the folder that the package kagglehub keeps its files in."""
    return Path(os.environ.get("KAGGLEHUB_CACHE", Path.home() / ".cache" / "kagglehub"))
