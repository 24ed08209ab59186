"""What a command takes before and beside its work: whole processes, in turn.

python -m tests.benchmarks.startup [--rounds 11] [--rows 1000]

The floors are Python alone, and Python with NumPy and h5py, without which no command goes. ``plan``
and ``extract`` have nothing to do. Figures are medians over the rounds.

With ``--photos FOLDER``, of a few images, further lines are what a network takes by hand, imported,
built and run once, and an ``extract`` of these images: with an empty cache, and once more, with
what that found out but without its features.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from tests.benchmarks.scale import Measured, list_options, make_dataset, run_measured

BY_HAND = """
import sys, keras, numpy as np
name, layer = sys.argv[1:]
base = getattr(keras.applications, name)(
    weights=None, include_top=False, input_shape=(224, 224, 3)
)
model = keras.Model(base.input, base.get_layer(layer).output)
model.predict_on_batch(np.zeros((8, 224, 224, 3), np.float32))
"""


def list_commands(folder: Path) -> dict[str, list[str]]:
    """Return what to run, by name; the floors first."""
    work = list_options(folder)
    return {
        "python": ["-c", "pass"],
        "numpy, h5py": ["-c", "import numpy, h5py"],
        "--help": ["run.py", "--help"],
        "plan": ["run.py", "plan", *work],
        "extract": ["run.py", "extract", *work],
    }


def measure_starts(photos: str, network: str, layer: str) -> dict[str, Measured]:
    """Run a network by hand, and through ``extract``."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *("run.py", "extract", "--images", photos, "--backbone", network.lower()),
            *("--weights", "random", "--layers", layer),
            *("--cache", f"{folder}/cache", "--out", f"{folder}/features.h5"),
        ]
        by_hand = run_measured("-c", BY_HAND, network, layer)
        first = run_measured(*command)
        for shard in Path(folder, "cache").rglob("shard-*"):
            shard.unlink()
        return {"by hand": by_hand, "extract, 1st": first, "extract, 2nd": run_measured(*command)}


def main() -> None:
    """Run the benchmark and print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--photos", help="a folder with a few images")
    parser.add_argument("--network", default="ResNet50", help="a function of keras.applications")
    parser.add_argument("--layer", default="conv5_block3_out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder), options.rows)
        commands = list_commands(Path(folder))
        for command in commands.values():
            run_measured(*command)  # compiles, hashes, and warms the files
        rounds = [
            {name: run_measured(*command) for name, command in commands.items()}
            | (
                measure_starts(options.photos, options.network, options.layer)
                if options.photos
                else {}
            )
            for _ in range(options.rounds)
        ]
    report(rounds)


def report(rounds: list[dict[str, Measured]]) -> None:
    """Print medians, and how much longer each takes than the second floor."""
    figures = {}
    for name in rounds[0]:
        seconds = statistics.median(each[name].seconds for each in rounds)
        cpu_s = statistics.median(each[name].cpu_s for each in rounds)
        above_s = statistics.median(
            each[name].seconds - each["numpy, h5py"].seconds for each in rounds
        )
        print(f"{name:12} {seconds:6.3f} s  {cpu_s:6.3f} s CPU  {above_s:+7.3f} s above the floor")
        figures[name] = {"seconds": seconds, "cpu_s": cpu_s, "above_floor_s": above_s}
    print(json.dumps({**figures, "load": os.getloadavg()}))


if __name__ == "__main__":
    main()
