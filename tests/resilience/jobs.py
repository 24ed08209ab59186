"""The commands that are disturbed, on real images and a real network, and what they must leave."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from cache.features import Features
from tests.conftest import LAYERS, write_model, write_photos
from tests.resilience.child import Child, Ending, run

N_IMAGES = 160
# Small shards, so that there is something to lose: about eight images each.
SHARD_BYTES = 60_000
# Names of what is there only while something is written.
_UNFINISHED = (".tmp-*", ".partial-*", ".predict-*")
# What two right runs may differ in.
_TIMES = ("seconds", "images_per_second")

Look = Mapping[str, object]


def make_small_shards() -> None:
    """Have this process cut shards after `SHARD_BYTES`."""
    import pipeline.writing

    pipeline.writing.SHARD_BYTES = SHARD_BYTES


@dataclass(frozen=True, slots=True)
class Scene:
    """Images, a network, and what commands start from.

    Attributes
    ----------
    folder : Path
        Holds ``photos/``, ``small.keras``, and in ``extracted/`` a cache and a view of all photos.
    """

    folder: Path

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    @property
    def backbone(self) -> Path:
        return self.folder / "small.keras"

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def nothing(self) -> Path:
        return self.folder / "nothing"

    @property
    def extracted(self) -> Path:
        return self.folder / "extracted"


def set_scene(folder: Path) -> Scene:
    """Write images and a network, and extract once."""
    scene = Scene(folder)
    write_photos(scene.photos, n_each=N_IMAGES // 2, side=50)
    write_model(scene.backbone)
    scene.nothing.mkdir()
    ending = run(
        ask_extract(scene, scene.extracted), output=scene.output, prepare=make_small_shards
    )
    assert ending.status == 0, ending.err
    return scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One command.

    Attributes
    ----------
    start : Path
        The folder that it starts from, of which each run has a copy.
    arguments : sequence of object
        Of the command; ``{}`` stands for the folder.
    look : callable
        What there is to see in a folder after it, but for times: the same after every right run.
    output : Path
    """

    start: Path
    arguments: Sequence[object]
    look: Callable[[Path], Look]
    output: Path

    def fresh(self, folder: Path) -> Path:
        """Make `folder` what the command starts from."""
        shutil.copytree(self.start, folder)
        return folder

    def begin(self, folder: Path, prepare: Callable[[], None] = make_small_shards) -> Child:
        """Start the command on `folder`."""
        arguments = [str(one).replace("{}", str(folder)) for one in self.arguments]
        return Child(arguments, output=self.output, prepare=prepare)

    def finish(self, folder: Path) -> Ending:
        """Run the command on `folder` to its end."""
        return self.begin(folder).end()


def ask_extract(scene: Scene, folder: object, *options: object) -> list[object]:
    """Return the arguments of an extraction of all photos into ``folder/cache``."""
    return [
        *("extract", "--images", scene.photos, "--split", "test=0.3"),
        *("--backbone", scene.backbone, "--layers", LAYERS, "--batch-size", 4, "--json"),
        *("--cache", f"{folder}/cache", "--out", f"{folder}/features.h5", *options),
    ]


def list_jobs(scene: Scene) -> dict[str, Job]:
    """Return all commands that write, by name."""
    sweep = [
        *("sweep", "--features", "{}/features.h5", "--out", "{}/sweep", "--cv", 3, "--json"),
        *("--heads", "logreg,ridge,nearest_mean", "--set", "C=0.1,1"),
    ]

    def job(start: Path, arguments: Sequence[object], look: Callable[[Path], Look]) -> Job:
        return Job(start=start, arguments=arguments, look=look, output=scene.output)

    return {
        "extract": job(scene.nothing, ask_extract(scene, "{}"), look_at_features),
        "sweep": job(scene.extracted, [*sweep, "--jobs", 1], look_at_sweep),
        "sweep --jobs 2": job(scene.extracted, [*sweep, "--jobs", 2], look_at_sweep),
    }


def look_at_features(folder: Path) -> Look:
    """Read all of ``features.h5``, with our reader and with plain h5py."""
    found: dict[str, object] = {}
    with Features(folder / "features.h5") as features:
        found |= {"paths": features.paths, "labels": features.labels, "splits": features.splits}
        found |= {f"ours {layer}": features.read(layer) for layer in LAYERS.split(",")}
    with h5py.File(folder / "features.h5") as file:
        found |= {f"h5py {layer}": file["features"][layer][()] for layer in LAYERS.split(",")}
    return found


def look_at_sweep(folder: Path) -> Look:
    """Read the tables of a sweep and the best head's predictions, but not what took how long."""
    out = folder / "sweep"
    metrics = json.loads((out / "best/metrics.json").read_text())
    return {
        "results": _read_rows(out / "results.csv"),
        "leaderboard": _read_rows(out / "leaderboard.csv"),
        "folds": _read_rows(out / "folds.csv"),
        "model": (out / "best/model.json").read_text(),
        "head": (out / "best/head/head.json").read_text(),
        "predictions": (out / "best/predictions.csv").read_text(),
        "metrics": {name: value for name, value in metrics.items() if name not in _TIMES},
    }


def _read_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return [
            {name: text for name, text in row.items() if name not in _TIMES}
            for row in csv.DictReader(stream)
        ]


def find_differences(found: Look, expected: Look) -> list[str]:
    """Name what is not the same, bit for bit."""
    return [name for name, value in expected.items() if not np.array_equal(found.get(name), value)]


def list_unfinished(folder: Path) -> list[str]:
    """List files that are there only while something is written."""
    return sorted(path.name for name in _UNFINISHED for path in folder.rglob(name))


def count_committed(folder: Path) -> int:
    """Count the images of which every layer lies in a shard."""
    sets = [read_digests(one) for one in sorted((folder / "cache").glob("*/*")) if one.is_dir()]
    return len(set.intersection(*sets)) if len(sets) == len(LAYERS.split(",")) else 0


def read_digests(feature_set: Path) -> set[bytes]:
    """Read which images the shards of a folder hold."""
    found: set[bytes] = set()
    for shard in feature_set.glob("shard-*.h5"):
        with h5py.File(shard, locking=False) as file:
            found |= {row.tobytes() for row in file["digest"][()]}
    return found
