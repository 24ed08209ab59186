"""Start Keras on the backend it is set to; TensorFlow without its chatter."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.frameworks.lean import importing_lean

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

NVIDIA_DEVICES = Path("/proc/driver/nvidia/gpus")
# What Keras' settings are where keras.json does not say.
KERAS_DEFAULTS = {
    "backend": "tensorflow",
    "epsilon": 1e-7,
    "floatx": "float32",
    "image_data_format": "channels_last",
}
# Keras' backends; each is called like its package.
BACKENDS = ("tensorflow", "jax", "torch")


def find_keras_backend() -> str:
    """Return the backend that Keras is set to, without importing Keras."""
    return str(find_keras_settings()["backend"])


def find_keras_settings() -> dict[str, object]:
    """Return what of Keras' settings a network depends on, without importing Keras.

    Returns
    -------
    dict
        ``backend``, ``epsilon``, ``floatx`` and ``image_data_format``.
    """
    if "keras" in sys.modules:
        config = sys.modules["keras"].config
        return {name: getattr(config, name)() for name in KERAS_DEFAULTS}
    named = os.environ.get("KERAS_BACKEND")
    # Keras looks for its settings in the same way.
    base = Path.home() if os.access(Path.home(), os.W_OK) else Path("/tmp")
    home = Path(os.environ.get("KERAS_HOME", base / ".keras")).expanduser()
    kept: object = None
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads((home / "keras.json").read_text(encoding="utf-8"))
    settings = dict(kept) if isinstance(kept, dict) else {}
    settings |= {"backend": named} if named else {}
    return {name: settings.get(name, usual) for name, usual in KERAS_DEFAULTS.items()}


def start_keras() -> None:
    """Make ready for importing Keras on the backend it is set to; after this a model can be built.

    Raises
    ------
    InputError
        The backend is not installed, or is none that computes here.
    """
    backend = find_keras_backend()
    if backend == "tensorflow":
        start_tensorflow()
        return
    check_keras_backend(backend)
    keep_freed_memory()
    # Otherwise JAX takes three quarters of a card's memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def check_keras_backend(backend: str) -> None:
    """Refuse a backend that is not there, in one line."""
    if backend not in BACKENDS:
        raise UnknownNameError("Keras backend", backend, BACKENDS, remedy="set KERAS_BACKEND")
    if importlib.util.find_spec(backend) is None:
        others = (name for name in BACKENDS if importlib.util.find_spec(name))
        raise InputError(
            f"Keras is set to the backend {backend}, which is not installed; install it, or set"
            f" KERAS_BACKEND to another, with --engine keras (here: {', '.join(others) or 'none'})"
        )


def check_tensorflow() -> None:
    """Refuse, in one line, what runs on TensorFlow alone where Keras cannot run on it."""
    backend = find_keras_backend()
    if backend != "tensorflow":
        raise InputError(
            f"Keras is set to the backend {backend}, and this runs on TensorFlow: set"
            f" KERAS_BACKEND=tensorflow, or extract with --engine keras, which runs on {backend}"
        )
    check_keras_backend(backend)


def start_tensorflow(*, with_keras: bool = True) -> None:
    """Import TensorFlow and look for devices; after this a model can be built.

    On a machine without a GPU, TensorFlow says in eight lines, before its log level counts, that
    there is none; those go nowhere. On one with a GPU everything shows: it may say why the GPU is
    not used.

    Parameters
    ----------
    with_keras : bool
        Whether Keras has to run on it.

    Raises
    ------
    InputError
        It is not installed, or Keras is set to another backend.
    """
    if with_keras:
        check_tensorflow()
    else:
        check_keras_backend("tensorflow")
    if "tensorflow" in sys.modules:
        return
    keep_freed_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if NVIDIA_DEVICES.is_dir():
        _find_devices()
    else:
        with _holding_back_stderr():
            _find_devices()


def keep_freed_memory() -> None:
    """Have the C library keep what TensorFlow frees, for its next batch.

    By default each activation of over 32 MB is fetched from the kernel and given back again, page
    by page: measured with VGG16, 5 of 30 s. What a batch needs at its peak stays with the process.
    """
    with contextlib.suppress(OSError, AttributeError):  # musl and macOS have no mallopt.
        c_library = ctypes.CDLL(None)
        c_library.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        c_library.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def _find_devices() -> None:
    with importing_lean():
        import tensorflow as tf

    for device in tf.config.list_physical_devices("GPU"):
        # Otherwise TensorFlow takes all of the card's memory at once.
        tf.config.experimental.set_memory_growth(device, enable=True)
    # Some of the chatter comes when the context starts, at the first tensor.
    tf.zeros(())


@contextmanager
def _holding_back_stderr() -> Iterator[None]:
    """Keep what is written to file descriptor 2; show it if the block fails, not if it is left.

    An interrupt is no failure.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def list_gpus() -> list[str]:
    """List TensorFlow's GPUs, as ``"/GPU:0"``; this imports it."""
    import tensorflow as tf

    return [f"/GPU:{number}" for number, _ in enumerate(tf.config.list_physical_devices("GPU"))]
