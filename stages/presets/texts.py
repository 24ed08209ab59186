"""The text tower of a preset that compares images with texts: CLIP's, SigLIP's, MetaCLIP 2's.

Tokenizers are built of their vocabulary and of plain settings. Nothing that a preset's files name
is looked up, so that a stranger's folder stays data here, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.errors import InputError, StageError, WeightsError, in_one_line
from permafrost.stages.frameworks.afresh import run_afresh
from permafrost.stages.frameworks.hub_classes import start_hub
from permafrost.stages.frameworks.start import start_keras
from permafrost.stages.presets.folder import check_preset, fetch_file, fetch_preset
from permafrost.stages.presets.handles import CONFIG_NAME
from permafrost.stages.presets.loading import build_backbone, check_size

# Prompts that are run at a time.
_BATCH = 64
_ASSETS = "assets/tokenizer"
_VOCABULARY, _MERGES, _PIECES = "vocabulary.json", "merges.txt", "vocabulary.spm"
# What of a tokenizer's and a preprocessor's configuration decides about tokens.
_SETTINGS: Mapping[str, type] = {
    "sequence_length": int,
    "add_start_token": bool,
    "add_end_token": bool,
    "to_lower": bool,
    "canonicalize_text": bool,
    "pad_with_end_token": bool,
    "add_prefix_space": bool,
    "add_bos": bool,
    "add_eos": bool,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tower:
    """Which of KerasHub's classes make tokens of texts, and of which files."""

    tokenizer: str
    preprocessor: str
    assets: tuple[str, ...]


_TOWERS: Mapping[str, _Tower] = {
    "CLIPBackbone": _Tower(
        tokenizer="CLIPTokenizer", preprocessor="CLIPPreprocessor", assets=(_VOCABULARY, _MERGES)
    ),
    "MetaCLIP2Backbone": _Tower(
        tokenizer="MetaCLIP2Tokenizer",
        preprocessor="MetaCLIP2CausalLMPreprocessor",
        assets=(_PIECES,),
    ),
    "SigLIPBackbone": _Tower(
        tokenizer="SigLIPTokenizer", preprocessor="SigLIPPreprocessor", assets=(_PIECES,)
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEmbeddings:
    """Texts in the space of the image embeddings; see `stages.matrices.matrix.TextEmbeddings`.

    Attributes
    ----------
    vectors : ndarray of float32, shape (n, n_features)
        As the model projects them, of any length.
    scale : float
        What the model multiplies cosines by.
    bias : float, optional
        What it adds, where it judges each pair of image and text by itself.
    """

    vectors: NDArray[np.float32]
    scale: float
    bias: float | None


def embed_texts(preset: str, texts: Sequence[str]) -> TextEmbeddings:
    """Run texts through a preset's tokenizer and text tower, in float32.

    Parameters
    ----------
    preset : str
        As `handles.parse_preset` returns it.
    texts : sequence of str, length n

    Raises
    ------
    InputError
        The preset has no text tower, or a package is missing.
    WeightsError
        Its files cannot be had or used.
    """
    start_keras()
    return run_afresh(lambda: _embed(preset, texts))


def _embed(preset: str, texts: Sequence[str]) -> TextEmbeddings:
    start_hub()
    folder = fetch_preset(preset)
    n_values = check_preset(folder)
    tower = _find_tower(folder, preset)
    _fetch_tokenizer(preset, tower)
    try:
        if n_values is not None:
            check_size(folder, n_values)
        backbone = build_backbone(folder)
        return _run(backbone, _tokenize(folder, tower, backbone, texts))
    except StageError:
        raise
    except ImportError as error:
        raise InputError(f"the tokenizer of {preset!r}: {in_one_line(error)}") from error
    except Exception as error:  # What Keras', KerasHub's and the tokenizers' parsers raise.
        raise WeightsError(
            f"the text tower of the preset {preset!r} cannot be run: {in_one_line(error)}"
        ) from error


def _find_tower(folder: Path, preset: str) -> _Tower:
    name = _read_object(folder / CONFIG_NAME).get("class_name", "")
    if not isinstance(name, str) or name not in _TOWERS:
        raise InputError(
            f"the preset {preset!r} has no text tower that is known here"
            f" ({name or 'it is not in the format of KerasHub'}); name one of CLIP, SigLIP or"
            " MetaCLIP 2"
        )
    return _TOWERS[name]


def _fetch_tokenizer(preset: str, tower: _Tower) -> None:
    for name in tower.assets:
        if fetch_file(preset, f"{_ASSETS}/{name}") is None:
            raise WeightsError(
                f"the preset {preset!r} has no tokenizer ({_ASSETS}/{name}), which texts need; save"
                " it there with tokenizer.save_to_preset, or name another"
            )
    for name in ("tokenizer.json", "preprocessor.json"):
        fetch_file(preset, name)


def _tokenize(
    folder: Path, tower: _Tower, backbone: Any, texts: Sequence[str]
) -> NDArray[np.int32]:
    """Return the tokens of texts as KerasHub's preprocessor packs them, shape (n, length)."""
    import keras_hub

    assets = folder / _ASSETS
    if _PIECES in tower.assets:
        given: dict[str, Any] = {"proto": (assets / _PIECES).read_bytes()}
    else:
        merges = (assets / _MERGES).read_text(encoding="utf-8").splitlines()
        given = {"vocabulary": _read_object(assets / _VOCABULARY), "merges": merges}
    own = _read_settings(folder / "tokenizer.json", tower.tokenizer)
    tokenizer = getattr(keras_hub.models, tower.tokenizer)(**given, **own)
    packing = _read_settings(folder / "preprocessor.json", tower.preprocessor)
    preprocessor = getattr(keras_hub.models, tower.preprocessor)(tokenizer=tokenizer, **packing)
    if "sequence_length" not in packing:
        longest = backbone.text_encoder.max_sequence_length
        preprocessor.sequence_length = min(preprocessor.sequence_length, longest)
    prepared = preprocessor({"prompts": list(texts), "images": None})
    tokens = np.asarray(prepared["token_ids"], np.int32)
    if tokens.max(initial=0) >= backbone.text_encoder.vocabulary_size:
        raise WeightsError(
            f"its tokenizer gives the token {tokens.max()}, and its model knows"
            f" {backbone.text_encoder.vocabulary_size}: they do not belong together"
        )
    return tokens


def _run(backbone: Any, tokens: NDArray[np.int32]) -> TextEmbeddings:
    import keras

    taken = keras.Input(tokens.shape[1:], dtype="int32", name="token_ids")
    model = keras.Model(taken, backbone.get_text_embeddings(taken))
    head = next(layer for layer in backbone.layers if hasattr(layer, "logit_scale"))
    bias = getattr(head, "logit_bias", None)
    return TextEmbeddings(
        vectors=model.predict(tokens, batch_size=_BATCH, verbose=0),
        scale=float(np.exp(keras.ops.convert_to_numpy(head.logit_scale))),
        bias=None if bias is None else float(keras.ops.convert_to_numpy(bias)),
    )


def _read_settings(file: Path, kind: str) -> dict[str, Any]:
    """Return the plain settings in a configuration; none where it is of another class."""
    found = _read_object(file) if file.is_file() else {}
    config = found.get("config")
    if found.get("class_name") != kind or not isinstance(config, dict):
        return {}
    return {name: config[name] for name, of in _SETTINGS.items() if type(config.get(name)) is of}


def _read_object(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise WeightsError(f"{file.name} is no JSON object")
    return found
