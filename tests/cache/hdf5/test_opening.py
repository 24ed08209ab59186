"""Views, shards and derived arrays from anyone: nothing outside them is read, and none is wrong."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.cache.errors import CacheError, DamagedError
from permafrost.cache.hdf5.opening import has_node, open_node
from permafrost.cache.shards.reader import read_digests
from permafrost.cache.store.derived import Artefacts
from permafrost.cache.store.recipe import recipe_key
from permafrost.cache.upkeep.examine import examine_shard
from permafrost.cache.views.features import Features
from tests.helpers.hostile_hdf5 import (
    LAYER,
    MATERIALIZED,
    RECIPE,
    SHARDS,
    VIEWS,
    change_file,
    write_cache,
)


def read_everything(view: Path) -> dict[str, object]:
    """Read all that a view has, as the commands do."""
    with Features(view) as features:
        found = {
            name: getattr(features, name)
            for name in ("root", "origin", "paths", "labels", "splits", "digests", "columns")
        }
        found |= {f"column {name}": features.column(name) for name in features.columns}
        for layer in [LAYER]:
            found |= {"recipe": features.recipe(layer), "folder": features.folder(layer)}
            found["values"] = features.read(layer)
        return found


def test_what_is_changed_can_be_read_before(tmp_path):
    view, shard = write_cache(tmp_path)
    values = read_everything(view)["values"]
    with h5py.File(shard) as file:
        np.testing.assert_array_equal(values, file["features"][()])
    view, _ = write_cache(tmp_path / "other", materialize=True)
    np.testing.assert_array_equal(read_everything(view)["values"], values)


@pytest.mark.parametrize("what", VIEWS)
def test_a_hostile_view_is_refused_in_one_line_that_names_it(what, tmp_path):
    view, _ = write_cache(tmp_path)
    change_file(view, VIEWS[what], tmp_path)
    with pytest.raises(CacheError, match=str(view)) as caught:
        read_everything(view)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", MATERIALIZED)
def test_hostile_values_are_refused(what, tmp_path):
    view, _ = write_cache(tmp_path, materialize=True)
    change_file(view, MATERIALIZED[what], tmp_path)
    with pytest.raises(CacheError, match=str(view)):
        read_everything(view)


@pytest.mark.parametrize("what", SHARDS)
def test_a_hostile_shard_is_damaged_to_every_reader(what, tmp_path):
    view, shard = write_cache(tmp_path)
    change_file(shard, SHARDS[what], tmp_path)
    with pytest.raises(CacheError, match=r"shard-\w+\.h5"):
        read_everything(view)
    with pytest.raises(DamagedError, match=str(shard)):
        read_digests(shard, recipe_key(RECIPE))
    assert examine_shard(shard, recipe_key(RECIPE)).damage


@pytest.mark.parametrize(
    "what", sorted(name for name in SHARDS if name.endswith(" as features") and "2^60" not in name)
)
def test_a_hostile_derived_array_is_made_again(what, tmp_path, caplog):
    artefacts = Artefacts(tmp_path)
    artefacts.save("abc", np.ones((5, 4)))
    file = tmp_path / "derived-abc.h5"

    def change(opened, folder):
        opened.move("values", "features")
        SHARDS[what](opened, folder)
        opened.move("features", "values")

    change_file(file, change, tmp_path)
    assert artefacts.load("abc") is None
    assert "is damaged" in caplog.text


def test_asking_for_a_node_opens_no_other_file(tmp_path):
    # A pipe that nobody writes into would keep whoever opens it waiting.
    import os

    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["away"] = h5py.ExternalLink(tmp_path / "pipe", "/x")
        assert has_node(file, "away")
        assert not has_node(file, "nothing/here")
        with pytest.raises(ValueError, match="its 'away' is a link to elsewhere"):
            open_node(file, "away/below")
        with pytest.raises(ValueError, match="its 'away' is a link to elsewhere"):
            open_node(file, "away")
