"""Which engines and precisions this machine can run.

Half precision is asked for to save time. Where the processor has no instructions for it, it is
emulated and slower than float32, so it is refused there and not silently tolerated.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
from pathlib import Path

from permafrost.cores import count_cores
from permafrost.stages.errors import InputError
from permafrost.stages.frameworks.start import (
    check_keras_backend,
    check_tensorflow,
    find_keras_backend,
    start_keras,
)

_PROCESSOR = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_NAMES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


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


def computes_on_gpu(engine: str) -> bool:
    """Tell whether an engine leaves this machine's processor alone; this imports its backend."""
    return engine != "openvino" and _has_gpu(find_keras_backend())


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


def describe_processor() -> str:
    """Return a text that changes when another processor, or another share of it, does the work."""
    model, flags = read_processor()
    digest = hashlib.sha256(" ".join(sorted(flags)).encode()).hexdigest()
    return f"{model or platform.processor()} {digest[:16]} x{count_cores()}"


def _has_bfloat16() -> bool:
    """Tell whether the processor multiplies bfloat16 itself; only Linux lets us ask."""
    return bool(_BFLOAT16_FLAGS.intersection(read_processor()[1]))


def read_processor() -> tuple[str, list[str]]:
    """Return its name and its flags, where Linux tells them."""
    if not _PROCESSOR.exists():
        return "", []
    text = _PROCESSOR.read_text(encoding="utf-8")
    model, flags = (
        re.search(rf"^{name}\s*:(.*)$", text, re.MULTILINE) for name in ("model name", "flags")
    )
    return model[1].strip() if model else "", flags[1].split() if flags else []


def _has_gpu(backend: str) -> bool:
    start_keras()
    if backend == "torch":
        import torch

        return bool(torch.cuda.is_available())
    import keras

    return any(not name.startswith("cpu") for name in keras.distribution.list_devices())
