"""Which products TensorFlow may compute in half precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from permafrost.cores import count_cores
from permafrost.stages.errors import UnknownNameError

# Grappler's pass for each half precision.
_PASSES = {
    "bfloat16": "auto_mixed_precision_onednn_bfloat16",
    "float16": "auto_mixed_precision",
}

_DEPTHWISE = "DepthwiseConv2dNative"
# What those passes always convert; any other operation only if it lies between these.
_PRODUCTS = ("BatchMatMulV2", "Conv2D", "Einsum", "MatMul", _DEPTHWISE)


def configure_session(precision: str) -> Any:
    """Return the configuration of a TensorFlow session that multiplies in this precision."""
    import tensorflow as tf
    from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

    config = tf.compat.v1.ConfigProto()
    config.gpu_options.allow_growth = True
    config.allow_soft_placement = True  # Some operations on integers are for processors alone.
    config.intra_op_parallelism_threads = count_cores()
    rewriting = config.graph_options.rewrite_options
    # A second turn through all passes changes nothing, and no batch is larger than the memory: with
    # VGG16 in bfloat16, whose weights each pass copies, both take half a gigabyte and 0.4 s.
    rewriting.meta_optimizer_iterations = RewriterConfig.ONE
    rewriting.memory_optimization = RewriterConfig.NO_MEM_OPT
    if precision == "float32":
        # What is folded, and whether the numbers bear it, is decided in `stages.shortcuts.choice`.
        rewriting.constant_folding = RewriterConfig.OFF
    elif precision in _PASSES:
        setattr(rewriting, _PASSES[precision], RewriterConfig.ON)
    else:
        raise UnknownNameError("precision", precision, ("float32", *_PASSES))
    return config


def find_delicate_products(batch: Any, outputs: Iterable[Any]) -> list[Any]:
    """Return the operations that should stay float32, as they do if a session fetches them.

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
