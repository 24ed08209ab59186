"""What is on record of the backbone behind a ``features.h5``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from permafrost.cache.errors import CacheError
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout, find_cache
from permafrost.cache.store.recipe import recipe_key
from permafrost.cache.views.features import Features
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.planning.remembered import recall_rate
from permafrost.stages.backbones.layers import BackboneCard, parse_layer_spec
from permafrost.stages.errors import StageError


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBackbone:
    """The backbone of one file.

    Attributes
    ----------
    options : FeatureOptions, optional
        How the features were asked for, of all layers of the file; None where nobody knows.
    cache : CacheLayout, optional
        Where the rows lie; None of a file that holds them itself.
    card : BackboneCard, optional
        Its layers in the network's order.
    images_per_second : float, optional
        As measured when these layers were last computed together.
    """

    name: str
    options: FeatureOptions | None
    cache: CacheLayout | None
    card: BackboneCard | None
    images_per_second: float | None
    stored: tuple[str, ...]

    def place(self, layer: str) -> tuple[int, str]:
        """Return what layers sort by depth with: the network's order, or else the order asked for.

        A layer that neither knows comes last, by its name.
        """
        asked = self.options.layers if self.options else ()
        names = list(self.card.layers) if self.card else [one.partition(":")[0] for one in asked]
        return (names.index(layer) if layer in names else len(names)), layer

    def count_above(self, layer: str) -> int | None:
        """Count the weights above a layer, where they are on record."""
        return self.card.count_above(layer) if self.card else None

    def can_be_cut(self, layer: str) -> bool:
        """Tell whether there are weights above a layer that can be trained on its output."""
        cards = self.card.layers if self.card else {}
        return layer in cards and cards[layer].is_cut and self.count_above(layer) != 0

    def count_bytes(self, text: str) -> int | None:
        """Count the bytes of an image's row of a layer spec that is still to be extracted."""
        if self.card is None or self.options is None:
            return None
        spec = parse_layer_spec(text)
        try:
            shape = self.card.find_layer(spec.layer).pool_shape(spec)
        except StageError:
            return None
        itemsize = 1 if spec.is_pixels else np.dtype(self.options.dtype).itemsize
        return int(np.prod(shape)) * itemsize


def look_up(file: Features) -> KnownBackbone:
    """Look up what is known of the backbone of an open ``features.h5``.

    The card is what `extract` left in the cache's index; where it is gone from there, the network
    is loaded once more.
    """
    try:
        options = FeatureOptions.from_json(file.origin)
    except (PipelineError, StageError, ValueError):
        options = None  # Of another version, or for another of Keras' backends.
    folder = file.folder(file.layers[0]) if file.layers else None
    card = rate = cache = None
    if folder is not None:
        try:
            cache = find_cache(folder.parent.parent)
            with Index(cache.index_file) as index:
                keys = [recipe_key(file.recipe(layer)) for layer in file.layers]
                rate = recall_rate(index, keys)
                card = None if options is None else Backbone(options, index).card
        except (CacheError, PipelineError, StageError):
            card = None  # The backbone's file is gone, say: depth is then the order asked for.
    name = Path(options.backbone).name if options else file.path.stem
    return KnownBackbone(
        name=name,
        options=options,
        cache=cache,
        card=card,
        images_per_second=rate,
        stored=tuple(file.layers),
    )
