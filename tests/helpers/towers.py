"""Small models of CLIP and SigLIP with random weights and tokenizers of few words, as presets."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 32
_BLOCKS = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 24}
_LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
_SENTENCES = ("a photo of a flower", "a picture of china", "the quick brown fox jumps")
_LENGTHS = {"CLIP": 77, "SigLIP": 64}


def save_tower(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a preset of ``CLIP`` or ``SigLIP``: model, image converter and tokenizer."""
    import keras_hub

    from permafrost.stages.frameworks.start import start_keras

    start_keras()
    models = keras_hub.models
    vision = getattr(models, f"{family}VisionEncoder")(
        **_BLOCKS, patch_size=8, image_shape=(SIDE, SIDE, 3)
    )
    text = getattr(models, f"{family}TextEncoder")(
        **_BLOCKS, vocabulary_size=60, embedding_dim=16, max_sequence_length=_LENGTHS[family]
    )
    more = {"projection_dim": 12} if family == "CLIP" else {}
    model = getattr(models, f"{family}Backbone")(vision_encoder=vision, text_encoder=text, **more)
    values = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" in weight.dtype:
            # The scale and the bias of the logits, too.
            weight.assign(weight + 0.3 * values.standard_normal(weight.shape))
    model.save_to_preset(str(folder))
    getattr(keras_hub.layers, f"{family}ImageConverter")(
        image_size=(SIDE, SIDE), scale=1 / 127.5, offset=-1.0
    ).save_to_preset(str(folder))
    build_tokenizer(family).save_to_preset(str(folder))
    return folder


def build_tokenizer(family: str) -> Any:
    """Return a tokenizer of letters, or of the pieces of some sentences."""
    import keras_hub

    if family == "CLIP":
        ends = [f"{letter}</w>" for letter in _LETTERS]
        words = [*_LETTERS, *ends, "fl", "of</w>", "<|startoftext|>", "<|endoftext|>"]
        return keras_hub.models.CLIPTokenizer(
            vocabulary={word: number for number, word in enumerate(words)},
            merges=["f l", "o f</w>"],
        )
    return keras_hub.models.SigLIPTokenizer(proto=_train_pieces())


@functools.cache
def _train_pieces() -> bytes:
    import sentencepiece

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_SENTENCES),
        model_writer=trained,
        vocab_size=40,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return trained.getvalue()


class Reference:
    """KerasHub's own model, converter and preprocessor of a preset, called directly."""

    def __init__(self, family: str, folder: Path) -> None:
        import keras_hub

        self.model = keras_hub.models.Backbone.from_preset(str(folder))
        self._converter = keras_hub.layers.ImageConverter.from_preset(str(folder))
        kind = getattr(keras_hub.models, f"{family}Preprocessor")
        self._preprocessor = kind.from_preset(str(folder))

    def find_tokens(self, texts: list[str]) -> np.ndarray:
        prepared = self._preprocessor({"prompts": texts, "images": np.zeros((1, SIDE, SIDE, 3))})
        return np.asarray(prepared["token_ids"])

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.asarray(self.model.get_text_embeddings(self.find_tokens(texts)))

    def embed_images(self, files: list[Path]) -> np.ndarray:
        return np.asarray(self.model.get_vision_embeddings(self._convert(files)))

    def find_logits(self, files: list[Path], texts: list[str]) -> np.ndarray:
        """Return what the whole model says of each image and each text, a row an image."""
        given = {"images": self._convert(files), "token_ids": self.find_tokens(texts)}
        return np.asarray(self.model(given)["vision_logits"])

    def _convert(self, files: list[Path]) -> np.ndarray:
        import keras

        # Of whole levels the converter gives whole levels, as it is given to read image files.
        pixels = [
            keras.utils.img_to_array(keras.utils.load_img(file), dtype="uint8") for file in files
        ]
        return np.stack([np.asarray(self._converter(one)) for one in pixels])
