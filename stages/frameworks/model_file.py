"""Keras model files from anyone: what they are made of is checked before Keras builds it.

A model file names the classes and functions that Keras is to import and call. Which of them are
dangerous changes from version to version (`Lambda` with its bytecode, layers that read vocabularies
or load other files, functions that download, configurations that name any module); so the rule is
what a backbone may be made of: an allow-list of Keras' own layers that do nothing but compute, and
of the layers of KerasHub's vision models.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from permafrost.stages.errors import WeightsError, in_one_line
from permafrost.stages.frameworks.afresh import run_afresh
from permafrost.stages.frameworks.hub_classes import is_hub_class, start_hub
from permafrost.stages.frameworks.keras2 import converting_keras_2, find_version
from permafrost.stages.frameworks.weights_file import MODEL_SUFFIX, check_weights, read_member

_REMEDY = (
    "a backbone consists of Keras' own layers, or of those of KerasHub's vision models; for others,"
    " export the model with model.export('folder') and name that folder"
)
_LAYERS = (
    "Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D"
    " AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add"
    " AdditiveAttention AlphaDropout Attention AugMix AutoContrast Average AveragePooling1D"
    " AveragePooling2D AveragePooling3D BatchNormalization Bidirectional"
    " CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose"
    " Conv3D Conv3DTranspose Cropping1D Cropping2D Cropping3D CustomScaleLayer Dense"
    " DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU EinsumDense Equalization Flatten"
    " GRU GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D"
    " GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D"
    " GroupNormalization GroupQueryAttention GroupedQueryAttention Identity InputLayer"
    " LSTM LSTMCell LayerNormalization LayerScale LeakyReLU Masking MaxPooling1D MaxPooling2D"
    " MaxPooling3D Maximum Minimum MultiHeadAttention Multiply Normalization PReLU Permute"
    " RMSNormalization RNN"
    " RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast"
    " RandomCrop RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur"
    " RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation"
    " RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom ReLU RepeatVector"
    " Rescaling Reshape Resizing SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax"
    " Solarization SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization"
    " StackedRNNCells"
    " Subtract SyncBatchNormalization ThresholdedReLU TimeDistributed UnitNormalization"
    " UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D"
)
_MODELS = "Functional Model Sequential"
_PARTS = (
    "Constant DTypePolicy DTypePolicyMap FloatDTypePolicy GlorotNormal GlorotUniform HeNormal"
    " HeUniform Identity IdentityInitializer L1 L1L2 L2 LecunNormal LecunUniform MaxNorm MinMaxNorm"
    " NonNeg Ones Orthogonal OrthogonalInitializer OrthogonalRegularizer Policy RandomNormal"
    " RandomUniform TruncatedNormal UnitNorm VarianceScaling Zeros"
)
_VALUES = "__bytes__ __ellipsis__ __keras_tensor__ __numpy__ __slice__ __tensor__ __tuple__"
_NAMES = set(" ".join((_LAYERS, _MODELS, _PARTS, _VALUES, "TensorShape")).split())
_ACTIVATIONS = (
    "celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh"
    " leaky_relu linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink"
    " softmax softplus softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh"
    " tanh_shrink threshold"
)
# Of KerasHub's own, that which it has registered.
_OF_HUB = "keras_hub>gelu_approximate"
_FUNCTIONS = {*_ACTIVATIONS.split(), _OF_HUB}
_FUNCTION_MODULES = (None, "builtins", "keras.activations")
# Every class in these is harmless: operations that take no function, and what training needs.
_PLAIN_MODULES = re.compile(
    r"keras\.(src\.ops\.(numpy|nn|image|math)|(losses|metrics|optimizers(\.schedules)?))"
)
# Their module has others that call functions.
_CASTS = {("keras.src.ops.core", "Cast"), ("keras.src.ops.core", "ConvertToTensor")}
# More weights than the file holds: HDF5 files lack the seeds of layers that are random in training.
_FREE_WEIGHTS = 10_000
# A layer that nested models share is kept once and counted in each.
_MOST_SHARING = 8
# What TensorFlow takes as the name of a scope, at the outside and within another.
_ROOT_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\>-]*")
_SCOPE = re.compile(r"[A-Za-z0-9_.\\>-]+")
_CLASS_NAME = re.compile(r"[A-Z][A-Za-z0-9]*")


def load_model(path: Path) -> Any:
    """Load a model file that is nothing but Keras' own layers and their weights.

    Names of layers that TensorFlow cannot name scopes with are changed.

    Parameters
    ----------
    path : Path
        Ends in ``.keras``, ``.h5`` or ``.hdf5``; of Keras 3, or an HDF5 file of Keras 2.

    Returns
    -------
    keras.Model

    Raises
    ------
    WeightsError
        The reason, in one line.
    """
    import keras

    try:
        with converting_keras_2(path) as file:
            check_model(file)
            model = keras.models.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parsers raise on a file that is none.
        version = find_version(path)
        old = f" (it was saved by Keras {version})" if re.match("[12][.]", version) else ""
        raise WeightsError(
            f"{str(path)!r} cannot be loaded as a Keras model{old}: {in_one_line(error)}"
        ) from error
    _rename_layers(model, _ROOT_SCOPE)
    return model


def _rename_layers(model: Any, allowed: re.Pattern[str]) -> None:
    """Have names of layers be names of scopes: ``my conv`` and ``_conv`` fail in TensorFlow."""
    import keras

    names = {layer.name for layer in model.layers}
    for layer in model.layers:
        if not isinstance(layer, keras.layers.InputLayer) and not allowed.fullmatch(layer.name):
            plain = re.sub(r"[^\w.>-]", "_", layer.name, flags=re.ASCII)
            plain = plain if allowed.fullmatch(plain) else f"layer{plain}"
            free = (
                name for n in itertools.count(1) if (name := plain + f"_{n}" * (n > 1)) not in names
            )
            layer.name = next(free)
            names.add(layer.name)
        if isinstance(layer, keras.Model):
            _rename_layers(layer, _SCOPE)


def check_model(path: Path) -> None:
    """Refuse a model file that is more than Keras' own layers and their weights.

    Parameters
    ----------
    path : Path
        Ends in ``.keras``, ``.h5`` or ``.hdf5``.

    Raises
    ------
    WeightsError
        The reason, in one line.
    OSError, zipfile.BadZipFile, ValueError, RecursionError
        It is no such file at all.
    """
    n_values = check_weights(path)
    config = json.loads(_read_config(path))
    if not isinstance(config, dict):
        raise WeightsError("its configuration is no JSON object")
    # Keras does not look at it, as it is told not to compile.
    config.pop("compile_config", None)
    check_config(config)
    check_count(lambda: _build(path, config), n_values)


def check_config(config: object) -> None:
    """Refuse a configuration that names more than Keras' own layers, and KerasHub's vision models.

    Raises
    ------
    WeightsError
        The reason, in one line.
    """
    for node in _walk_nodes(config):
        _check_node(node)


def _read_config(path: Path) -> str | bytes:
    if path.suffix == MODEL_SUFFIX:
        return read_member(path, "config.json")
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        config = file.attrs.get("model_config")
    if not isinstance(config, str | bytes):
        raise WeightsError("it has no model_config: name a file that model.save wrote")
    return config


def check_count(build: Callable[[], Any], n_values: int) -> None:
    """Refuse a model of far more weights than its file holds, before they take their memory.

    Some text may ask for terabytes. `build` returns the model, and may raise what it likes.
    """
    import keras

    def count() -> int:
        with keras.StatelessScope(initialize_variables=False):
            model = build()
        return sum(math.prod(variable.shape) for variable in model.variables)

    # Elsewhere Keras would fill these variables with the next ones.
    n_weights = run_afresh(count)
    if n_weights > _MOST_SHARING * n_values + _FREE_WEIGHTS:
        raise WeightsError(f"it has {n_values} values for {n_weights} weights")


def _build(path: Path, config: dict[str, Any]) -> Any:
    import keras

    if path.suffix != MODEL_SUFFIX:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    for node in _walk_nodes(config):
        node.pop("compile_config", None)  # An optimizer needs its own variables at once.
    return keras.saving.deserialize_keras_object(config, safe_mode=True)


def _walk_nodes(config: object) -> Iterator[dict[str, Any]]:
    """Yield every object of the configuration that names a class."""
    pending = [config]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            pending += node.values()
            if "class_name" in node:
                yield node
        elif isinstance(node, list):
            pending += node


def _check_node(node: dict[str, Any]) -> None:
    name, module, registered = (
        node.get(key) for key in ("class_name", "module", "registered_name")
    )
    if is_hub_class(module, name, registered):
        is_plain, registered = True, None
    elif name == "function":
        if node.get("config") == _OF_HUB:
            start_hub()
        is_plain = str(node.get("config")) in _FUNCTIONS and module in _FUNCTION_MODULES
    else:
        is_plain = _is_plain_class(name, module)
    config = node.get("config")
    if isinstance(config, dict) and config.get("stateful"):
        raise WeightsError(
            f"its layer {config.get('name')!r} is stateful, so that an image's features would"
            " depend on those before it; build it with stateful=False"
        )
    # A registered name other than the class's own stands for code that comes with the file.
    if not is_plain or registered not in (None, name, node.get("config")):
        what = registered or (node.get("config") if name == "function" else name)
        said = ".".join(str(part) for part in (module, what) if part)
        raise WeightsError(f"it is made of {said[:120]!r}; {_REMEDY}")


def _is_plain_class(name: object, module: object) -> bool:
    if not isinstance(name, str) or not isinstance(module, str | None):
        return False
    if (module, name) in _CASTS:
        return True
    if module is not None and _PLAIN_MODULES.fullmatch(module):
        return bool(_CLASS_NAME.fullmatch(name))
    return name in _NAMES and (module is None or module.split(".")[0] == "keras")
