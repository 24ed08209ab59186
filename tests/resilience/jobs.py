"""The commands that are disturbed, on real images and a real network, and what they must leave."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import h5py
import numpy as np

from tests.helpers.inputs import LAYERS, write_model, write_photos
from tests.resilience.child import Child, Ending, do_nothing, run
from tests.resilience.looks import (
    Look,
    look_at_export,
    look_at_features,
    look_at_files,
    look_at_merged,
    look_at_model,
    look_at_network,
    look_at_repaired,
    look_at_shards,
    look_at_sweep,
)

# Small shards, so that there is something to lose: about eight images each.
SHARD_BYTES = 60_000
N_LAYERS = len(LAYERS.split(","))
# Names of what is there only while something is written.
_UNFINISHED = (".tmp-", ".partial-", ".predict-")


def make_small_shards(n_bytes: int = SHARD_BYTES) -> None:
    """Have this process cut shards after a few bytes."""
    import permafrost.cache.shards.format

    permafrost.cache.shards.format.SHARD_BYTES = n_bytes


def _prepare(shard_bytes: int, prepare: Callable[[], None]) -> None:
    make_small_shards(shard_bytes)
    prepare()


@dataclass(frozen=True, slots=True)
class Scene:
    """Images, a network, and what commands start from.

    Attributes
    ----------
    folder : Path
        Holds ``photos/``, one of which is broken, ``small.keras``, and in ``extracted/`` a cache
        and a view of all photos; in ``fitted/`` a head as well; in ``damaged/`` a cache with
        damage.
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

    @property
    def fitted(self) -> Path:
        return self.folder / "fitted"

    @property
    def damaged(self) -> Path:
        return self.folder / "damaged"


def set_scene(folder: Path, *, n_images: int = 120) -> Scene:
    """Write images and a network, extract once and fit once."""
    scene = Scene(folder)
    write_photos(scene.photos, n_each=n_images // 2, side=50)
    broken = scene.photos / "china/0001.jpg"
    broken.write_bytes(broken.read_bytes()[:500])
    write_model(scene.backbone, exact=True)
    scene.nothing.mkdir()
    for job, made in (("extract", scene.extracted), ("fit", scene.fitted)):
        start = list_jobs(scene)[job]
        ending = start.finish(start.fresh(made))
        assert ending.status == 0, ending.err
    _damage(shutil.copytree(scene.extracted, scene.damaged) / "cache")
    index = ["index", scene.photos / "china", "--out", scene.extracted / "china.csv"]
    assert run(index, output=scene.output).status == 0
    return scene


def _damage(cache: Path) -> None:
    """Change a byte of one shard, cut another short, and fill a recipe with garbage."""
    recipes, shards = (sorted(cache.glob(f"*/*/{name}")) for name in ("recipe.json", "shard-*.h5"))
    content = bytearray(shards[0].read_bytes())
    content[len(content) // 2] ^= 1
    shards[0].write_bytes(content)
    shards[1].write_bytes(shards[1].read_bytes()[:-1000])
    recipes[-1].write_bytes(b"{garbage")


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
    shard_bytes : int
        Where shards are cut.
    """

    start: Path
    arguments: Sequence[object]
    look: Callable[[Path], Look]
    output: Path
    shard_bytes: int = SHARD_BYTES

    def fresh(self, folder: Path) -> Path:
        """Make `folder` what the command starts from."""
        shutil.copytree(self.start, folder)
        return folder

    def begin(self, folder: Path, prepare: Callable[[], None] = do_nothing) -> Child:
        """Start the command on `folder`; `prepare` is called in its process first."""
        arguments = [str(one).replace("{}", str(folder)) for one in self.arguments]
        prepare = partial(_prepare, self.shard_bytes, prepare)
        return Child(arguments, output=self.output, prepare=prepare)

    def finish(self, folder: Path) -> Ending:
        """Run the command on `folder` to its end."""
        return self.begin(folder).end()

    def find_wrong(self, folder: Path, ending: Ending, expected: Look) -> list[str]:
        """Say what is wrong after a command that should have gone well."""
        if ending.status != 0:
            return [f"status {ending.status}: {ending.last_line}"]
        try:
            found = self.look(folder)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is wrong
            return [f"cannot be read: {error!r}"]
        return [
            *(
                f"{name} differs"
                for name, value in expected.items()
                if not np.array_equal(found.get(name), value)  # type: ignore[arg-type]
            ),
            *(f"{name} is left" for name in list_unfinished(folder)),
        ]


def ask_extract(scene: Scene, folder: object, *options: object) -> list[object]:
    """Return the arguments of an extraction of all photos into ``folder/cache``."""
    return [
        *("extract", "--images", scene.photos, "--split", "test=0.3"),
        *("--backbone", scene.backbone, "--layers", LAYERS, "--preprocess", "none"),
        *("--batch-size", 4, "--json"),
        *("--cache", f"{folder}/cache", "--out", f"{folder}/features.h5", *options),
    ]


def list_jobs(scene: Scene) -> dict[str, Job]:
    """Return all commands that write, by name."""
    fit = [
        *("fit", "--features", "{}/features.h5", "--layer", "last:avg", "--head", "logreg"),
        *("--cv", 3, "--out", "{}/model", "--json"),
    ]
    train = [
        *("fit", "--features", "{}/features.h5", "--layer", "first", "--out", "{}/model"),
        *("--set", "epochs=25", "--set", "batch_size=8", "--set", "dropout=0.2", "--json"),
    ]
    finetune = [*train, "--head", "finetune", "--set", "warmup=3"]
    cnn = [*train, "--head", "cnn", "--set", "filters=8,16", "--set", "patience=20"]
    sweep = [
        *("sweep", "--features", "{}/features.h5", "--out", "{}/sweep", "--cv", 3, "--json"),
        *("--heads", "logreg,ridge,nearest_mean", "--set", "C=0.1,1"),
    ]
    predict = [
        *("predict", "--model", "{}/model", "--images", scene.photos, "--batch-size", 4),
        *("--cache", "{}/other", "--out", "{}/predictions.csv", "--json"),
    ]
    export = ["export", "--model", "{}/model", "--out", "{}/classifier.keras", "--json"]
    verify = ["verify", "--cache", "{}/cache", "--json"]
    repair = ["repair", "--cache", "{}/cache", "--json"]
    gc = ["gc", "--cache", "{}/cache", "--unused-by", "{}/china.csv", "--json"]
    compact = ["compact", "--cache", "{}/cache", "--json"]
    index = ["index", scene.photos, "--out", "{}/manifest.csv", "--json"]

    def job(
        start: Path,
        arguments: Sequence[object],
        look: Callable[[Path], Look],
        shard_bytes: int = SHARD_BYTES,
    ) -> Job:
        return Job(
            start=start,
            arguments=arguments,
            look=look,
            output=scene.output,
            shard_bytes=shard_bytes,
        )

    return {
        "extract": job(scene.nothing, ask_extract(scene, "{}"), look_at_features),
        "sweep": job(scene.extracted, [*sweep, "--jobs", 1], look_at_sweep),
        "sweep --jobs 2": job(scene.extracted, [*sweep, "--jobs", 2], look_at_sweep),
        "fit": job(scene.extracted, fit, look_at_model),
        "fit finetune": job(scene.extracted, finetune, look_at_network),
        "fit cnn": job(scene.extracted, cnn, look_at_network),
        "predict": job(scene.fitted, predict, partial(look_at_files, "predictions.csv*")),
        "export": job(scene.fitted, export, look_at_export),
        "verify": job(scene.extracted, verify, look_at_shards),
        "repair": job(scene.damaged, repair, look_at_repaired),
        "compact": job(scene.extracted, compact, look_at_merged, 4 * SHARD_BYTES),
        "gc": job(scene.extracted, gc, look_at_shards),
        "index": job(scene.nothing, index, partial(look_at_files, "manifest.csv")),
    }


def list_quarantined(cache: Path) -> list[Path]:
    """List what repair put aside."""
    return sorted(cache.glob("*/*/quarantine/*"))


def list_unfinished(folder: Path) -> list[str]:
    """List files that are there only while something is written."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(filter(is_unfinished, names))


def is_unfinished(name: str) -> bool:
    """Tell whether a relative path is one that is there only while something is written."""
    return any(part.startswith(_UNFINISHED) for part in PurePosixPath(name).parts)


def count_committed(folder: Path) -> int:
    """Count the images of which every layer lies in a shard."""
    sets = [read_digests(one) for one in (folder / "cache").glob("*/*-*")]
    return len(set.intersection(*sets)) if len(sets) == N_LAYERS else 0


def read_digests(feature_set: Path) -> set[bytes]:
    """Read which images the shards of a folder hold."""
    found: set[bytes] = set()
    for shard in feature_set.glob("shard-*.h5"):
        with h5py.File(shard, locking=False) as file:
            found |= {row.tobytes() for row in file["digest"][()]}
    return found
