"""How many images at a time fit the memory that the plan leaves."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import CacheLayout
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.options import DatasetOptions, ExtractOptions, FeatureOptions, RunOptions
from permafrost.pipeline.planning.memory import (
    choose_batch_size,
    count_image_bytes,
    count_plan_bytes,
    fit_memory,
)
from permafrost.pipeline.planning.missing import ExtractionPlan
from permafrost.pipeline.planning.prepare import Preparation, prepare
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.manifest import Manifest, read_manifest, write_manifest
from permafrost.stages.datasets.texts import Texts
from permafrost.stages.sources.source import Source, open_source
from tests.helpers.inputs import LAYERS


@pytest.fixture
def prepared(photos: Path, backbone: Path, tmp_path: Path) -> Preparation:
    options = ExtractOptions(
        dataset=DatasetOptions(images=str(photos)),
        features=FeatureOptions(backbone=str(backbone), layers=tuple(LAYERS.split(","))),
    )
    with Index() as index:
        return prepare(options, CacheLayout(tmp_path / "none"), index)


def enlarge(prepared: Preparation, n_rows: int) -> tuple[Manifest, ExtractionPlan]:
    """Return a plan of so many rows, all missing."""
    digests = Digests.of(number.to_bytes(32) for number in range(1, n_rows + 1))
    paths = Texts.of(f"class/{number:07d}.png" for number in range(n_rows))
    manifest = Manifest(
        root="", paths=paths, labels=["class"] * n_rows, splits=[""] * n_rows, digests=digests
    )
    layers = [
        dataclasses.replace(layer, missing=np.ones(n_rows, np.bool_))
        for layer in prepared.plan.layers
    ]
    return manifest, ExtractionPlan(digests=digests, paths=paths, layers=layers, active=layers)


def test_the_batch_size_fits_the_memory() -> None:
    for memory_bytes in (10**7, 10**9, 4 * 10**9):
        for activation_bytes, kept_bytes in ((12_845_056, 2048), (12_845_056, 25_690_112)):
            image_bytes = count_image_bytes(activation_bytes, kept_bytes)
            n = choose_batch_size(image_bytes, memory_bytes=memory_bytes, largest=32)
            assert 1 <= n <= 32
            assert n == 1 or 3 * n * (activation_bytes + kept_bytes) <= memory_bytes
    assert choose_batch_size(1, memory_bytes=10**9, largest=32) == 32


def test_the_plan_is_taken_off_the_memory_that_batches_and_loaders_have(
    prepared: Preparation,
) -> None:
    manifest, plan = enlarge(prepared, 20_000)
    dataset = dataclasses.replace(prepared.dataset, manifest=manifest)
    plan_bytes = count_plan_bytes(manifest, plan)
    assert 20_000 * 100 < plan_bytes < 20_000 * 200

    def fit(memory_bytes: int, some: ExtractionPlan = plan) -> tuple[int, int]:
        run = RunOptions(memory_bytes=memory_bytes)
        found = fit_memory(run, prepared.backbone, dataset=dataset, plan=some)
        return found.memory_bytes, found.batch_size

    left_bytes, batch_size = fit(plan_bytes + 1_000_000)
    assert left_bytes == 1_000_000
    assert batch_size < fit(10**9)[1]
    nothing = dataclasses.replace(plan, digests=Digests.none(0), paths=Texts.of(()), active=[])
    assert fit(1_000_000, nothing)[0] == 1_000_000


def test_a_plan_that_leaves_too_little_says_how_much_is_needed(prepared: Preparation) -> None:
    manifest, plan = enlarge(prepared, 20_000)
    dataset = dataclasses.replace(prepared.dataset, manifest=manifest)
    run = RunOptions(memory_bytes=2_000_000)
    with pytest.raises(PipelineError, match=r"images takes [0-9.]+ MB .* give it (.)MB") as told:
        fit_memory(run, prepared.backbone, dataset=dataset, plan=plan)
    needed = int(str(told.value).partition("give it ")[2].partition("MB")[0])
    enough = RunOptions(memory_bytes=needed * 1_000_000)
    assert fit_memory(enough, prepared.backbone, dataset=dataset, plan=plan).memory_bytes > 0


def test_row_groups_that_are_kept_are_taken_off_the_memory(
    prepared: Preparation, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    from tests.helpers.sharding import make_table, write_parquet

    # Of noise, which is not compressed; four images a group.
    noise = np.random.default_rng(0).integers(0, 256, (20, 1_000_000), np.uint8)
    for number in range(2):
        write_parquet(tmp_path / f"{number}.parquet", make_table([row.tobytes() for row in noise]))
    manifest, plan = enlarge(prepared, 40)

    def count(source: Source, memory_bytes: int) -> int:
        dataset = dataclasses.replace(prepared.dataset, manifest=manifest, source=source)
        run = RunOptions(memory_bytes=memory_bytes)
        found = fit_memory(run, prepared.backbone, dataset=dataset, plan=plan)
        return memory_bytes - found.memory_bytes - count_plan_bytes(manifest, plan)

    tables = open_source(f"{tmp_path}/*.parquet")
    groups = 4_000_000  # and some hundred bytes of labels and notes
    assert count(open_source(str(tmp_path)), 10**8) == 0
    # Two at least and one that is being read, an eighth of the budget, and no more than there is.
    assert count(tables, 5 * 10**7) == pytest.approx(3 * groups, rel=0.01)
    assert count(tables, 2 * 10**8) == pytest.approx(25_000_000 + groups, rel=0.01)
    assert count(tables, 10**9) == pytest.approx(10 * groups, rel=0.01)


def test_what_is_counted_of_a_manifest_is_what_it_takes(
    prepared: Preparation, tmp_path: Path
) -> None:
    n_rows = 20_000
    manifest, plan = enlarge(prepared, n_rows)
    captions = [f"photo {number // 7}" for number in range(n_rows)]
    full = dataclasses.replace(manifest, extra={"caption": captions}, root=str(tmp_path))
    write_manifest(full, tmp_path / "manifest.csv")
    nothing = dataclasses.replace(
        plan, digests=Digests.none(0), paths=Texts.of(()), layers=[], active=[]
    )
    tracemalloc.start()
    try:
        read = read_manifest(tmp_path / "manifest.csv")
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(read.digests, Digests)
    assert count_plan_bytes(read, nothing) == pytest.approx(taken, rel=0.15)
