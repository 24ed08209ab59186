"""A preset's files: fetched, and checked before any of them is loaded.

A preset is a configuration, weights, and how images are converted. Of what else lies in its folder
(tokenizers, tasks, code) nothing is read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from permafrost.stages.errors import InputError, UnknownNameError, WeightsError, in_one_line
from permafrost.stages.frameworks.afresh import run_afresh
from permafrost.stages.frameworks.model_file import check_config
from permafrost.stages.frameworks.reaching import PATIENCE_S, is_reached
from permafrost.stages.frameworks.weights_file import check_weights
from permafrost.stages.presets.handles import (
    CONFIG_NAME,
    HUGGING_FACE,
    KAGGLE,
    find_folder,
    list_versions,
)

CONVERTER_NAME = "image_converter.json"
_WEIGHTS = "model.weights.h5"
_SHARDS = "model.weights.json"
# Of presets in the formats of Transformers and timm, which KerasHub converts.
_SAFETENSORS = "model.safetensors"
_PREPROCESSOR = "preprocessor_config.json"


def fetch_preset(preset: str) -> Path:
    """Return the folder that holds the files of a preset; what is not here is downloaded.

    Parameters
    ----------
    preset : str
        As `parse_preset` returns it.

    Raises
    ------
    UnknownNameError
        KerasHub has no preset of that name.
    WeightsError
        A file is neither here nor to be had.
    """
    folder = find_folder(preset)
    if folder is not None:
        return folder
    handle = preset if "://" in preset else _find_handle(preset)
    config = _fetch(handle, CONFIG_NAME, preset)
    if config is None:
        raise WeightsError(f"the preset {preset!r} has no {CONFIG_NAME}; name another")
    is_hub = "registered_name" in read_json(config)
    wanted = [CONVERTER_NAME, _WEIGHTS] if is_hub else [_PREPROCESSOR, _SAFETENSORS]
    found = [_fetch(handle, name, preset) for name in wanted]
    if is_hub and found[-1] is None:
        index = _fetch(handle, _SHARDS, preset)
        for name in _list_shards(index) if index else ():
            _fetch(handle, name, preset)
    return config.parent


def fetch_file(preset: str, name: str) -> Path | None:
    """Return where one more file of a preset lies, after `fetch_preset`; None where it has none.

    Raises
    ------
    WeightsError
        It is neither here nor to be had.
    """
    folder = find_folder(preset)
    if folder is not None:
        return folder / name if (folder / name).is_file() else None
    return _fetch(preset if "://" in preset else _find_handle(preset), name, preset)


def check_preset(folder: Path) -> int | None:
    """Refuse a preset that is more than KerasHub's own vision models, and numbers.

    Returns
    -------
    int, optional
        How many numbers, where they are in Keras' format.

    Raises
    ------
    WeightsError
        The reason, in one line.
    """
    try:
        config = read_json(folder / CONFIG_NAME)
        check_config(config)
        if (folder / CONVERTER_NAME).is_file():
            check_config(read_json(folder / CONVERTER_NAME))
        if "registered_name" in config:
            return sum(check_weights(folder / name) for name in _list_weights(folder))
        if (folder / _SAFETENSORS).is_file():
            return None
        raise WeightsError(f"it has no {_SAFETENSORS}")
    except (OSError, ValueError, RecursionError, WeightsError) as error:
        raise WeightsError(
            f"the preset {str(folder)!r} is refused: {in_one_line(error)}"
        ) from error


def _list_weights(folder: Path) -> list[str]:
    if (folder / _WEIGHTS).is_file() or not (folder / _SHARDS).is_file():
        return [_WEIGHTS]
    return _list_shards(folder / _SHARDS)


def _list_shards(index: Path) -> list[str]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise WeightsError(f"{index.name} has no weight_map")
    names = {
        name
        for place in places.values()
        for name in (place if isinstance(place, list) else [place])
    }
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+\.weights\.h5", name):
            raise WeightsError(f"{index.name} names {str(name)[:80]!r}, which is no file beside it")
    return sorted(names)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; `WeightsError` where it is something else."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise WeightsError(f"{path.name} is no JSON object")
    return found


def _find_handle(name: str) -> str:
    """Return where KerasHub has one of its own presets from."""
    import keras_hub

    presets = keras_hub.models.Backbone.presets
    if name not in presets:
        raise UnknownNameError(
            "preset of KerasHub", name, presets, remedy="or name a folder, as hub:./folder"
        )
    return str(presets[name]["kaggle_handle"])


def _fetch(handle: str, name: str, preset: str) -> Path | None:
    """Return where a file lies; None where the preset has none."""
    try:
        found = _download(handle, name)
        return Path(found) if found else None
    except Exception as error:  # The hubs raise their own, and those of what they stand on.
        if _is_missing(error):
            return None
        raise WeightsError(
            f"{name} of the preset {preset!r} is not on this machine and cannot be downloaded"
            f" ({in_one_line(error)[:120]}); get the files of {_name_page(handle)} and name their"
            " folder, as hub:./folder"
        ) from error


def _download(handle: str, name: str) -> str | None:
    try:
        if handle.startswith(HUGGING_FACE):
            return _download_from_hugging_face(handle.removeprefix(HUGGING_FACE), name)
        return _download_from_kaggle(handle, name)
    except ImportError as error:
        raise InputError(
            f"{handle} needs the package {error.name}; get it with: pip install {error.name}"
        ) from error


def _download_from_hugging_face(repository: str, name: str) -> str | None:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    # Where it is told to be offline, it asks nobody.
    if constants.HF_HUB_OFFLINE or is_reached(constants.ENDPOINT):
        return str(hf_hub_download(repository, name))
    found = try_to_load_from_cache(repository, name)
    if found is None:
        raise OSError(f"{constants.ENDPOINT} does not answer")
    # Otherwise a mark that there is none.
    return found if isinstance(found, str) else None


def _download_from_kaggle(handle: str, name: str) -> str:
    from kagglehub import model_download
    from kagglesdk.kaggle_env import get_endpoint, get_env

    endpoint, timeout_s = get_endpoint(get_env()), None
    if not is_reached(endpoint):
        # A file of a certain version that lies here is found without a question.
        timeout_s = PATIENCE_S
        handle += f"/{max(versions, key=int)}" if (versions := list_versions(handle)) else ""
    model = handle.removeprefix(KAGGLE)
    try:
        return str(run_afresh(lambda: model_download(model, name), timeout_s=timeout_s))
    except TimeoutError as error:
        raise OSError(f"{endpoint} does not answer") from error


def _is_missing(error: Exception) -> bool:
    """Tell whether the hub was reached, and has no such file."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    is_unreached = "LocalEntryNotFoundError" in kinds
    says_so = re.search("404 Client Error|is not present in the model files", str(error))
    return not is_unreached and ("EntryNotFoundError" in kinds or says_so is not None)


def _name_page(handle: str) -> str:
    if handle.startswith(HUGGING_FACE):
        return f"https://huggingface.co/{handle.removeprefix(HUGGING_FACE)}"
    return f"https://www.kaggle.com/models/{handle.removeprefix(KAGGLE)}"
