"""Start TensorFlow without its chatter."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

NVIDIA_DEVICES = Path("/proc/driver/nvidia/gpus")


def start_tensorflow() -> None:
    """Import TensorFlow and look for devices; after this a model can be built.

    On a machine without a GPU, TensorFlow says in eight lines, before its log level counts, that
    there is none; those go nowhere. On one with a GPU everything shows: it may say why the GPU is
    not used.
    """
    if "tensorflow" in sys.modules:
        return
    _keep_freed_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if NVIDIA_DEVICES.is_dir():
        _find_devices()
    else:
        with _holding_back_stderr():
            _find_devices()


def _keep_freed_memory() -> None:
    """Have the C library keep what TensorFlow frees, for its next batch.

    By default each activation of over 32 MB is fetched from the kernel and given back again, page
    by page: measured with VGG16, 5 of 30 s. What a batch needs at its peak stays with the process.
    """
    with contextlib.suppress(OSError, AttributeError):  # musl and macOS have no mallopt.
        c_library = ctypes.CDLL(None)
        c_library.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        c_library.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def _find_devices() -> None:
    import tensorflow as tf

    for device in tf.config.list_physical_devices("GPU"):
        # Otherwise TensorFlow takes all of the card's memory at once.
        tf.config.experimental.set_memory_growth(device, enable=True)
    # Some of the chatter comes when the context starts, at the first tensor.
    tf.zeros(())


@contextmanager
def _holding_back_stderr() -> Iterator[None]:
    """Keep what is written to file descriptor 2, and show it only if the block fails."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
