"""A backbone as planning sees it: a card from the index, the network itself only when needed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from permafrost.cache.store.index import Index, IndexedFile
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import FeatureOptions
from permafrost.stages.backbones.applications import (
    APPLICATIONS,
    NO_BACKBONE,
    family_preprocess,
    parse_backbone,
)
from permafrost.stages.backbones.layers import BackboneCard, LayerSpec, parse_layer_specs
from permafrost.stages.backbones.preprocessing import OWN_MODE, check_mode, parse_mode
from permafrost.stages.errors import InputError, UnknownNameError, WeightsError
from permafrost.stages.frameworks.hub_classes import find_hub_version
from permafrost.stages.frameworks.start import find_keras_settings
from permafrost.stages.presets.handles import find_revision
from permafrost.stamps import write_exact_stamp

if TYPE_CHECKING:
    from permafrost.stages.backbones.loading import BackboneRequest
    from permafrost.stages.backbones.network import Network


_DEFAULTS = {option.name: option.default for option in fields(FeatureOptions)}


class Backbone:
    """The backbone that some options name.

    Parameters
    ----------
    options : FeatureOptions
    index : Index, optional
        Remembers cards, so that a run with nothing to do never loads Keras.
    """

    def __init__(self, options: FeatureOptions, index: Index | None = None) -> None:
        self._options = options
        self._index = index
        self.name = parse_backbone(options.backbone)
        if self.name.is_saved and options.weights != "imagenet":
            what = "preset" if self.name.preset else "model file"
            raise InputError(
                f"--weights {options.weights!r}: the {what} {self.name.name!r} brings its own;"
                " drop --weights"
            )
        self._networks: dict[bool, Network] = {}
        self._with_top = False
        self._checked: Network | None = None
        self._remembered: str | None = None
        self._described: dict[bool, str] = {}
        self.layers = parse_layer_specs(options.layers)
        self._of_network = [spec for spec in self.layers if not spec.is_pixels]
        if any(spec.n_first for spec in self.layers):
            self.layers = list(dict.fromkeys(map(self._find_first, self.layers)))
            self._of_network = [spec for spec in self.layers if not spec.is_pixels]

    def _find_first(self, spec: LayerSpec) -> LayerSpec:
        """Put the name of the layer in the place of ``first:8``."""
        if spec.n_first is None:
            return spec
        if self.name.name == NO_BACKBONE:
            raise InputError(f"--backbone none has no layer {spec}; it has pixels alone")
        return replace(spec, layer=self._describe().find_first(spec.n_first))

    @cached_property
    def card(self) -> BackboneCard:
        """The card of the variant, without or with its classifier, that has all the layers.

        Raises
        ------
        UnknownNameError
            A layer that neither has.
        """
        card = self._find_card(self._of_network)
        for spec in self.layers:
            card.find_layer(spec.layer, backbone=str(self.name)).pool_shape(spec)
        return card

    @cached_property
    def preprocess(self) -> str:
        """The preprocessing mode; ``auto`` is resolved by the family, where the graph agrees.

        Raises
        ------
        InputError
            ``auto`` would be a guess, or the mode is for other channels.
        """
        mode = self._options.preprocess
        mode = self._choose_preprocess() if mode == "auto" else mode
        if mode != "none" and self.card.takes_integers:
            raise InputError(
                f"the model {self.card.name!r} takes integers, and --preprocess {mode} gives"
                " fractions, which it would cut off; use none"
            )
        check_mode(mode, self.card.channels)
        return mode

    @cached_property
    def resizing(self) -> tuple[str, str]:
        """How images are resized, and to which part: as asked for, or as a preset does.

        Raises
        ------
        InputError
            The one is asked for, and the other with it.
        """
        options = self._options
        asked = (options.resize, options.resize_mode)
        converter = self.card.converter if options.preprocess == "auto" else None
        if converter is None:
            return asked
        if asked != tuple(_DEFAULTS[name] for name in ("resize", "resize_mode")):
            raise InputError(
                f"--resize {asked[0]}, --resize-mode {asked[1]}: the preset {self.name.preset!r}"
                f" resizes images itself ({converter.resize}, {converter.resize_mode}); drop them,"
                f" or scale pixels yourself, as with --preprocess {converter.preprocess}"
            )
        return converter.resize, converter.resize_mode

    def _choose_preprocess(self) -> str:
        card = self.card
        if card.converter:
            return parse_mode(card.converter.preprocess)
        if not self.name.is_saved:
            entry = APPLICATIONS[self.name.name]
            is_bare = entry.preprocess == "none" and not card.scales_input
            return entry.outside if is_bare else entry.preprocess
        family = family_preprocess(card.name)
        if family is not None and (family == "none") == card.scales_input:
            return family
        does = "scales its input itself" if card.scales_input else "does not scale its input"
        but = "" if family is None else f": its graph {does}, unlike the network it is called after"
        raise InputError(
            f"cannot tell how images are preprocessed for the model {card.name!r}{but};"
            " say it with --preprocess caffe|tf|torch|none (none: pixels as 0 to 255), or"
            f" {OWN_MODE}"
        )

    def describe_all(self) -> BackboneCard:
        """Return the card with the most layers there are: with the classifier if it can be had."""
        if not self.name.is_saved:
            try:
                return self._describe(with_top=True)
            except (WeightsError, InputError):
                pass  # Weights or a size that only the network without its classifier takes.
        return self._find_card([])

    def find_last_layer(self) -> str:
        """Return the last layer of the network, without its classifier if it can be had so."""
        return list(self._find_card([]).layers)[-1]

    def load(self) -> Network:
        """Load the network; this imports Keras.

        Raises
        ------
        PipelineError
            It is not the one that the card tells of, under whose digests rows would be kept.
        """
        card = self.card
        network = self._load(with_top=self._with_top)
        if network is not self._checked:
            self._check(network, card)
            self._checked = network
        return network

    def digest_files(self) -> str:
        """Return a digest of all that the network is loaded from, without loading it.

        Of a preset, that is its tokenizer as well.
        """
        return hashlib.sha256(self._memo_key(with_top=False).encode()).hexdigest()

    def check_files(self) -> None:
        """Check, without loading it, that the network is still the one that the card tells of.

        Of Keras' own weights it does not read the file, which Keras checks when it loads it.

        Raises
        ------
        PipelineError
            Its files, or Keras and its settings, are not those of which the card was made.
        """
        described = self._described.get(self._with_top)
        if described is not None and described != self._memo_key(with_top=self._with_top):
            raise self._refuse_changed()

    def _check(self, network: Network, card: BackboneCard) -> None:
        """Forget a card from the index that is not of this network, and stop."""
        digests = network.digest_layers()
        if all(digests.get(s.layer) == card.layers[s.layer].digest for s in self._of_network):
            return
        if self._index and self._remembered:
            self._index.forget_memo(self._remembered)
        raise self._refuse_changed()

    def _refuse_changed(self) -> PipelineError:
        return PipelineError(
            f"the backbone {str(self.name)!r} is not what it was when it was last looked at: its"
            " files or Keras' settings have changed since; run the same again"
        )

    def _find_card(self, layers: Sequence[LayerSpec]) -> BackboneCard:
        try:
            card = self._describe(with_top=False)
        except WeightsError:
            # A file with the classifier's weights fits only the whole network.
            if self.name.is_saved or self._options.weights in ("imagenet", "random"):
                raise
            self._with_top = True
            return self._describe(with_top=True)
        if self.name.is_saved or all(spec.layer in card.layers for spec in layers):
            return card
        return self._find_card_with_top(layers)

    def _find_card_with_top(self, layers: Sequence[LayerSpec]) -> BackboneCard:
        try:
            card = self._describe(with_top=True)
        except WeightsError:
            wanted = next(s.layer for s in layers if s.layer not in self._describe().layers)
            raise UnknownNameError("layer", wanted, self._describe().layers) from None
        self._with_top = True
        return card

    def _describe(self, *, with_top: bool = False) -> BackboneCard:
        if self.name.name == NO_BACKBONE or not (self._of_network or self.name.is_saved):
            return self._describe_images()
        memo_key = self._described[with_top] = self._memo_key(with_top=with_top)
        known = self._index.memo(memo_key) if self._index else None
        if known is not None:
            self._remembered = memo_key
            return BackboneCard.from_json(known)
        network = self._load(with_top=with_top)
        card = network.describe()
        self._checked = network
        if self._index:
            self._index.add_memo(memo_key, card.to_json())
        return card

    def _describe_images(self) -> BackboneCard:
        """Return the card of images alone, as an application takes them; no network is needed."""
        entry = APPLICATIONS.get(self.name.name)
        size = self._options.size or ((entry.size, entry.size) if entry else None)
        if size is None:
            raise InputError("--backbone none has no size of its own; say it, as with --size 32")
        return BackboneCard(
            name=str(self.name),
            size=size,
            channels=3,  # as all applications have
            scales_input=False,
            takes_integers=False,
            layers={},
        )

    def _load(self, *, with_top: bool) -> Network:
        from permafrost.stages.backbones.loading import load_backbone

        if with_top not in self._networks:
            self._networks.clear()
            self._networks[with_top] = load_backbone(self._request, with_top=with_top)
        return self._networks[with_top]

    @property
    def _request(self) -> BackboneRequest:
        from permafrost.stages.backbones.loading import BackboneRequest

        return BackboneRequest(
            backbone=self.name, weights=self._options.weights, size=self._options.size
        )

    def _memo_key(self, *, with_top: bool) -> str:
        weights = self._options.weights
        named = weights not in ("imagenet", "random")
        # Not just whatever exists: a folder here may be called like an application.
        own = self.name.path
        files = ([own] if own else []) + [Path(weights)] * named
        facts = {
            "card": 5,
            # Other files of a folder are other presets; a model file is one whatever it is called.
            "backbone": ("preset" if self.name.preset else "file") if own else str(self.name),
            "weights": "file" if named else weights,
            "files": [hash_path(path, self._index) for path in files],
            "size": self._options.size,
            "top": with_top,
            # Which layers an application has, and how it is wired, is up to Keras.
            "keras": importlib.metadata.version("keras"),
            # Random weights are another network on each backend, and types are another's in floatx.
            "settings": find_keras_settings(),
        }
        if self.name.preset:
            # How a preset is read, and which of those of a name it is, is up to KerasHub.
            facts["hub"] = [find_hub_version(), find_revision(self.name.preset)]
        return json.dumps(facts, sort_keys=True)


def hash_path(path: Path, index: Index | None) -> str:
    """Return the SHA-256 of a file, or of all files of a folder, by its content; in hex."""
    if path.is_dir():
        parts = sorted(file for file in path.rglob("*") if file.is_file())
        listing = [[str(file.relative_to(path)), hash_path(file, index)] for file in parts]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    if not path.exists():
        raise WeightsError(f"there is no weights file {str(path)!r}")
    key, stamp = str(path.absolute()), write_exact_stamp(path.stat())
    (digest,) = index.digests_of([key], [stamp]) if index else [b""]
    if not digest:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        if index:
            index.add_files([IndexedFile(key, stamp, digest)])
    return digest.hex()
