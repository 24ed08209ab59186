"""A tiny network, run by one engine in each precision: ``python -m …engine_trial ENGINE``.

In a process of its own, as Keras has one backend in each, and as a package that is broken may take
its process along. The last line of its output is a JSON object.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from permafrost.pipeline.options import PRECISIONS
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.layers import LayerSpec
from permafrost.stages.engines.program import ProgramSpec, Work
from permafrost.stages.engines.registry import BUILDERS
from permafrost.stages.engines.support import check_precision
from permafrost.stages.errors import InputError, in_one_line
from permafrost.stages.frameworks.start import find_keras_backend, list_gpus, start_keras

WORKS = "works"
# bfloat16 keeps 8 bits of each number, and there are two layers.
_TOLERANCE = 0.05
_SIZE = 16


def try_engine(engine: str) -> dict[str, object]:
    """Run a tiny network in each precision; say what came of it, and which GPUs there are."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny.keras"
        batch = np.arange(4 * _SIZE * _SIZE * 3, dtype=np.uint8).reshape(4, _SIZE, _SIZE, 3)
        expected = _write_network(file, batch)
        told = {one: _try_precision(engine, one, file, batch, expected) for one in PRECISIONS}
    gpus = list_gpus() if find_keras_backend() == "tensorflow" else []
    return {"precisions": told, "gpus": gpus}


def _write_network(file: Path, batch: np.ndarray) -> np.ndarray:
    """Save a network of two layers; return what Keras makes of a batch."""
    start_keras()
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            layers.Input((_SIZE, _SIZE, 3)),
            layers.Conv2D(8, 3, activation="relu", name="first"),
            layers.Conv2D(8, 3, name="map"),
        ],
        name="tiny",
    )
    network.save(file)
    maps = keras.ops.convert_to_numpy(network(batch.astype(np.float32)))
    return np.asarray(np.mean(maps, axis=(1, 2)))


def _try_precision(
    engine: str, precision: str, file: Path, batch: np.ndarray, expected: np.ndarray
) -> str:
    """Return `WORKS`, or why it does not."""
    from permafrost.stages.backbones.loading import BackboneRequest, load_backbone

    layers = (LayerSpec("map", "avg"),)
    spec = ProgramSpec(layers=layers, preprocess="none", precision=precision)
    try:
        check_precision(engine, precision)
        network = load_backbone(BackboneRequest(backbone=parse_backbone(str(file))))
        program = BUILDERS[engine](lambda: network, spec, Work(batch_size=len(batch), n_images=1))
        (found,) = program(batch)
        program.close()
    except InputError as error:
        return str(error).removeprefix(f"--precision {precision}").removeprefix(":").strip()
    except Exception as error:  # noqa: BLE001 - whatever a broken package raises is what is told
        return f"{type(error).__name__}: {in_one_line(error)}"
    largest = float(np.abs(found - expected).max() / np.abs(expected).max())
    return WORKS if largest < _TOLERANCE else f"runs, but its numbers are off by {largest:.0%}"


if __name__ == "__main__":
    print(json.dumps(try_engine(sys.argv[1])))
