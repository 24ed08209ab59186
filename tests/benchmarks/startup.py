"""What a command takes before and beside its work: whole processes, in turn.

python -m tests.benchmarks.startup [--rounds 11] [--rows 1000]

The floors are Python alone, and Python with NumPy and h5py, without which no command goes. ``plan``
and ``extract`` have nothing to do. Figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from tests.benchmarks.scale import Measured, list_options, make_dataset, run_measured


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


def main() -> None:
    """Run the benchmark and print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--rows", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder), options.rows)
        commands = list_commands(Path(folder))
        for command in commands.values():
            run_measured(*command)  # compiles, hashes, and warms the files
        rounds = [
            {name: run_measured(*command) for name, command in commands.items()}
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
