"""Build or load a backbone: a Keras Application by name, a preset, or any Keras model file."""

from __future__ import annotations

import math
import os
import random
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from permafrost.stages.backbones.applications import APPLICATIONS, BackboneName
from permafrost.stages.backbones.network import KerasNetwork, Network
from permafrost.stages.backbones.pooling import Tokens, find_last_blocks
from permafrost.stages.backbones.preprocessing import TORCH_DEVIATION_RGB
from permafrost.stages.errors import InputError, StageError, WeightsError, in_one_line
from permafrost.stages.frameworks.afresh import run_afresh
from permafrost.stages.frameworks.model_file import load_model
from permafrost.stages.frameworks.reaching import asking_before_downloads
from permafrost.stages.frameworks.start import start_keras
from permafrost.stages.frameworks.weights_file import check_weights, list_saved_layers

# As many as decoding gives.
_MOST_CHANNELS = 64
# Random weights are for speed and shapes; the same ones every time, so that they can be cached.
RANDOM_WEIGHTS_SEED = 0
# Of all applications, those that Keras builds otherwise for weights="imagenet".
_RESCALED_FOR_IMAGENET = "EfficientNetB"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneRequest:
    """Which backbone, with which weights, for which input.

    Attributes
    ----------
    backbone : BackboneName
    weights : str
        ``"imagenet"``, ``"random"`` or the path of a weights file; a model file brings its own.
        The network is the one that Keras builds for ImageNet's weights, or without weights.
    size : tuple of int, optional
        Height and width in pixels; the backbone's default if not given.
    """

    backbone: BackboneName
    weights: str = "imagenet"
    size: tuple[int, int] | None = None


def load_backbone(request: BackboneRequest, *, with_top: bool = False) -> Network:
    """Build the network and load its weights.

    Parameters
    ----------
    request : BackboneRequest
    with_top : bool
        Build an application with its classifier, whose layers (``fc1``, ``predictions``) are then
        reachable. A model file is always loaded whole.

    Raises
    ------
    WeightsError
        A file that cannot be loaded, or ImageNet weights that cannot be downloaded.
    InputError
        An input size or option that the network does not take.
    """
    start_keras()
    before = random.getstate()
    # Whence Keras' initializers take their seeds; even those of weights that are then loaded.
    random.seed(RANDOM_WEIGHTS_SEED)
    try:
        return run_afresh(lambda: _load(request, with_top=with_top))
    finally:
        random.setstate(before)


def _load(request: BackboneRequest, *, with_top: bool) -> Network:
    if request.backbone.preset:
        return _load_preset(request)
    if request.backbone.is_saved:
        return _set_size(_load_model_file(request), request)
    return _set_size(_build_application(request, with_top=with_top), request)


def _load_model_file(request: BackboneRequest) -> Network:
    path = Path(request.backbone.name)
    if path.is_dir():
        from permafrost.stages.backbones.savedmodel import load_saved_model

        return load_saved_model(path)
    return KerasNetwork(load_model(path))


def _load_preset(request: BackboneRequest) -> Network:
    from permafrost.stages.presets.loading import list_blocks, load_preset

    loaded = load_preset(request.backbone.preset, request.size)
    names = [layer.name for layer in loaded.model.layers]
    tokens = {}
    if loaded.tokens is not None:
        n_class, n_before = loaded.tokens
        tokens = {
            name: Tokens(n_class=n_class, n_before=n_before, blocks=blocks)
            for name, blocks in find_last_blocks(list_blocks(names), names).items()
        }
    converter = loaded.converter
    network = KerasNetwork(loaded.model, tokens=tokens, converter=converter)
    if None in network.input_shape[:2] and request.size is None and converter is not None:
        request = replace(request, size=converter.size)
    return _set_size(network, request)


def _build_application(request: BackboneRequest, *, with_top: bool) -> Network:
    import keras

    name = request.backbone.name
    entry = APPLICATIONS[name]
    height, width = request.size or (entry.size, entry.size)
    try:
        with asking_before_downloads():
            model = getattr(keras.applications, entry.function)(
                weights="imagenet" if request.weights == "imagenet" else None,
                include_top=with_top,
                input_shape=(height, width, 3),
                **dict(request.backbone.options),
            )
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{request.backbone} with input {height}x{width}: {in_one_line(error)}"
        ) from error
    except Exception as error:
        raise _explain_download(name, error) from error
    if request.weights not in ("imagenet", "random"):
        model = _load_weights(model, entry.function, Path(request.weights), with_top=with_top)
    return KerasNetwork(model)


def _load_weights(model: Any, function: str, path: Path, *, with_top: bool) -> Any:
    """Return the network that the weights are of, with the weights."""
    if not path.is_file():
        raise WeightsError(f"there is no weights file {str(path)!r}")
    try:
        check_weights(path)
        if function.startswith(_RESCALED_FOR_IMAGENET) and _is_rescaled(path):
            model = _rescale(model)
        with warnings.catch_warnings(action="ignore"):  # One a layer, and then it raises.
            model.load_weights(path)
    except WeightsError as error:
        raise WeightsError(f"the weights {str(path)!r} are refused: {error}") from error
    except Exception as error:
        part = "with its classifier" if with_top else "without its classifier"
        raise WeightsError(
            f"the weights {str(path)!r} do not fit {model.name} {part}: {in_one_line(error)}"
        ) from error
    return model


def _is_rescaled(path: Path) -> bool:
    """Tell whether weights are of the network that ImageNet's are of.

    A file of Keras 3 says so; one of Keras 2, as the published ones are, does not: those are.
    """
    layers = list_saved_layers(path)
    return not layers or "rescaling_1" in layers


def _rescale(model: Any) -> Any:
    """Put in what Keras builds into an EfficientNet for ImageNet's weights, and for no others.

    Those hold deviations where Normalization takes variances, of which it divides by the root.
    """
    import keras

    scaling = keras.layers.Rescaling([1 / math.sqrt(one) for one in TORCH_DEVIATION_RGB])

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.name == "stem_conv_pad":
            args = (scaling(*args),)
        return layer(*args, **kwargs)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def _explain_download(name: str, error: Exception) -> StageError:
    """Say which file is needed and where it goes; Keras names its address in the message."""
    address = re.search(r"https?://\S+?(?=[:\s]*(\s|$))", str(error))
    if address is None:
        return WeightsError(
            f"the ImageNet weights of {name} cannot be loaded: {in_one_line(error)}; try again, or"
            " name a file of them with --weights"
        )
    url = address[0].rstrip(":")
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    return WeightsError(
        f"the ImageNet weights of {name} are not on this machine and cannot be downloaded;"
        f" get {url} and put it into {home / 'models'}/"
    )


def _set_size(network: Network, request: BackboneRequest) -> Network:
    """Settle the size of the input, and refuse inputs that are no images."""
    name = request.backbone.name
    shape = network.input_shape
    if len(shape) != 3 or not 1 <= (shape[2] or 0) <= _MOST_CHANNELS:
        takes = f"inputs of shape {shape}" if shape else "several inputs, or its input is not known"
        raise InputError(
            f"the model {name!r} takes {takes}, not one image of 1 to {_MOST_CHANNELS} channels:"
            " have it begin with keras.Input((height, width, 3)), and with layers that make its"
            " input of that (Permute, Reshape), and save it again"
        )
    fixed = (shape[0], shape[1])
    if None in fixed and request.size is None:
        raise InputError(f"the model {name!r} takes images of any size; say which with --size")
    for own, wanted in zip(fixed, request.size or fixed, strict=True):
        if own not in (None, wanted):
            raise InputError(f"the model {name!r} takes {fixed[0]}x{fixed[1]}; drop --size")
    network.size = request.size or (int(fixed[0] or 0), int(fixed[1] or 0))
    return network
