"""The text tower of a preset that compares images with texts: CLIP's, SigLIP's, MetaCLIP 2's.

Tokenizers are built of their vocabulary and of plain settings. Nothing that a preset's files name
is looked up, so that a stranger's folder stays data here, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.errors import InputError, WeightsError
from permafrost.stages.frameworks.afresh import run_afresh
from permafrost.stages.frameworks.start import start_keras
from permafrost.stages.presets.folder import fetch_file, read_json
from permafrost.stages.presets.handles import CONFIG_NAME
from permafrost.stages.presets.loading import build_backbone, opening

# Prompts that are run at a time.
_BATCH = 64
_ASSETS = "assets/tokenizer"
_VOCABULARY, _MERGES, _PIECES = "vocabulary.json", "merges.txt", "vocabulary.spm"
# What of a tokenizer's and a preprocessor's configuration decides about tokens.
_SETTINGS: Mapping[str, type] = {
    "sequence_length": int,
    **dict.fromkeys(("add_start_token", "add_end_token", "add_bos", "add_eos"), bool),
    **dict.fromkeys(("to_lower", "canonicalize_text"), bool),
    **dict.fromkeys(("pad_with_end_token", "add_prefix_space"), bool),
}


# Of each model: the tokenizer and the preprocessor, of KerasHub's, and the tokenizer's files.
_TOWERS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "CLIPBackbone": ("CLIPTokenizer", "CLIPPreprocessor", (_VOCABULARY, _MERGES)),
    "MetaCLIP2Backbone": ("MetaCLIP2Tokenizer", "MetaCLIP2CausalLMPreprocessor", (_PIECES,)),
    "SigLIPBackbone": ("SigLIPTokenizer", "SigLIPPreprocessor", (_PIECES,)),
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
    failure = f"the text tower of the preset {preset!r} cannot be run"
    with opening(preset, failure) as folder:
        kind = _find_kind(folder, preset)
        _fetch_tokenizer(preset, _TOWERS[kind][2])
        backbone = build_backbone(folder)
        return _run(backbone, _tokenize(folder, kind, backbone, texts))


def _find_kind(folder: Path, preset: str) -> str:
    name = read_json(folder / CONFIG_NAME).get("class_name", "")
    if not isinstance(name, str) or name not in _TOWERS:
        raise InputError(
            f"the preset {preset!r} has no text tower that is known here"
            f" ({name or 'it is not in the format of KerasHub'}); name one of CLIP, SigLIP or"
            " MetaCLIP 2"
        )
    return name


def _fetch_tokenizer(preset: str, assets: Sequence[str]) -> None:
    for name in assets:
        if fetch_file(preset, f"{_ASSETS}/{name}") is None:
            raise WeightsError(
                f"the preset {preset!r} has no tokenizer ({_ASSETS}/{name}), which texts need; save"
                " it there with tokenizer.save_to_preset, or name another"
            )
    for name in ("tokenizer.json", "preprocessor.json"):
        fetch_file(preset, name)


def _tokenize(folder: Path, kind: str, backbone: Any, texts: Sequence[str]) -> NDArray[np.int32]:
    """Return the tokens of texts as KerasHub's preprocessor packs them, shape (n, length)."""
    import keras_hub

    name, packer, files = _TOWERS[kind]
    assets, models = folder / _ASSETS, keras_hub.models
    if _PIECES in files:
        given: dict[str, Any] = {"proto": (assets / _PIECES).read_bytes()}
    else:
        merges = (assets / _MERGES).read_text(encoding="utf-8").splitlines()
        given = {"vocabulary": read_json(assets / _VOCABULARY), "merges": merges}
    tokenizer = getattr(models, name)(**given, **_read_settings(folder / "tokenizer.json", name))
    packing = _read_settings(folder / "preprocessor.json", packer)
    preprocessor = getattr(models, packer)(tokenizer=tokenizer, **packing)
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
    found = read_json(file) if file.is_file() else {}
    config = found.get("config")
    if found.get("class_name") != kind or not isinstance(config, dict):
        return {}
    return {name: config[name] for name, of in _SETTINGS.items() if type(config.get(name)) is of}
