"""What gc drops from a feature set, against the rows that went in, read with plain h5py."""

from __future__ import annotations

import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.cache.errors import DamagedError
from permafrost.cache.store.derived import Artefacts
from permafrost.cache.store.folders import count_idle_days, mark_used
from permafrost.cache.store.layout import CacheLayout
from permafrost.cache.upkeep.examine import examine_set
from permafrost.cache.upkeep.gc import Rules, SetPlan, apply_plan, plan_set
from permafrost.cache.upkeep.survey import survey_set
from tests.helpers.shards import expect_set, make_digests, read_set, write_set


def plan(
    layout: CacheLayout, folder: Path, *, may_drop_repeats: bool = True, **rules: object
) -> SetPlan:
    chosen = Rules(**rules)  # type: ignore[arg-type]
    return plan_set(survey_set(layout, folder), chosen, may_drop_repeats=may_drop_repeats)


def describe(found: SetPlan) -> list[tuple[str, int, int]]:
    return [(loss.reason, loss.n_rows, loss.n_files) for loss in found.losses]


def idle(file: Path, days: float) -> None:
    then = time.time() - days * 24 * 3600
    os.utime(file, (then, then))


def test_without_rules_nothing_goes(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[0, 1], [2]])
    assert plan(layout, folder).losses == []


def test_a_set_goes_when_it_was_not_used_for_long(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[0, 1], [2]])
    Artefacts(folder).save("ab", np.arange(3))
    idle(folder / "recipe.json", 10)
    assert plan(layout, folder, keep_days=11).losses == []
    found = plan(layout, folder, keep_days=9.5)
    assert describe(found) == [("not used for 10 days", 3, 3)]
    assert found.losses[0].n_bytes == sum(path.stat().st_size for path in folder.glob("*.h5"))
    assert apply_plan(found, layout.leases_folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["format.json", "leases"]


def test_what_is_not_ours_stays_with_its_folder(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[0, 1]])
    strange = [folder / name for name in ("notes.txt", "derived-Z.h5", "other.h5")]
    for path in strange:
        path.write_text("mine")
    idle(folder / "recipe.json", 10)
    assert apply_plan(plan(layout, folder, keep_days=1), layout.leases_folder)
    assert sorted(folder.iterdir()) == sorted(strange)


def test_a_set_that_is_used_stays(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[0]])
    idle(folder / "recipe.json", 10)
    mark_used(folder)
    assert plan(layout, folder, keep_days=1).losses == []
    mark_used(tmp_path / "nowhere")


def test_derived_arrays_go_when_they_were_not_used_for_long(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[0]])
    artefacts = Artefacts(folder)
    for name in ("ab", "cd"):
        artefacts.save(name, np.arange(3))
        idle(folder / f"derived-{name}.h5", 10)
    assert artefacts.load("ab") is not None
    found = plan(layout, folder, keep_days=5)
    assert describe(found) == [("derived arrays", 0, 1)]
    assert apply_plan(found, layout.leases_folder)
    assert [path.name for path in folder.glob("derived-*")] == ["derived-ab.h5"]
    assert count_idle_days(folder / "derived-ab.h5") < 1


def test_rows_of_no_manifest_go_and_others_stay_as_they_are(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[0, 1, 2], [3, 4], [5, 6]])
    Artefacts(folder).save("ab", np.arange(3))
    before = {path: path.stat().st_ino for path in folder.glob("shard-*.h5")}
    found = plan(layout, folder, used=make_digests([1, 2, 5, 6, 77]))
    assert describe(found) == [("in none of the manifests", 3, 0), ("derived arrays", 0, 1)]
    assert apply_plan(found, layout.leases_folder)
    assert read_set(folder) == expect_set([1, 2, 5, 6])
    assert not list(folder.glob("derived-*"))
    assert not list(folder.glob(".tmp-*"))
    after = {path: path.stat().st_ino for path in folder.glob("shard-*.h5")}
    assert len(before.items() & after.items()) == 1
    exam = examine_set(layout, folder)
    assert all(shard.damage is None for shard in exam.shards)
    assert plan(layout, folder, used=make_digests([1, 2, 5, 6, 77])).losses == []


def test_a_set_of_which_no_row_stays_goes(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[0, 1], [2]])
    found = plan(layout, folder, used=make_digests([9]))
    assert describe(found) == [("in none of the manifests", 3, 2)]
    assert apply_plan(found, layout.leases_folder)
    assert not folder.exists()


# The names of shards are digests, so that many cases meet every order of them.
@pytest.mark.parametrize("seed", range(20))
def test_rows_that_are_there_twice_stay_once(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    shards = [
        random.choice(12, size=random.integers(1, 6), replace=False).tolist() for _ in range(8)
    ]
    layout, folder = write_set(tmp_path, shards)
    every = {number for shard in shards for number in shard}
    used = sorted(random.choice(sorted(every), size=len(every) // 2, replace=False).tolist())
    assert plan(layout, folder, may_drop_repeats=False).losses == []
    assert apply_plan(plan(layout, folder), layout.leases_folder)
    assert read_set(folder) == expect_set(every)
    assert apply_plan(plan(layout, folder, used=make_digests(used)), layout.leases_folder)
    assert read_set(folder) == expect_set(used)


def flip(path: Path, chunk: int = 0) -> None:
    with h5py.File(path) as file:
        position = file["features"].id.get_chunk_info(chunk).byte_offset
    content = bytearray(path.read_bytes())
    content[position + 7] ^= 16
    path.write_bytes(content)


def test_the_copy_that_stays_is_read_before_the_other_goes(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[0, 1], [1, 2]])
    # Either of them may be the first by name, which serves the row.
    first, second = sorted(folder.glob("shard-*.h5"))
    flip(first)
    before = second.read_bytes()
    with pytest.raises(DamagedError, match=first.name):
        assert apply_plan(plan(layout, folder), layout.leases_folder)
    assert second.read_bytes() == before
    assert len(list(folder.iterdir())) == 3


def test_damage_in_what_stays_keeps_all(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[0, 1], [2, 3]])
    for path in folder.glob("shard-*.h5"):
        flip(path)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DamagedError, match="checksum"):
        assert apply_plan(plan(layout, folder, used=make_digests([0, 2])), layout.leases_folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_rows_that_come_while_a_set_goes_stay(tmp_path: Path) -> None:
    layout, folder = write_set(tmp_path, [[0, 1]])
    found = plan(layout, folder, used=make_digests([9]))
    write_set(tmp_path, [[7]])
    assert apply_plan(found, layout.leases_folder)
    assert read_set(folder) == expect_set([7])
    assert (folder / "recipe.json").exists()
