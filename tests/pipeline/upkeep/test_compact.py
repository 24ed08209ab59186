"""``compact`` merges shards, and every view stays right."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.cache.views.features import Features
from tests.helpers.answers import Command
from tests.helpers.folders import name_sets, read_features


def test_compact_merges_and_every_view_stays_right(
    cache: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_features(tmp_path / "features.h5")
    monkeypatch.undo()
    with Features(tmp_path / "features.h5") as features:
        features.read("last:avg", np.array([3]))  # knows where its rows lie
        answer = command("compact", "--cache", cache)
        assert (features.read("last:avg") == expected["last:avg"]).all()
    assert answer.status == 0, answer.err
    sizes = [path.stat().st_size for path in sorted(cache.glob("*/*/shard-*.h5"))]
    assert answer.out.splitlines() == [
        *(
            f"{name}: 6 shards → 1, {size / 1e3:.1f} kB written"
            for name, size in zip(name_sets(cache), sizes, strict=True)
        ),
        "repeat extract to renew views for other HDF5 readers",
    ]
    for layer, values in read_features(tmp_path / "features.h5").items():
        assert (values == expected[layer]).all()
    assert command("verify", "--cache", cache).out.endswith("no damage\n")
    assert command("compact", "--cache", cache).out == "nothing to compact\n"
    assert command("compact", "--cache", cache, "--json").figures == {
        "feature_sets": 0,
        "shards_before": 2,
        "shards_after": 2,
        "bytes": 0,
        "skipped": [],
    }


def test_after_compact_nothing_is_computed_again_and_views_are_renewed(
    cache: Path, command: Command, extract: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_features(tmp_path / "features.h5")
    monkeypatch.undo()
    assert command("compact", "--cache", cache).status == 0
    assert extract().figures["computed"] == 0
    with h5py.File(tmp_path / "features.h5") as file:  # as others read it
        for layer, values in expected.items():
            assert (file[f"features/{layer}"][()] == values).all()
