"""An extraction against what people use instead, and against what the machine can do.

python -m tests.benchmarks --images FOLDER --backbone vgg16 --layers block2_pool,block5_pool
    [--n-images 1000] [--rounds 3] [--only ours,idiom,floor] [--torch-python PATH] [--out FOLDER]
    [any option of extract, as --precision bfloat16 --engine openvino --decode fast]

Each round runs everyone in turn, from an empty cache and with the photos in memory; figures are
medians over the rounds, ratios medians of those within each. Processes run twice a round, on all
photos and on a few: the seconds and photos between the two give the steady rate, without what a
start costs. Parts of the work have a process each, and what they do first is not counted. Peak
memory is that of the largest process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from permafrost.pipeline.errors import PipelineError
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.errors import StageError
from tests.benchmarks.contestants import (
    Bench,
    Contestant,
    Figures,
    list_contestants,
    rehearse,
)
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.parts import read_options
from tests.benchmarks.photos import choose_evenly, list_photos
from tests.benchmarks.report import Benchmark

N_REHEARSAL = 8


def main() -> None:
    """Run the benchmark; write and print what it found."""
    own, others = _build_parser().parse_known_args()
    own.out.mkdir(parents=True, exist_ok=True)
    # Not in the system's folder for temporary files, which may lie in memory.
    with tempfile.TemporaryDirectory(dir=own.out.resolve(), prefix="scratch-") as scratch:
        try:
            bench = _prepare(own, others, Path(scratch))
            contestants = _choose(list_contestants(bench.features), own.only)
        except (PipelineError, StageError) as error:
            sys.exit(str(error))
        print(_run(own, bench, contestants))


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--images", type=Path, required=True, help="a folder")
    parser.add_argument("--n-images", type=int, default=1000)
    parser.add_argument("--n-peer-images", type=int, help="for peers (default: as many)")
    parser.add_argument("--n-few-images", type=int, default=64, help="to find out what starts cost")
    parser.add_argument(
        "--repeat-images", type=int, default=1, metavar="K", help="K different files of each photo"
    )
    parser.add_argument("--weights", default="random", metavar="random|imagenet|FILE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="contestants, separated by commas (default: all)")
    parser.add_argument("--part-seconds", type=float, default=10.0, help="for each part alone")
    parser.add_argument("--torch-python", type=Path, help="an interpreter that has torchvision")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), metavar="FOLDER")
    return parser


def _prepare(own: argparse.Namespace, others: Sequence[str], scratch: Path) -> Bench:
    """Copy the photos, and read what is asked of ``extract``."""
    arguments = ("--weights", own.weights, *others)
    features = read_options(["--images", str(own.images), "--out", "", *arguments]).features
    is_file = parse_backbone(features.backbone).is_saved
    return Bench(
        features=features,
        # A model file brings its own weights.
        arguments=tuple(others) if is_file else arguments,
        scratch=scratch,
        counts=_copy_photos(own, scratch),
        torch_python=own.torch_python or _find_torch(),
        part_seconds=own.part_seconds,
    )


def _find_torch() -> Path | None:
    return Path(sys.executable) if importlib.util.find_spec("torchvision") else None


def _copy_photos(own: argparse.Namespace, scratch: Path) -> dict[str, int]:
    """Write the folders of photos, and count what is in them."""
    photos = choose_evenly(list_photos(own.images, n_repeats=own.repeat_images), own.n_images)
    peers = choose_evenly(photos, own.n_peer_images or len(photos))
    if len(peers) <= own.n_few_images:
        raise PipelineError(
            f"{len(peers)} photos: more than --n-few-images {own.n_few_images} are needed;"
            " give it fewer, or name a folder with more or --repeat-images"
        )
    folders = {
        "all": photos,
        "peers": peers,
        "few": choose_evenly(photos, own.n_few_images),
        "rehearsal": choose_evenly(photos, N_REHEARSAL),
    }
    for name, chosen in folders.items():
        for photo in chosen:
            photo.copy(scratch / name)
    return {name: len(chosen) for name, chosen in folders.items()}


def _choose(known: Mapping[str, Contestant], only: str | None) -> dict[str, Contestant]:
    names = only.split(",") if only else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise PipelineError(
            f"--only {unknown[0]!r}: there is no such one; known: {', '.join(known)}"
        )
    if "ours-reused" in names and "ours" not in names:
        raise PipelineError("--only 'ours-reused' finds work done only with ours; add ours")
    return {name: contestant for name, contestant in known.items() if name in names}


def _run(own: argparse.Namespace, bench: Bench, contestants: Mapping[str, Contestant]) -> str:
    """Run all rounds and return the table; what is finished is written after each."""
    load_before = os.getloadavg()
    machine = describe_machine(bench.torch_python)
    left_out = {
        name: reason
        for name, contestant in contestants.items()
        if (reason := rehearse(contestant, bench))
    }
    playing = {name: entry for name, entry in contestants.items() if name not in left_out}
    rounds: list[dict[str, Figures]] = []
    table = ""
    for number in range(1, own.rounds + 1):
        rounds.append(_run_round(playing, bench, f"round {number}"))
        benchmark = Benchmark(
            title=_describe_features(bench),
            note=_describe_rounds(bench, number),
            titles={name: contestant.title for name, contestant in contestants.items()},
            left_out=left_out,
            machine=machine,
            load_before=load_before,
            load_after=os.getloadavg(),
            rounds=rounds,
        )
        table = benchmark.describe()
        text = json.dumps(benchmark.to_dict(), indent=1)
        (own.out / "benchmark.json").write_text(text + "\n", encoding="utf-8")
        (own.out / "benchmark.md").write_text(table, encoding="utf-8")
    return table


def _run_round(
    contestants: Mapping[str, Contestant], bench: Bench, title: str
) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    for name, contestant in contestants.items():
        found[name] = contestant.measure(contestant.command, bench)
        told = {key: value for key, value in found[name].items() if not isinstance(value, dict)}
        print(f"{title}: {name}: {told}", file=sys.stderr, flush=True)
    return found


def _describe_features(bench: Bench) -> str:
    features = bench.features
    asked = (features.backbone, ",".join(features.layers), features.engine, features.precision)
    return f"{asked[0]}, `{asked[1]}`, {asked[2]}, {asked[3]}, {features.decode} decoding"


def _describe_rounds(bench: Bench, n_rounds: int) -> str:
    counts = bench.counts
    fewer = "" if counts["peers"] == counts["all"] else f" ({counts['peers']:,} for peers)"
    return (
        f"{counts['all']:,} photos{fewer}, rounds: {n_rounds}, everyone in turn, medians. Steady:"
        f" from the difference to {counts['few']} photos.\n`python -m tests.benchmarks"
        f" {shlex.join(sys.argv[1:])}`"
    )


if __name__ == "__main__":
    main()
