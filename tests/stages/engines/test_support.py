"""What a machine is asked to compute, and what it says when it cannot."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from permafrost.stages.engines import support
from permafrost.stages.engines.mixed_precision import find_delicate_products
from permafrost.stages.engines.support import check_precision
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.frameworks import start
from permafrost.stages.frameworks.start import start_tensorflow

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Pretend to be a machine."""

    def call(
        flags: str = "fpu sse2 avx2",
        *,
        gpu: bool = False,
        missing: str = "",
        backend: str = "tensorflow",
    ) -> None:
        processor = tmp_path / "cpuinfo"
        processor.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
        monkeypatch.setattr(support, "_PROCESSOR", processor)
        monkeypatch.setattr(support, "_has_gpu", lambda _backend: gpu)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != missing or None)
        for module in (support, start):
            monkeypatch.setattr(module, "find_keras_backend", lambda: backend)
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)

    return call


@pytest.mark.parametrize("flags", ["fpu avx512_bf16 fsrm", "fpu amx_bf16"])
def test_bfloat16_runs_where_the_processor_has_it(machine: Machine, flags: str) -> None:
    machine(flags)
    check_precision("tensorflow", "bfloat16")
    check_precision("openvino", "bfloat16")


@pytest.mark.parametrize("engine", ["tensorflow", "openvino"])
def test_bfloat16_is_refused_where_it_would_be_slow(machine: Machine, engine: str) -> None:
    machine("fpu avx512f avx512_bf16ish")
    with pytest.raises(
        InputError, match=r"AVX512-BF16 or AMX; .* slower than float32: use float32"
    ):
        check_precision(engine, "bfloat16")
    check_precision(engine, "float32")


def test_bfloat16_is_refused_where_the_processor_cannot_be_asked(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine()
    monkeypatch.setattr(support, "_PROCESSOR", Path("/nonexistent"))
    with pytest.raises(InputError, match="use float32"):
        check_precision("tensorflow", "bfloat16")


def test_bfloat16_is_refused_where_its_library_is_switched_off(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("avx512_bf16")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    with pytest.raises(InputError, match="TF_ENABLE_ONEDNN_OPTS=0 switches off; unset it"):
        check_precision("tensorflow", "bfloat16")
    check_precision("openvino", "bfloat16")


def test_each_device_has_its_half_precision(machine: Machine) -> None:
    machine("avx512_bf16", gpu=True)
    check_precision("tensorflow", "float16")
    with pytest.raises(InputError, match="on this GPU use float16"):
        check_precision("tensorflow", "bfloat16")
    machine("avx512_bf16")
    with pytest.raises(InputError, match=r"needs a GPU, .* use bfloat16 or float32"):
        check_precision("tensorflow", "float16")
    machine()
    with pytest.raises(InputError, match="finds none; use float32"):
        check_precision("tensorflow", "float16")


def test_openvino_takes_no_float16_and_must_be_installed(machine: Machine) -> None:
    machine()
    with pytest.raises(InputError, match=r"float16: OpenVINO .* use bfloat16 or float32"):
        check_precision("openvino", "float16")
    machine(missing="openvino")
    with pytest.raises(InputError, match=r'pip install "permafrost\[openvino\]"'):
        check_precision("openvino", "float32")


def test_keras_takes_bfloat16_on_the_processors_and_gpus_that_its_backend_has_it_on(
    machine: Machine,
) -> None:
    for backend in ("tensorflow", "jax", "torch"):
        machine("avx512_bf16", backend=backend)
        check_precision("keras", "bfloat16")
        machine(backend=backend)
        with pytest.raises(InputError, match="needs a processor with AVX512-BF16 or AMX"):
            check_precision("keras", "bfloat16")
    for backend in ("jax", "torch"):
        machine(gpu=True, backend=backend)
        check_precision("keras", "bfloat16")
    machine(gpu=True)
    with pytest.raises(InputError, match="on this GPU use float16"):
        check_precision("keras", "bfloat16")


def test_keras_takes_float16_on_gpus_alone(machine: Machine) -> None:
    for backend, name in (("tensorflow", "TensorFlow"), ("jax", "JAX"), ("torch", "PyTorch")):
        machine(gpu=True, backend=backend)
        check_precision("keras", "float16")
        machine(backend=backend)
        with pytest.raises(InputError, match=f"needs a GPU, and {name} finds none; use float32"):
            check_precision("keras", "float16")


@pytest.mark.parametrize("engine", ["tensorflow", "openvino"])
def test_engines_of_tensorflow_need_keras_on_it(machine: Machine, engine: str) -> None:
    machine(backend="jax")
    with pytest.raises(InputError, match=r"set KERAS_BACKEND=tensorflow, or .* --engine keras"):
        check_precision(engine, "float32")
    check_precision("keras", "float32")
    machine(missing="tensorflow")
    with pytest.raises(InputError, match=r"tensorflow, which is not installed; .*: jax, torch\)"):
        check_precision(engine, "float32")


def test_a_backend_that_is_missing_or_unknown_is_one_line(machine: Machine) -> None:
    machine(backend="torch", missing="torch")
    with pytest.raises(InputError, match=r"torch, which is not installed; .*: tensorflow, jax\)"):
        check_precision("keras", "float32")
    machine(backend="pytorch")
    with pytest.raises(
        UnknownNameError, match="unknown Keras backend 'pytorch'; did you mean 'torch'"
    ):
        check_precision("keras", "float32")


def test_products_of_pixels_and_depthwise_ones_stay_float32_where_they_are_needed() -> None:
    start_tensorflow()
    import tensorflow as tf

    with tf.Graph().as_default():
        batch = tf.compat.v1.placeholder(tf.uint8, (None, 8, 8, 3))
        pixels = tf.cast(batch, tf.float32) - 103.939
        kernel = tf.ones((3, 3, 3, 3))
        first = tf.nn.conv2d(tf.pad(pixels, [[0, 0], [1, 1], [1, 1], [0, 0]]), kernel, 1, "VALID")
        second = tf.nn.conv2d(tf.nn.relu(first), kernel, 1, "SAME")
        mixed = tf.nn.conv2d(second + pixels, kernel, 1, "SAME")
        deep = tf.raw_ops.DepthwiseConv2dNative(
            input=tf.nn.relu(mixed), filter=kernel, strides=[1, 1, 1, 1], padding="SAME"
        )
        tf.nn.conv2d(pixels, kernel, 1, "SAME", name="unused")
        outputs = [tf.reduce_mean(deep, [1, 2]), second]
        found = find_delicate_products(batch, outputs)
    # The mixed one meets the pixels too, beside a product of them.
    assert {op.name for op in found} == {tensor.op.name for tensor in (first, mixed, deep)}
