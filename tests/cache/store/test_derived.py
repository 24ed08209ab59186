"""Derived arrays, against the arrays that went in; processes, full disks and damage are real."""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.cache.store.derived import Artefacts
from tests.helpers import ROOT

NAME = hashlib.sha256(b"gram").hexdigest()
VALUES = np.random.default_rng(0).standard_normal((40, 40))


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(1,), (30, 5), (2, 300_000)])
def test_what_was_saved_is_loaded(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = np.resize(VALUES, shape).astype(dtype)
    Artefacts(tmp_path).save(NAME, values)
    loaded = Artefacts(tmp_path).load(NAME)
    assert loaded is not None
    assert loaded.dtype == values.dtype
    np.testing.assert_array_equal(loaded, values)
    with h5py.File(tmp_path / f"derived-{NAME}.h5") as file:
        assert file["values"].fletcher32
    assert [path.name for path in tmp_path.iterdir()] == [f"derived-{NAME}.h5"]


def test_what_is_missing_or_has_no_place_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Artefacts(None).save(NAME, VALUES)
    assert Artefacts(None).load(NAME) is None
    assert Artefacts(tmp_path).load(NAME) is None
    assert Artefacts(tmp_path / "gone").load(NAME) is None
    assert not caplog.records


def test_no_flipped_byte_gives_a_wrong_array(tmp_path: Path) -> None:
    artefacts = Artefacts(tmp_path)
    artefacts.save(NAME, VALUES[:4])
    file = tmp_path / f"derived-{NAME}.h5"
    sound = file.read_bytes()
    refused = 0
    for position in range(0, len(sound), 5):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)
        loaded = artefacts.load(NAME)
        refused += loaded is None
        if loaded is not None:
            np.testing.assert_array_equal(loaded, VALUES[:4])
    assert refused > VALUES[:4].nbytes / 5 - 1


def test_damage_is_logged_and_mended_by_saving_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artefacts = Artefacts(tmp_path)
    artefacts.save(NAME, VALUES)
    file = tmp_path / f"derived-{NAME}.h5"
    file.write_bytes(file.read_bytes()[:-100])
    assert artefacts.load(NAME) is None
    assert file.name in caplog.text
    artefacts.save(NAME, VALUES)
    np.testing.assert_array_equal(artefacts.load(NAME), VALUES)


def test_an_array_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    artefacts = Artefacts(tmp_path)
    artefacts.save(NAME, VALUES)
    (tmp_path / f"derived-{NAME}.h5").rename(tmp_path / "derived-ab.h5")
    assert artefacts.load("ab") is None


@pytest.mark.parametrize("name", ["", "../ab", "AB", "a b"])
def test_a_name_that_is_no_digest_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no digest"):
        Artefacts(tmp_path).load(name)


def test_where_nothing_can_be_saved_one_warning_is_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "a file"
    folder.write_text("no folder")
    for name in ("ab", "cd"):
        Artefacts(folder).save(name, VALUES)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot keep" in caplog.text


def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artefacts = Artefacts(tmp_path)
    artefacts.save(NAME, VALUES)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses to let a file grow, as it does on a full disk; Python ignores SIGXFSZ.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        artefacts.save(NAME, VALUES + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot keep" in caplog.text
    np.testing.assert_array_equal(artefacts.load(NAME), VALUES)
    assert len(list(tmp_path.iterdir())) == 1


def test_processes_that_save_one_name_at_once_all_end_right(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from permafrost.cache.store.derived import Artefacts\n"
        "for turn in range(30):\n"
        f"    Artefacts(Path(sys.argv[1])).save({NAME!r}, np.arange(2000.0))\n"
        f"    assert (Artefacts(Path(sys.argv[1])).load({NAME!r}) == np.arange(2000.0)).all()\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT) for _ in range(3)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [f"derived-{NAME}.h5"]
