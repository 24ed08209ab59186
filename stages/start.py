"""Start TensorFlow without its chatter."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NVIDIA_DEVICES = Path("/proc/driver/nvidia/gpus")


def start_tensorflow() -> None:
    """Import TensorFlow and look for devices; after this a model can be built.

    On a machine without a GPU, TensorFlow says in eight lines, before its log level counts, that
    there is none; those go nowhere. On one with a GPU everything shows: it may say why the GPU is
    not used.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if NVIDIA_DEVICES.is_dir():
        _find_devices()
    else:
        with _holding_back_stderr():
            _find_devices()


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
