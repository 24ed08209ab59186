"""What of a backbone lies above a stored layer, for the heads that are made of it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.store.recipe import Recipe
from permafrost.cache.views.features import Features
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.export.classifier import ClassifierPart, check_recipe
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.stages.backbones.applications import NO_BACKBONE
from permafrost.stages.backbones.layers import LayerSpec
from permafrost.stages.errors import InputError
from permafrost.stages.matrices.matrix import TextEmbeddings
from permafrost.stages.presets.handles import IMAGE_EMBEDDING, PREFIX

# As `layers` asks for a network, whatever its layers are.
_ANY_LAYER = ("-",)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneAbove:
    """The layers above one; see `stages.matrices.matrix.LayersAbove`.

    Attributes
    ----------
    layer : LayerSpec
        Without pooling.
    recipe : Recipe
        Of its features; the backbone must still give the same.
    features : FeatureOptions
        How they were asked for.
    index_file : Path, optional
        Of the cache that they lie in, which remembers what backbones are.
    """

    layer: LayerSpec
    recipe: Recipe
    features: FeatureOptions
    index_file: Path | None = None

    @property
    def has_texts(self) -> bool:
        """Whether the layer is what a preset compares with texts."""
        return self.layer.layer == IMAGE_EMBEDDING and self.features.backbone.startswith(PREFIX)

    def digest_texts(self) -> str:
        """Return a digest of tokenizer and text tower, without Keras.

        Raises
        ------
        StageError
            The preset cannot be had any more.
        """
        with _opening(self.index_file) as index:
            return Backbone(self._name(str(self.layer)), index).digest_files()

    def embed_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Run texts through the text tower; those that were run last are remembered.

        Raises
        ------
        StageError
            The backbone is another one by now, or has no text tower.
        """
        with _opening(self.index_file) as index:
            backbone = Backbone(self._name(str(self.layer)), index)
            self._check(backbone, is_fitted=False)
            return _embed_texts(backbone.digest_files(), backbone.name.preset, tuple(texts))

    def digest(self, *, until: str) -> str:
        """Return the digest of all layers that a head may be made of; mostly without Keras.

        Raises
        ------
        StageError
            The backbone cannot be had any more, or has no such layer.
        """
        with self._open(until) as (backbone, last):
            return backbone.card.find_layer(last).digest

    def build(self, *, until: str) -> Any:
        """Return the layers as a Keras model, with the backbone's weights.

        Raises
        ------
        StageError
            The backbone is another one by now, or its layers cannot be trained alone.
        """
        from permafrost.stages.backbones.above import build_above
        from permafrost.stages.backbones.network import KerasNetwork
        from permafrost.stages.export.classifier import check_layers

        with self._open(until) as (backbone, _):
            self._check(backbone)
            network, preprocess = backbone.load(), backbone.preprocess
        if not isinstance(network, KerasNetwork):
            raise InputError(
                "a backbone in a SavedModel folder cannot be trained on: Keras has no layers of it;"
                " save it as a .keras file with model.save('model.keras') and extract with that"
            )
        above = build_above(
            network.model,
            network.list_cuts(),
            self.layer.layer,
            until=until,
            preprocess_mode=preprocess,
        )
        # Not after hours of training, when the head is to be loaded.
        check_layers(above, what="trained", remedy="extract a layer above it, and train from there")
        return above

    def _check(self, backbone: Backbone, *, is_fitted: bool = True) -> None:
        """Raise InputError unless the backbone still gives the features."""
        if self.layer.is_pixels:
            return
        part = ClassifierPart(
            layer=str(self.layer), recipe=self.recipe, features=self._name(str(self.layer))
        )
        try:
            check_recipe(part, backbone, is_fitted=is_fitted)
        except PipelineError as error:
            # In a sweep it is one head that fails, and not all of them.
            raise InputError(str(error)) from error

    @contextlib.contextmanager
    def _open(self, until: str) -> Iterator[tuple[Backbone, str]]:
        """Yield the backbone, and the last layer of it that matters."""
        if self.features.backbone == NO_BACKBONE:
            raise InputError(
                "finetune trains a backbone, and these pixels were extracted with --backbone none;"
                " extract them with one (pixels that are cached are not decoded again), or use cnn"
            )
        with _opening(self.index_file) as index:
            own = () if self.layer.is_pixels else (self.layer.layer,)
            last = until or Backbone(self._name(*_ANY_LAYER), index).find_last_layer()
            yield Backbone(self._name(*own, last), index), last

    def _name(self, *layers: str) -> FeatureOptions:
        return replace(self.features, layers=layers)


@functools.lru_cache(maxsize=4)
def _embed_texts(_digest: str, preset: str, texts: tuple[str, ...]) -> TextEmbeddings:
    """Run texts through the text tower of a preset, of which a digest tells all files."""
    from permafrost.stages.presets.texts import embed_texts

    return embed_texts(preset, texts)


def name_layer(file: Features, layer: LayerSpec) -> LayerSpec:
    """Put the name of the layer in the place of ``first:8``; any other is returned as it is.

    Raises
    ------
    StageError, PipelineError
        The backbone of the file cannot be had, or has no such layer.
    """
    if layer.n_first is None:
        return layer
    features = FeatureOptions.from_json(file.origin)
    with _opening(find_index_file(file.folder(file.layers[0]))) as index:
        return Backbone(replace(features, layers=(str(layer),)), index).layers[0]


@contextlib.contextmanager
def _opening(index_file: Path | None) -> Iterator[Index | None]:
    """Yield an index that is there already."""
    if index_file is None or not index_file.exists():
        yield None
        return
    with Index(index_file) as index:
        yield index


def find_index_file(folder: Path | None) -> Path | None:
    """Return the index of the cache that a feature set's folder lies in."""
    return None if folder is None else CacheLayout(folder.parents[1]).index_file
