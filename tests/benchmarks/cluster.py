"""What a cluster costs: the coordinator for each claim, and two workers against one process.

python -m tests.benchmarks.cluster simulate [--rows 1000000] [--workers 8] [--speed 500]
    [--claim-seconds 2]
python -m tests.benchmarks.cluster compare --images FOLDER [--rounds 3] [any option of extract]

``simulate`` runs tiny images over worker processes whose engine sleeps, so that a few cores stand
for many machines: decoding, leases, shards and Dask are real. It prints the coordinator's processor
time and memory for each claim. ``compare`` runs ``extract`` on all cores of this machine, and on
a Dask worker of one thread for each core, in turn; starts are left out: the workers are warm, and
of the process the seconds of working are taken that it reports itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from permafrost.cores import count_cores
from permafrost.pipeline.cluster import queue
from permafrost.pipeline.cluster.claim import ClaimRecord
from permafrost.pipeline.cluster.dispatch import Dispatcher
from permafrost.pipeline.cluster.queue import Claim, ClaimQueue
from tests.benchmarks.machine import describe_machine
from tests.helpers import ROOT
from tests.helpers.clusters import DaskCluster
from tests.helpers.inputs import write_model

# In a worker: an engine of known speed. Dask may run this twice in one process.
_ENGINE = """
import time
import numpy as np
from permafrost.stages.engines import registry
from permafrost.stages.engines.program import HalvingProgram

def compute(batch):
    time.sleep(len(batch) / {speed})
    return [np.repeat(batch.reshape(len(batch), -1).mean(axis=1, dtype=np.float32)[:, None], 16, 1)]

registry.BUILDERS["tensorflow"] = lambda load, spec, work: HalvingProgram(compute)
"""
_SIDE = 8
# Of the claims, the share that fills caches of Python and Dask, and is not counted.
_WARM = 0.2


def main() -> int:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(required=True)
    simulating = kinds.add_parser("simulate")
    simulating.add_argument("--rows", type=int, default=1_000_000)
    simulating.add_argument("--workers", type=int, default=8)
    simulating.add_argument("--speed", type=float, default=500.0, help="images/s of a worker")
    simulating.add_argument("--claim-seconds", type=float, default=2.0)
    simulating.set_defaults(call=simulate)
    comparing = kinds.add_parser("compare")
    comparing.add_argument("--images", type=Path, required=True)
    comparing.add_argument("--rounds", type=int, default=3)
    comparing.set_defaults(call=compare)
    own, others = parser.parse_known_args()
    print(json.dumps(own.call(own, others) | {"machine": describe_machine([]).processor}))
    return 0


def simulate(own: argparse.Namespace, _others: list[str]) -> dict[str, object]:
    """Compute many tiny images on workers whose engine sleeps."""
    from permafrost.pipeline.cli.main import main as run_command

    queue.CLAIM_S = own.claim_seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = np.random.default_rng(0).integers(0, 256, (own.rows, _SIDE, _SIDE, 3), np.uint8)
        np.savez(folder / "tiny.npz", images=images)
        del images
        write_model(folder / "small.keras", size=16)
        engine = folder / "engine.py"
        engine.write_text(_ENGINE.format(speed=own.speed))
        command = (
            *("extract", "--images", folder / "tiny.npz", "--backbone", folder / "small.keras"),
            *("--layers", "last:avg", "--cache", folder / "cache", "--out", folder / "features.h5"),
        )
        with DaskCluster(folder / "dask") as cluster:
            for _ in range(own.workers):
                cluster.add_worker("--preload", engine)
            costs = _Costs()
            started_s = time.monotonic()
            status = run_command([*map(str, command), "--scheduler", cluster.address, "--json"])
            seconds = time.monotonic() - started_s
        assert status == 0
    return {"rows": own.rows, "workers": own.workers, "seconds": round(seconds, 1)} | costs.sum_up()


class _Costs:
    """Watches the coordinator: its processor time and memory as claims come back."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []
        work_off = Dispatcher.work_off
        process = psutil.Process()

        def watch(
            dispatcher: Dispatcher, claims: ClaimQueue
        ) -> Iterator[tuple[Claim, ClaimRecord]]:
            for done in work_off(dispatcher, claims):
                self.seen.append((time.process_time(), process.memory_info().rss))
                yield done

        Dispatcher.work_off = watch  # type: ignore[method-assign]

    def sum_up(self) -> dict[str, object]:
        kept = self.seen[int(_WARM * len(self.seen)) :]
        n_claims = len(kept) - 1
        (first_s, first_bytes), (last_s, last_bytes) = kept[0], kept[-1]
        return {
            "claims": len(self.seen),
            "ms_a_claim": round(1000 * (last_s - first_s) / n_claims, 2),
            "bytes_a_claim": round((last_bytes - first_bytes) / n_claims),
        }


def compare(own: argparse.Namespace, others: list[str]) -> dict[str, object]:
    """Compute the same images on all cores of a process, and on a worker for each core."""
    n_cores = count_cores()
    rates: dict[str, list[float]] = {"process": [], "workers": []}
    with tempfile.TemporaryDirectory() as name, DaskCluster(Path(name) / "dask") as cluster:
        for _ in range(n_cores):
            cluster.add_worker()
        _extract(own, others, Path(name) / "warm", cluster.address)
        for number in range(own.rounds):
            for kind, scheduler in (("process", None), ("workers", cluster.address)):
                place = Path(name) / f"{number}-{kind}"
                rates[kind].append(_extract(own, others, place, scheduler))
                print(f"{kind}: {rates[kind][-1]:.2f} images/s", file=sys.stderr)
    pairs = zip(rates["workers"], rates["process"], strict=True)
    ratio = statistics.median(ours / alone for ours, alone in pairs)
    return {"images_per_second": rates, "ratio": round(ratio, 3), "workers": n_cores}


def _extract(
    own: argparse.Namespace, others: list[str], place: Path, scheduler: str | None
) -> float:
    """Return the images/s of a run, its planning and building left out."""
    command = [
        *(sys.executable, ROOT / "run.py", "extract", "--images", own.images, *others),
        *("--cache", place / "cache", "--out", place / "features.h5", "--json"),
        *(("--scheduler", scheduler) if scheduler else ()),
    ]
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    shares = figures["shares"]
    left_out = shares["planning"] + shares["building"]
    return float(figures["computed"] / (figures["seconds"] * (1 - left_out)))


if __name__ == "__main__":
    sys.exit(main())
