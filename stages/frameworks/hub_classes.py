"""KerasHub started, and what of it a file from anyone may name: the layers of its vision models."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import warnings
from collections.abc import Mapping

from permafrost.stages.errors import InputError

PACKAGE = "keras_hub"
# And as it was called before.
_PACKAGES = (PACKAGE, "keras_nlp")
# Packages of `keras_hub.src.models` whose layers do nothing but compute, from pixels on, and for
# the first three from a text on, too.
_FAMILIES = (
    *("clip", "metaclip_2", "siglip"),
    *("cspnet", "deit", "densenet", "dinov2", "dinov3", "efficientnet", "hgnetv2", "mit"),
    *("mobilenet", "resnet", "swin_transformer", "vgg", "vit", "xception"),
)
_ROOMS = (*(f"models.{family}" for family in _FAMILIES), "layers.modeling")


def find_hub_version() -> str:
    """Return the version of KerasHub that is installed, without importing it; ``""`` for none."""
    try:
        return importlib.metadata.version("keras-hub")
    except importlib.metadata.PackageNotFoundError:
        return ""


def start_hub() -> None:
    """Import KerasHub.

    Raises
    ------
    InputError
        It is not there, or what it needs is not.
    """
    remedy = 'get it with: pip install "permafrost[hub]"'
    if importlib.util.find_spec(PACKAGE) is None:
        raise InputError(f"KerasHub's models need the package keras-hub; {remedy}")
    # It says so itself where Swin's windows are given a mask, as they have to be.
    warnings.filterwarnings("ignore", "Layer .* was passed an input with a mask attached to it")
    try:
        importlib.import_module(PACKAGE)
    except ImportError as error:
        raise InputError(f"keras-hub cannot be imported ({error}); {remedy}") from error


@functools.cache
def list_hub_classes() -> Mapping[tuple[str, str], type]:
    """List the classes of KerasHub that a model may be made of, by module and name.

    They are those that its own modules define: layers and models. Tokenizers, preprocessors and
    tasks are none of them: they read other files, and a backbone has none.
    """
    start_hub()
    import keras
    import keras_hub

    refused = (keras_hub.models.Task, keras_hub.models.Preprocessor, keras_hub.tokenizers.Tokenizer)
    found = {}
    for room in _ROOMS:
        package = importlib.import_module(f"{PACKAGE}.src.{room}")
        for entry in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if entry.name.endswith("_test"):
                continue
            for name, one in inspect.getmembers(
                importlib.import_module(entry.name), inspect.isclass
            ):
                is_own = one.__module__ == entry.name and issubclass(one, keras.Layer)
                if is_own and not issubclass(one, refused):
                    found[entry.name, name] = one
    # That of presets whose family has none of its own.
    converter = keras_hub.layers.ImageConverter
    return found | {(converter.__module__, converter.__name__): converter}


def is_hub_class(module: object, name: object, registered: object) -> bool:
    """Tell whether what a configuration names is one of `list_hub_classes`, under its own name."""
    if not isinstance(module, str) or module.split(".")[0] not in _PACKAGES:
        return False
    is_own = registered in (None, name, *(f"{package}>{name}" for package in _PACKAGES))
    # A preset's own class may be written by the public name of its module, too.
    is_public = not module.startswith(f"{PACKAGE}.src.")
    return is_own and any(
        name == known and (is_public or module == place) for place, known in list_hub_classes()
    )
