"""What a cluster computes is what one process does, whatever becomes of its workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from permafrost.cache.store.layout import open_cache
from permafrost.cache.store.leases import Leases
from permafrost.pipeline.forward import program
from tests.helpers import ROOT
from tests.helpers.answers import Answer, Command
from tests.helpers.clusters import DaskCluster, hiding, wait_for
from tests.helpers.extracted import break_image, find_shards, read_plain
from tests.helpers.hosts import two_hosts
from tests.helpers.inputs import LAYERS, write_photos

N_EACH = 40
# Dask runs these twice when a worker starts. The worker says that it has another Keras.
OTHER_SOFTWARE = """
from permafrost.pipeline.cluster import claim

claim.describe_software = lambda ours=claim.describe_software(): ours | {"keras": "0.1"}
"""
# As if this package were not installed.
WITHOUT_PERMAFROST = """
import sys

sys.modules["permafrost"] = None
"""
# An image that takes its process with it.
DEADLY = """
import os
import signal
from permafrost.pipeline.forward import batch

def die_of_some(data, spec, decode=batch.decode_image):
    if data.endswith(b"deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(data, spec)

batch.decode_image = die_of_some
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_photos(tmp_path_factory.mktemp("many") / "photos", n_each=N_EACH)
    break_image(folder / "china/bad.jpg")
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Two workers that live as long as the tests of this module."""
    with DaskCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        for _ in range(2):
            cluster.add_worker()
        yield cluster


class Extract:
    """Runs ``extract`` on the photos, into a folder of its own."""

    def __init__(self, command: Command, photos: Path, backbone: Path, folder: Path) -> None:
        self._command = command
        self.folder = folder
        self.arguments = [
            *("extract", "--images", photos, "--backbone", backbone, "--layers", LAYERS),
            *("--cache", folder / "cache", "--out", folder / "features.h5", "--json"),
        ]

    def __call__(self, *options: object, scheduler: str) -> Answer:
        return self._command(*self.arguments, *options, "--scheduler", scheduler)

    def start(
        self, *options: object, scheduler: str, before: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        """Start it in a process of its own."""
        return subprocess.Popen(
            [
                *(*before, sys.executable, str(ROOT / "run.py"), *map(str, self.arguments)),
                *(*map(str, options), "--scheduler", scheduler),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self) -> dict[str, np.ndarray]:
        file = self.folder / "features.h5"
        return {layer: read_plain(file, layer) for layer in LAYERS.split(",")}

    def has_begun(self) -> bool:
        return any((self.folder / "cache").glob("*/*/.tmp-*.h5"))


@pytest.fixture
def extract(command: Command, photos: Path, backbone: Path, tmp_path: Path) -> Extract:
    return Extract(command, photos, backbone, tmp_path)


@pytest.fixture(scope="module")
def expected(
    photos: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    """What one process computes."""
    from permafrost.pipeline.cli.main import main

    folder = tmp_path_factory.mktemp("alone")
    alone = Extract(None, photos, backbone, folder)  # type: ignore[arg-type]
    assert main([*map(str, alone.arguments)]) == 0
    return alone.read()


def check(extract: Extract, expected: dict[str, np.ndarray]) -> None:
    for layer, values in extract.read().items():
        np.testing.assert_array_equal(values, expected[layer])
    assert not list((extract.folder / "cache/leases").glob(".tmp-*"))


def test_workers_compute_what_one_process_does(
    extract: Extract, cluster: DaskCluster, expected: dict[str, np.ndarray]
) -> None:
    answer = extract("--batch-size", 8, scheduler=cluster.address)
    figures = answer.figures
    assert (figures["computed"], figures["failed"]) == (2 * N_EACH, 1)
    failures = Path(figures["failures"]).read_text(encoding="utf-8")
    assert "china/bad.jpg" in failures
    assert "no picture" in failures or "image" in failures
    for layer, values in extract.read().items():
        np.testing.assert_allclose(values, expected[layer], rtol=1e-5, atol=1e-6)
    again = extract("--batch-size", 8, scheduler=cluster.address).figures
    assert (again["computed"], again["reused"], again["bytes_written"]) == (0, 2 * N_EACH, 0)


def test_workers_keep_nothing_of_a_run_open(extract: Extract, cluster: DaskCluster) -> None:
    assert extract(scheduler=cluster.address).status == 0
    cache = str(extract.folder / "cache")
    held = cluster.run_on_workers(lambda: [*map(str, psutil.Process().open_files())])
    mapped = cluster.run_on_workers(lambda: [one.path for one in psutil.Process().memory_maps()])
    programs = cluster.run_on_workers(lambda: len(program._built))
    assert set(programs.values()) == {0}
    for files in (*held.values(), *mapped.values()):
        assert files
        assert not [file for file in files if cache in file]


def test_batches_are_those_of_one_process_bit_for_bit(
    extract: Extract, cluster: DaskCluster, expected: dict[str, np.ndarray]
) -> None:
    assert extract(scheduler=cluster.address).status == 0
    check(extract, expected)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_its_claim(
    extract: Extract, tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    with DaskCluster(tmp_path / "dask") as cluster:
        cluster.add_worker()
        victim = cluster.add_worker()
        child = extract.start(scheduler=cluster.address)
        wait_for(extract.has_begun)
        pids = cluster.list_workers().values()
        os.kill(next(iter(pids)), signal.SIGKILL)
        assert victim.poll() is None
        assert child.wait(120) == 0
    check(extract, expected)


def test_a_lost_scheduler_is_one_line_and_the_next_run_goes_on(
    extract: Extract, tmp_path: Path, expected: dict[str, np.ndarray], cluster: DaskCluster
) -> None:
    with DaskCluster(tmp_path / "dask") as lost:
        lost.add_worker()
        child = extract.start("--batch-size", 1, scheduler=lost.address)
        wait_for(extract.has_begun)
        lost.scheduler.kill()
        _, error = child.communicate(timeout=120)
    assert (child.returncode, "Traceback" in error) == (75, False)
    last = error.splitlines()[-1]
    assert f"the Dask cluster at {lost.address!r} was lost" in last
    assert extract(scheduler=cluster.address).status == 0
    for layer, values in extract.read().items():
        np.testing.assert_allclose(values, expected[layer], rtol=1e-5, atol=1e-6)


def test_a_worker_with_other_software_is_left_out(
    extract: Extract, tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    other = tmp_path / "other.py"
    other.write_text(OTHER_SOFTWARE)
    with DaskCluster(tmp_path / "dask") as cluster:
        cluster.add_worker("--preload", other)
        answer = extract(scheduler=cluster.address)
        assert (answer.status, "Traceback" in answer.err) == (2, False)
        assert "no worker of the cluster can compute this" in answer.err
        assert "keras is 0.1 there" in answer.err
        assert not find_shards(extract.folder / "cache")
        cluster.add_worker()
        assert extract(scheduler=cluster.address).status == 0
    check(extract, expected)


@pytest.mark.slow
def test_scheduler_and_workers_may_lack_the_package_and_live(
    extract: Extract, tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_PERMAFROST)
    without = {"PYTHONPATH": str(tmp_path)}
    with DaskCluster(tmp_path / "dask", environment=without) as cluster:
        cluster.add_worker(environment=without)
        answer = extract(scheduler=cluster.address)
        assert (answer.status, "Traceback" in answer.err) == (2, False)
        assert "permafrost is not installed there" in answer.err.splitlines()[-1]
        cluster.add_worker()
        assert extract(scheduler=cluster.address).status == 0
        assert len(cluster.list_workers()) == 2
    check(extract, expected)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("hidden", ["cache", "photos"])
def test_what_a_worker_does_not_see_is_named(
    extract: Extract, photos: Path, tmp_path: Path, hidden: str
) -> None:
    folder = {"cache": extract.folder / "cache", "photos": photos.parent}[hidden]
    folder.mkdir(exist_ok=True)
    with DaskCluster(tmp_path / "dask") as cluster, hiding(folder) as before:
        cluster.add_worker(before=before)
        answer = extract(scheduler=cluster.address)
    assert (answer.status, "Traceback" in answer.err) == (2, False)
    assert str(folder) in answer.err.splitlines()[-1]


def test_rows_that_another_run_holds_are_waited_for(
    extract: Extract, cluster: DaskCluster, expected: dict[str, np.ndarray]
) -> None:
    """Another run is a lease here, that ends without having stored anything."""
    assert extract(scheduler=cluster.address).status == 0
    with h5py.File(extract.folder / "features.h5") as features:
        digests = [bytes(row) for row in features["images/digest"][:5]]
        keys = [str(node.attrs["key"]) for node in features["features"].values()]
    for shard in find_shards(extract.folder / "cache"):
        Path(shard).unlink()
    layout = open_cache(extract.folder / "cache")
    with Leases(layout.leases_folder, keys) as others:
        with others.choosing():
            others.hold(digests, waiting=False)
        child = extract.start(scheduler=cluster.address)
        wait_for(lambda: bool(find_shards(extract.folder / "cache")))
        assert child.poll() is None
    assert child.wait(120) == 0
    assert child.stderr is not None
    child.stderr.close()
    for layer, values in extract.read().items():
        np.testing.assert_allclose(values, expected[layer], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_only_workers_that_offer_the_resource_are_given_claims(
    extract: Extract, tmp_path: Path
) -> None:
    with DaskCluster(tmp_path / "dask") as cluster:
        cluster.add_worker()
        cluster.add_worker("--resources", "backbone=1", "--name", "able")
        assert extract(scheduler=cluster.address).status == 0
        loaded = cluster.run_on_workers(lambda: "tensorflow" in sys.modules)
    assert sorted(loaded.values()) == [False, True]


@pytest.mark.slow
def test_an_image_that_kills_its_worker_is_listed_alone(
    extract: Extract, photos: Path, tmp_path: Path
) -> None:
    deadly = photos / "flower/deadly.jpg"
    shutil.copy(photos / "flower/0000.jpg", deadly)
    with deadly.open("ab") as file:
        file.write(b"deadly")
    preload = tmp_path / "deadly.py"
    preload.write_text(DEADLY)
    # One death is enough for Dask to give a claim up, so that this takes a minute and not four.
    sure = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    try:
        with DaskCluster(tmp_path / "dask", environment=sure) as cluster:
            cluster.add_worker("--preload", preload)
            figures = extract("--batch-size", 8, scheduler=cluster.address).figures
    finally:
        deadly.unlink()
    assert (figures["computed"], figures["failed"]) == (2 * N_EACH, 2)
    failures = Path(figures["failures"]).read_text(encoding="utf-8")
    assert "flower/deadly.jpg,each worker that read it died" in failures


@pytest.mark.slow
def test_processes_are_started_here(extract: Extract, expected: dict[str, np.ndarray]) -> None:
    assert extract(scheduler="local:2").status == 0
    check(extract, expected)


@pytest.mark.slow
def test_an_interrupt_while_processes_start_is_one_line_and_none_is_left(extract: Extract) -> None:
    child = extract.start(scheduler="local:2")
    wait_for(lambda: len(psutil.Process(child.pid).children()) == 3)  # one of them keeps count
    processes = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 130
    assert error.splitlines()[-1] == "permafrost: interrupted; what was finished is kept"
    assert not psutil.wait_procs(processes, timeout=30)[1]


@pytest.mark.parametrize("number", ["0", "two", "", "-1"])
def test_a_number_of_processes_that_is_none_is_one_line(extract: Extract, number: str) -> None:
    answer = extract(scheduler=f"local:{number}")
    assert (answer.status, "Traceback" in answer.err) == (2, False)
    assert f"'local:{number}': name a number of processes" in answer.err


@pytest.mark.slow
def test_workers_of_two_hosts_share_the_cache_over_a_real_network(
    extract: Extract, tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    with (
        two_hosts() as (first, second),
        DaskCluster(tmp_path / "dask", host=first.address, before=first.before) as cluster,
    ):
        log = (tmp_path / "dask/0-scheduler.log").read_text(encoding="utf-8")
        assert first.address in log
        for host in (first, second):
            cluster.start_worker(before=host.before)
        options = ("--batch-size", 1, "--memory", "1GB")
        child = extract.start(*options, scheduler=cluster.address, before=first.before)
        assert child.wait(200) == 0
        logs = [file.read_text() for file in sorted((tmp_path / "dask").glob("*-worker.log"))]
    assert all(
        f"tcp://{host.address}:" in log for host, log in zip((first, second), logs, strict=True)
    )
    for layer, values in extract.read().items():
        np.testing.assert_allclose(values, expected[layer], rtol=1e-5, atol=1e-6)
