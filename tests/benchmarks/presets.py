"""DINOv2-small's architecture, random weights: six layers and three poolings in one pass.

    python -m tests.benchmarks.presets [--images 32] [--rounds 3] [--size 224]

Beside the program that `extract` runs, the model's own ``predict``, which gives its last layer
alone. The two take turns, so that what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LAYERS = (2, 4, 6, 8, 10, 11)
POOLINGS = ("cls", "tokens", "cls_tokens")


def save_small(folder: Path, size: int) -> Path:
    """Write a preset of the architecture."""
    import keras_hub

    model = keras_hub.models.DINOV2Backbone(
        patch_size=14,
        num_layers=12,
        hidden_dim=384,
        num_heads=6,
        intermediate_dim=1536,
        image_shape=(size, size, 3),
        position_embedding_shape=(518, 518, 3),
    )
    model.save_to_preset(str(folder))
    return folder


def build_program(folder: Path, precision: str, batch_size: int) -> Callable[[np.ndarray], Any]:
    """Build what `extract` runs, the fastest way that it finds."""
    from permafrost.stages.backbones.applications import parse_backbone
    from permafrost.stages.backbones.layers import LayerSpec
    from permafrost.stages.backbones.loading import BackboneRequest, load_backbone
    from permafrost.stages.engines.program import ProgramSpec, Work
    from permafrost.stages.engines.registry import BUILDERS

    request = BackboneRequest(backbone=parse_backbone(f"hub:{folder}"))
    specs = [LayerSpec(f"encoder.layers_{n}", pooling) for n in LAYERS for pooling in POOLINGS]
    spec = ProgramSpec(layers=tuple(specs), preprocess="torch", precision=precision)
    work = Work(batch_size=batch_size, n_images=10_000)
    return BUILDERS["tensorflow"](lambda: load_backbone(request), spec, work)


def build_predict(folder: Path, precision: str) -> Callable[[np.ndarray], Any]:
    """Build the model's own ``predict``, images being prepared beforehand."""
    import keras_hub

    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]
    model = keras_hub.models.Backbone.from_preset(str(folder), dtype=policy)

    def predict(batch: np.ndarray) -> Any:
        return model.predict({"images": batch.astype(np.float32)}, batch_size=len(batch), verbose=0)

    return predict


def main() -> None:
    """Time both, and print images a second."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=32, metavar="N", help="in each batch")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--size", type=int, default=224, metavar="N")
    parsed = parser.parse_args()
    shape = (parsed.images, parsed.size, parsed.size, 3)
    batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = save_small(Path(name), parsed.size)
        ways: dict[str, Callable[[np.ndarray], Any]] = {}
        for precision in ("float32", "bfloat16"):
            ways[f"permafrost {precision}"] = build_program(folder, precision, parsed.images)
            ways[f"predict {precision}"] = build_predict(folder, precision)
        for run in ways.values():
            run(batch)
        best: dict[str, float] = dict.fromkeys(ways, 0.0)
        for _ in range(parsed.rounds):
            for way, run in ways.items():
                started_s, used_s = time.perf_counter(), time.process_time()
                run(batch)
                took_s = time.perf_counter() - started_s
                rate = parsed.images / took_s
                best[way] = max(best[way], rate)
                cpu_s = time.process_time() - used_s
                print(f"{way:<20} {rate:6.1f} images/s, {cpu_s / parsed.images:.3f} CPU-s an image")
    print("best:", ", ".join(f"{way} {rate:.1f}" for way, rate in best.items()))


if __name__ == "__main__":
    main()
