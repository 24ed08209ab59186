"""Engines and half precision: what this machine can compute, and how TensorFlow is told to.

Half precision is asked for to save time. Where the processor has no instructions for it, it is
emulated and slower than float32, so it is refused there and not silently tolerated.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from permafrost.stages.cores import count_cores
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.frameworks.start import (
    check_keras_backend,
    check_tensorflow,
    find_keras_backend,
    start_keras,
)

_PROCESSOR = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_NAMES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}

# Grappler's pass for each half precision.
_PASSES = {
    "bfloat16": "auto_mixed_precision_onednn_bfloat16",
    "float16": "auto_mixed_precision",
}
# What those convert wherever it stands; the rest they convert where it lies between these.
_DEPTHWISE = "DepthwiseConv2dNative"
_PRODUCTS = ("BatchMatMulV2", "Conv2D", "Einsum", "MatMul", _DEPTHWISE)


def check_precision(engine: str, precision: str) -> None:
    """Refuse what this machine would compute slowly or not at all.

    Where half precision depends on the devices, this imports Keras' backend.

    Parameters
    ----------
    engine : str
        ``"tensorflow"``, ``"openvino"`` or ``"keras"``.
    precision : str
        ``"float32"``, ``"bfloat16"`` or ``"float16"``.

    Raises
    ------
    InputError
        One line with what is missing and what to use instead.
    """
    backend = find_keras_backend()
    if engine == "keras":
        check_keras_backend(backend)
    else:
        check_tensorflow()
    if engine == "openvino":
        _check_openvino(precision)
    elif precision == "float16" and not _has_gpu(backend):
        half = "bfloat16 or float32" if _has_bfloat16() else "float32"
        raise InputError(
            f"--precision float16 needs a GPU, and {_NAMES[backend]} finds none; use {half}"
        )
    elif precision == "bfloat16" and backend == "tensorflow":
        _check_onednn()
    elif precision == "bfloat16" and _has_gpu(backend):
        return
    if precision == "bfloat16" and not _has_bfloat16():
        raise InputError(
            "--precision bfloat16 needs a processor with AVX512-BF16 or AMX; on this one it would"
            " be slower than float32: use float32"
        )


def _check_openvino(precision: str) -> None:
    if importlib.util.find_spec("openvino") is None:
        raise InputError(
            "--engine openvino needs the package openvino;"
            ' get it with: pip install "permafrost[openvino]"'
        )
    if precision == "float16":
        raise InputError(
            "--precision float16: OpenVINO runs on the processor here; use bfloat16 or float32"
        )


def _check_onednn() -> None:
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        raise InputError(
            "--precision bfloat16 is computed by oneDNN, which TF_ENABLE_ONEDNN_OPTS=0 switches"
            " off; unset it, or use float32"
        )
    if _has_gpu("tensorflow"):
        raise InputError("--precision bfloat16 is for processors; on this GPU use float16")


def _has_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16 itself; only Linux lets us ask."""
    if not _PROCESSOR.exists():
        return False
    flags = re.search(r"^flags\s*:(.*)$", _PROCESSOR.read_text(encoding="utf-8"), re.MULTILINE)
    return bool(flags and _BFLOAT16_FLAGS.intersection(flags[1].split()))


def _has_gpu(backend: str) -> bool:
    start_keras()
    if backend == "torch":
        import torch

        return bool(torch.cuda.is_available())
    import keras

    return any(not name.startswith("cpu") for name in keras.distribution.list_devices())


def configure_session(precision: str) -> Any:
    """Return the configuration of a TensorFlow session that multiplies in this precision."""
    import tensorflow as tf
    from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

    config = tf.compat.v1.ConfigProto()
    config.gpu_options.allow_growth = True
    config.allow_soft_placement = True  # Some operations on integers are for processors alone.
    config.intra_op_parallelism_threads = count_cores()
    rewriting = config.graph_options.rewrite_options
    if precision == "float32":
        # What is folded, and whether the numbers bear it, is decided in `stages.shortcuts.choice`.
        rewriting.constant_folding = RewriterConfig.OFF
    elif precision in _PASSES:
        setattr(rewriting, _PASSES[precision], RewriterConfig.ON)
    else:
        raise UnknownNameError("precision", precision, ("float32", *_PASSES))
    return config


def find_delicate_products(batch: Any, outputs: Iterable[Any]) -> list[Any]:
    """Return the operations that should stay float32; those that are fetched do.

    They multiply the pixels themselves by weights: pixels are 8 bits, which bfloat16 holds exactly,
    but not less a mean of 103.939; conv1 of ResNet50 would be off by 1.5e-3 of its largest value
    instead of 2e-4. Or they are depthwise: bound by memory, these gain nothing, and what normalizes
    their few products amplifies rounding; without them, conv_pw_12_relu:avg of MobileNet is off by
    9e-2 instead of 3e-2.

    Parameters
    ----------
    batch : tf.Tensor
        The pixels.
    outputs : iterable of tf.Tensor
        What is computed; nothing is returned that these do not need.
    """
    needed = find_needed(outputs)
    reached = _walk(
        {batch.op},
        lambda op: [] if op.type in _PRODUCTS else [u for t in op.outputs for u in t.consumers()],
    )
    first = {op for op in reached & needed if op.type in _PRODUCTS}
    depthwise = {op for op in needed if op.type == _DEPTHWISE}
    return sorted(first | depthwise, key=lambda op: str(op.name))


def find_needed(outputs: Iterable[Any]) -> set[Any]:
    """Return the operations of the graph that some tensors need."""
    return _walk({tensor.op for tensor in outputs}, lambda op: [t.op for t in op.inputs])


def _walk(start: set[Any], follow: Callable[[Any], Iterable[Any]]) -> set[Any]:
    seen: set[Any] = set()
    waiting = list(start)
    while waiting:
        operation = waiting.pop()
        if operation not in seen:
            seen.add(operation)
            waiting += follow(operation)
    return seen
