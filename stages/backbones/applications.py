"""Every function of keras.applications: its name here, default input size and preprocessing.

Facts from the Keras 3 documentation and sources; a test compares the table with Keras itself. It
is written out so that planning needs no TensorFlow.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.presets.handles import PREFIX, find_folder, parse_preset

# Named instead of a network by who wants images alone.
NO_BACKBONE = "none"
# How the networks are called that this package builds; they take pixels as they are.
OWN_NAME = "permafrost"
# A fitted model's folder is a backbone where it holds this.
FITTED_NETWORK = "backbone.keras"
FITTED_MODEL = "model.json"
_MODEL_SUFFIXES = (".keras", ".h5", ".hdf5")


@dataclass(frozen=True, slots=True)
class Application:
    """A function of keras.applications.

    Attributes
    ----------
    function : str
        Its name in Keras.
    size : int
        Default height and width of its input, in pixels.
    preprocess : str
        The mode of its family's ``preprocess_input``; ``"none"`` where the network does it itself.
    outside : str
        The mode that stands for what the network does itself, where it was built without that
        (``include_preprocessing=False``).
    """

    function: str
    size: int
    preprocess: str
    outside: str = "none"


APPLICATIONS: Mapping[str, Application] = {
    "convnext_base": Application("ConvNeXtBase", 224, "none", "torch"),
    "convnext_large": Application("ConvNeXtLarge", 224, "none", "torch"),
    "convnext_small": Application("ConvNeXtSmall", 224, "none", "torch"),
    "convnext_tiny": Application("ConvNeXtTiny", 224, "none", "torch"),
    "convnext_xlarge": Application("ConvNeXtXLarge", 224, "none", "torch"),
    "densenet121": Application("DenseNet121", 224, "torch"),
    "densenet169": Application("DenseNet169", 224, "torch"),
    "densenet201": Application("DenseNet201", 224, "torch"),
    "efficientnet_b0": Application("EfficientNetB0", 224, "none"),
    "efficientnet_b1": Application("EfficientNetB1", 240, "none"),
    "efficientnet_b2": Application("EfficientNetB2", 260, "none"),
    "efficientnet_b3": Application("EfficientNetB3", 300, "none"),
    "efficientnet_b4": Application("EfficientNetB4", 380, "none"),
    "efficientnet_b5": Application("EfficientNetB5", 456, "none"),
    "efficientnet_b6": Application("EfficientNetB6", 528, "none"),
    "efficientnet_b7": Application("EfficientNetB7", 600, "none"),
    "efficientnet_v2_b0": Application("EfficientNetV2B0", 224, "none", "torch"),
    "efficientnet_v2_b1": Application("EfficientNetV2B1", 240, "none", "torch"),
    "efficientnet_v2_b2": Application("EfficientNetV2B2", 260, "none", "torch"),
    "efficientnet_v2_b3": Application("EfficientNetV2B3", 300, "none", "torch"),
    "efficientnet_v2_l": Application("EfficientNetV2L", 480, "none", "tf"),
    "efficientnet_v2_m": Application("EfficientNetV2M", 480, "none", "tf"),
    "efficientnet_v2_s": Application("EfficientNetV2S", 384, "none", "tf"),
    "inception_resnet_v2": Application("InceptionResNetV2", 299, "tf"),
    "inception_v3": Application("InceptionV3", 299, "tf"),
    "mobilenet": Application("MobileNet", 224, "tf"),
    "mobilenet_v2": Application("MobileNetV2", 224, "tf"),
    "mobilenet_v3_large": Application("MobileNetV3Large", 224, "none", "tf"),
    "mobilenet_v3_small": Application("MobileNetV3Small", 224, "none", "tf"),
    "nasnet_large": Application("NASNetLarge", 331, "tf"),
    "nasnet_mobile": Application("NASNetMobile", 224, "tf"),
    "resnet101": Application("ResNet101", 224, "caffe"),
    "resnet101_v2": Application("ResNet101V2", 224, "tf"),
    "resnet152": Application("ResNet152", 224, "caffe"),
    "resnet152_v2": Application("ResNet152V2", 224, "tf"),
    "resnet50": Application("ResNet50", 224, "caffe"),
    "resnet50_v2": Application("ResNet50V2", 224, "tf"),
    "vgg16": Application("VGG16", 224, "caffe"),
    "vgg19": Application("VGG19", 224, "caffe"),
    "xception": Application("Xception", 299, "tf"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneName:
    """What a user names as a backbone: an application with options, a model file, or none.

    Attributes
    ----------
    name : str
        A key of `APPLICATIONS`, the path of a model file, ``hub:`` with a preset of KerasHub's
        behind it, or `NO_BACKBONE`.
    options : tuple of (str, value)
        Keyword arguments of the Keras function, sorted, as in ``mobilenet(alpha=0.25)``.
    """

    name: str
    options: tuple[tuple[str, object], ...] = ()

    @property
    def is_saved(self) -> bool:
        """Whether it was saved with its weights: a model file, or a preset."""
        return self.name not in (*APPLICATIONS, NO_BACKBONE)

    @property
    def preset(self) -> str:
        """What it names as a preset; ``""`` where it does not."""
        return self.name.removeprefix(PREFIX) if self.name.startswith(PREFIX) else ""

    @property
    def path(self) -> Path | None:
        """The file or folder on this machine that it names."""
        if self.preset:
            return find_folder(self.preset)
        return Path(self.name) if self.is_saved else None

    def make_absolute(self) -> str:
        """Write it so that it means the same from any folder."""
        if self.path is None:
            return str(self)
        return PREFIX * bool(self.preset) + os.path.abspath(self.path)  # noqa: PTH100 - folds ".."

    def __str__(self) -> str:
        inside = ",".join(f"{key}={value!r}" for key, value in self.options)
        return f"{self.name}({inside})" if inside else self.name


def parse_backbone(text: str) -> BackboneName:
    """Read ``vgg16``, ``mobilenet(alpha=0.25)``, a model file's path, ``hub:PRESET``, or ``none``.

    Raises
    ------
    UnknownNameError
        Neither an application nor an existing file.
    InputError
        Options that cannot be read.
    """
    match = re.fullmatch(r"\s*([\w.-]+)\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    for known in APPLICATIONS:
        # Before any file: a folder of results may well be called vgg16.
        if match and _plain(known) == _plain(match[1]):
            return BackboneName(name=known, options=_parse_options(match[2] or "", text))
    if text.strip() == NO_BACKBONE:
        return BackboneName(name=NO_BACKBONE)
    if text.strip().startswith(PREFIX):
        return BackboneName(name=PREFIX + parse_preset(text.strip().removeprefix(PREFIX)))
    path = Path(text)
    with contextlib.suppress(OSError):  # A name longer than a file can have.
        if (path / FITTED_NETWORK).is_file():
            return BackboneName(name=str(path / FITTED_NETWORK))
        if (path / FITTED_MODEL).is_file():
            raise InputError(
                f"{text!r} holds a head that is no network of layers; fit cnn or finetune to have a"
                " backbone"
            )
        if path.exists() and (path.is_dir() or path.suffix.lower() in _MODEL_SUFFIXES):
            return BackboneName(name=text)
        if path.is_file():
            raise InputError(
                f"{text!r} is no Keras model: name a .keras or .h5 file, or a SavedModel folder"
                " (of another framework, convert it first)"
            )
    if path.suffix.lower() in _MODEL_SUFFIXES or "/" in text:
        raise InputError(f"there is no model file {text!r}; check the path")
    raise UnknownNameError(
        "backbone", text, APPLICATIONS, remedy="or name a .keras or .h5 file, or hub:PRESET"
    )


def family_preprocess(model_name: str) -> str | None:
    """Return the preprocessing mode of the family that a model's name starts with, if any.

    Keras names its models ``mobilenet_1.00_224``, ``resnet50v2``, ``NASNet``.
    """
    plain = _plain(model_name)
    families = {_plain(name): entry.preprocess for name, entry in APPLICATIONS.items()}
    families["nasnet"] = "tf"
    families[OWN_NAME] = "none"
    matching = [family for family in families if plain.startswith(family)]
    return families[max(matching, key=len)] if matching else None


def _plain(name: str) -> str:
    return re.sub(r"[_.\s-]", "", name).lower()


def _parse_options(inside: str, text: str) -> tuple[tuple[str, object], ...]:
    try:
        call = ast.parse(f"f({inside})", mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            options = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
            if len(options) == len(call.keywords):
                return tuple(sorted(options.items()))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        pass  # The last two of brackets in brackets in brackets.
    raise InputError(f"cannot read the options of {text!r}; write them as mobilenet(alpha=0.25)")
