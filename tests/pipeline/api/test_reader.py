"""features.h5 in Python, against plain h5py."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from permafrost import open_features
from permafrost.cache.errors import CacheError, DamagedError, MissingShardError, NotAViewError
from permafrost.cache.hdf5.sealed import read_array
from permafrost.cache.views import features as features_module
from permafrost.cache.views import images as images_module
from permafrost.cache.views.features import Features
from permafrost.cache.views.pointers import read_pointers
from permafrost.pipeline.api import lazy_rows
from permafrost.pipeline.api.reader import FeatureReader
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.extraction.extract import extract as run_extract
from permafrost.pipeline.options import DatasetOptions, ExtractOptions, FeatureOptions
from permafrost.stages.errors import InputError, UnknownNameError
from tests.helpers import ROOT
from tests.helpers.answers import Command
from tests.helpers.inputs import write_photos

LAYER = "last:avg"


@pytest.fixture
def file(extract: Command, tmp_path: Path) -> Path:
    """A view of 12 photos with two layers, one wide; a third of the rows are for the test."""
    assert extract("--split", "test=0.34").status == 0
    return tmp_path / "features.h5"


@pytest.fixture(scope="module")
def shards_of_small_chunks(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a view of 600 rows over three shards; an HDF5 chunk is 1 kB, or 16 rows."""
    home = tmp_path_factory.mktemp("large")
    options = ExtractOptions(
        dataset=DatasetOptions(images=str(home / "photos")),
        features=FeatureOptions(backbone=str(backbone), layers=(LAYER,)),
        cache=home / "cache",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("permafrost.cache.shards.format.CHUNK_BYTES", 1024)
        for n_each in (70, 190, 300):
            write_photos(home / "photos", n_each=n_each, side=36)
            run_extract(options, home / "features.h5")
    return home / "features.h5"


@pytest.fixture
def large(shards_of_small_chunks: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have that view read 16 kB at a time."""
    monkeypatch.setattr("permafrost.cache.shards.format.CHUNK_BYTES", 1024)
    for module in ("permafrost.pipeline.api.lazy_rows", "permafrost.pipeline.api.batches"):
        monkeypatch.setattr(f"{module}.READ_BYTES", 16 * 1024)
    return shards_of_small_chunks


def read_with_h5py(file: Path, name: str) -> np.ndarray:
    with h5py.File(file) as opened:
        node = opened[name]
        values: np.ndarray = node.asstr()[()] if node.dtype.kind in "SO" else node[()]
    return values


def find_shard(file: Path) -> Path:
    return next((file.parent / "cache").glob("*/last-avg/shard-*.h5"))


@pytest.mark.parametrize("materialize", [(), ("--materialize",)])
@pytest.mark.parametrize("layer", ["first", LAYER])
def test_every_way_of_reading_gives_what_plain_h5py_does(
    extract: Command, tmp_path: Path, layer: str, materialize: tuple[str, ...]
) -> None:
    pandas = pytest.importorskip("pandas")
    file = tmp_path / "features.h5"
    extract("--split", "test=0.34", *materialize)
    expected = read_with_h5py(file, f"features/{layer}")
    table = {name: read_with_h5py(file, f"images/{name}") for name in ("path", "label", "split")}
    with open_features(file) as features:
        assert (len(features), features.layers) == (12, ["first", LAYER])
        assert (features.shape(layer), features.dtype(layer)) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(features.paths, table["path"])
        np.testing.assert_array_equal(features.labels, table["label"])
        np.testing.assert_array_equal(features.splits, table["split"])
        is_test = features.splits == "test"
        assert 0 < is_test.sum() < 12
        np.testing.assert_array_equal(features.to_numpy(layer), expected)
        np.testing.assert_array_equal(features.to_numpy(layer, split="test"), expected[is_test])
        batches = list(features.iterate(layer, 5, split="train"))
        assert [len(batch) for batch in batches] == [5, int((~is_test).sum()) - 5]
        np.testing.assert_array_equal(np.concatenate(batches), expected[~is_test])
        np.testing.assert_array_equal(features.to_dask(layer).compute(), expected)
        frame = features.to_dataframe(layer, split="test")
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns[:4]) == ["path", "label", "split", f"{layer}_0"]
    assert frame["label"].tolist() == table["label"][is_test].tolist()
    np.testing.assert_array_equal(
        frame.iloc[:, 3:].to_numpy(np.float32), expected[is_test].reshape(is_test.sum(), -1)
    )


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_a_dask_array_is_computed_in_threads_and_processes_after_the_file_was_closed(
    large: Path, scheduler: str
) -> None:
    expected = read_with_h5py(large, f"features/{LAYER}")
    with open_features(large) as features:
        array = features.to_dask(LAYER)
    assert array.numblocks[0] > 2
    computed = array.sum(axis=0).compute(scheduler=scheduler)
    np.testing.assert_allclose(computed, expected.sum(axis=0), rtol=1e-4)


def test_neighbouring_blocks_of_a_dask_array_share_no_hdf5_chunk(large: Path) -> None:
    with open_features(large) as features:
        blocks = features.to_dask(LAYER).chunks[0]
    chunk = read_with_h5py(large, f"rows/{LAYER}/row") // 16
    shard = read_with_h5py(large, f"rows/{LAYER}/shard")
    names = read_with_h5py(large, f"rows/{LAYER}/shards")
    assert len(names) == 3
    for name in names:
        with h5py.File(next(large.parent.rglob(name))) as opened:
            assert opened["features"].chunks == (16, 16)
    cuts = np.cumsum(blocks)[:-1]
    assert len(cuts) > 1
    assert ((shard[cuts] != shard[cuts - 1]) | (chunk[cuts] != chunk[cuts - 1])).all()
    assert max(blocks) * 16 * 4 <= 16 * 1024


@pytest.mark.parametrize(
    "index",
    [
        np.s_[3],
        np.s_[-1],
        np.s_[2:9:3],
        np.s_[::-1],
        np.s_[[4, 1, 4]],
        np.s_[1:4, 2, ..., 1],
        np.s_[5, 1:3],
        np.s_[20:],
    ],
    ids=str,
)
def test_indexing_a_dask_array_reads_what_indexing_numpy_does(file: Path, index: Any) -> None:
    expected = read_with_h5py(file, "features/first")
    with open_features(file) as features:
        array = features.to_dask("first")
        np.testing.assert_array_equal(array[index].compute(), expected[index])


def test_blocks_of_a_dask_array_share_what_all_rows_were_read_for(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_features(large) as features:
        array = features.to_dask(LAYER)
    calls: list[str] = []

    def count(name: str, read: Callable[..., object]) -> Callable[..., object]:
        return lambda *args, **more: (calls.append(name), read(*args, **more))[1]

    monkeypatch.setattr(features_module, "read_pointers", count("rows", read_pointers))
    monkeypatch.setattr(images_module, "read_array", count("digests", read_array))
    lazy_rows._verified.clear()  # as in a process that is new
    assert array.numblocks[0] > 2
    expected = array.compute(scheduler="threads")
    assert sorted(calls) == ["digests", "rows"]
    np.testing.assert_array_equal(expected, array.compute(scheduler="threads"))
    # What came over a wire is another object, of the same rows.
    pickle.loads(pickle.dumps(array)).compute(scheduler="threads")
    assert len(calls) == 2


def test_few_rows_are_chosen_as_by_indexing_all(file: Path) -> None:
    with Features(file) as features:
        expected = features.read(LAYER)
        for rows in ([-1, 0, 5, 5, -12], [], [11]):
            some = np.array(rows, np.int64)
            np.testing.assert_array_equal(features.read(LAYER, some), expected[some])


def test_a_dask_array_refuses_a_file_that_was_written_anew_with_other_rows(
    file: Path, extract: Command
) -> None:
    with open_features(file) as features:
        array = features.to_dask(LAYER)
    extract("--split", "test=0.34")
    assert array.compute().shape == (12, 16)
    extract("--view", "hflip")
    with pytest.raises(DamagedError, match="other rows than before"):
        array.compute()


Use = Callable[[FeatureReader], object]


@pytest.mark.parametrize(
    "use",
    [
        lambda features: features.to_numpy(LAYER),
        lambda features: list(features.iterate(LAYER)),
        lambda features: features.to_dask(LAYER).compute(scheduler="threads"),
        lambda features: features.to_dask(LAYER).compute(scheduler="processes"),
    ],
    ids=["numpy", "batches", "threads", "processes"],
)
def test_a_shard_that_is_missing_or_damaged_is_an_error_and_never_nan(file: Path, use: Use) -> None:
    shard = find_shard(file)
    with h5py.File(shard) as opened:
        position = opened["features"].id.get_chunk_info(0).byte_offset
    content = bytearray(shard.read_bytes())
    content[position] ^= 1
    shard.write_bytes(content)
    with open_features(file) as features, pytest.raises(CacheError, match=shard.name):
        use(features)
    shard.unlink()
    with open_features(file) as features, pytest.raises(MissingShardError, match=shard.name):
        use(features)


def test_tensorflow_says_which_shard_is_missing(file: Path) -> None:
    import tensorflow as tf

    with open_features(file) as features:
        batches = features.to_tf_dataset(LAYER)
    shard = find_shard(file)
    shard.unlink()
    with pytest.raises(tf.errors.OpError, match=f"MissingShardError: .*{shard.name}' is gone"):
        list(batches)


@pytest.mark.parametrize("layer", ["first", LAYER])
def test_a_tensorflow_dataset_streams_rows_with_the_codes_of_their_classes(
    file: Path, layer: str
) -> None:
    expected = read_with_h5py(file, f"features/{layer}")
    with open_features(file) as features:
        is_train = features.splits == "train"
        batches = features.to_tf_dataset(layer, batch_size=5, split="train")
        alone = features.to_tf_dataset(layer, labels=False)
        assert features.classes.tolist() == ["china", "flower"]
    assert len(batches) == len(list(batches)) == 2
    rows, codes = (
        np.concatenate(parts) for parts in zip(*batches.as_numpy_iterator(), strict=True)
    )
    np.testing.assert_array_equal(rows, expected[is_train])
    labels = read_with_h5py(file, "images/label")[is_train]
    np.testing.assert_array_equal(np.array(["china", "flower"])[codes], labels)
    np.testing.assert_array_equal(next(alone.as_numpy_iterator()), expected)


def test_shuffling_gives_every_row_once_in_an_order_of_its_own_each_epoch(large: Path) -> None:
    def draw_epochs(seed: int) -> list[list[bytes]]:
        with open_features(large) as features:
            batches = features.to_tf_dataset(LAYER, batch_size=7, labels=False, shuffle=seed)
        epochs = [np.concatenate(list(batches.as_numpy_iterator())) for _ in range(2)]
        return [[row.tobytes() for row in epoch] for epoch in epochs]

    first, second = draw_epochs(0)
    stored = [row.tobytes() for row in read_with_h5py(large, f"features/{LAYER}")]
    assert sorted(first) == sorted(second) == sorted(stored)
    assert len({tuple(order) for order in (first, second, stored)}) == 3
    assert draw_epochs(0) == [first, second]
    assert draw_epochs(1)[0] != first
    # Rows of both photographs, which lie one after the other, meet early.
    place = {row: number for number, row in enumerate(stored)}
    early = np.array([place[row] for row in first[:250]])
    assert 50 < (early < 300).sum() < 200


def test_a_tensorflow_dataset_keeps_the_order_unless_told_otherwise(file: Path) -> None:
    expected = read_with_h5py(file, f"features/{LAYER}")
    with open_features(file) as features:
        for shuffle in (None, False):
            batches = features.to_tf_dataset(LAYER, labels=False, shuffle=shuffle)
            np.testing.assert_array_equal(np.concatenate(list(batches)), expected)


@pytest.mark.filterwarnings("ignore:.*shuffle=True")
def test_keras_trains_on_a_tensorflow_dataset(file: Path) -> None:
    import keras

    with open_features(file) as features:
        batches = features.to_tf_dataset(LAYER, batch_size=4, shuffle=0)
    model = keras.Sequential([keras.layers.Dense(2, activation="softmax")])
    model.compile(loss="sparse_categorical_crossentropy")
    history = model.fit(batches, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_unlabelled_rows_have_no_codes(extract: Command, photos: Path, tmp_path: Path) -> None:
    extract(images=photos / "china")
    with open_features(tmp_path / "features.h5") as features:
        assert features.classes.tolist() == []
        with pytest.raises(InputError, match="6 of 6 rows have no label"):
            features.to_tf_dataset(LAYER)
        assert features.to_tf_dataset(LAYER, labels=False).cardinality() == 1


def test_a_wrong_name_or_number_is_one_clear_line(file: Path) -> None:
    with pytest.raises(NotAViewError, match="make it with: extract"):
        open_features(file.parent / "nowhere.h5")
    with open_features(str(file)) as features:
        with pytest.raises(UnknownNameError, match=r"unknown split 'tset'.*did you mean 'test'"):
            features.to_numpy(LAYER, split="tset")
        with pytest.raises(NotAViewError, match="has no layer 'lost'; it has: first, last:avg"):
            features.to_dask("lost")
        with pytest.raises(InputError, match="batch_size 0"):
            features.iterate(LAYER, 0)
        with pytest.raises(InputError, match="shuffle=-1 is no seed"):
            features.to_tf_dataset(LAYER, shuffle=-1)


def test_a_closed_file_says_so(file: Path) -> None:
    with open_features(file) as features:
        pass
    features.close()
    assert repr(features) == f"<{file.name}: closed>"
    with pytest.raises(PipelineError, match="is closed; open it again"):
        features.to_numpy(LAYER)


def test_without_splits_the_remedy_is_named(extract: Command, photos: Path, tmp_path: Path) -> None:
    extract(images=photos)
    with (
        open_features(tmp_path / "features.h5") as features,
        pytest.raises(InputError, match=r"no row .* has a split; extract again with --split"),
    ):
        features.to_numpy(LAYER, split="test")


def test_a_layer_too_wide_for_a_table_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setattr("permafrost.pipeline.api.reader.MAX_TABLE_COLUMNS", 1799)
    with open_features(file) as features, pytest.raises(InputError, match="1,800 values an image"):
        features.to_dataframe("first")


def test_without_pandas_the_error_says_how_to_get_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with (
        open_features(file) as features,
        pytest.raises(PipelineError, match=r"pip install 'permafrost\[dataframe\]'"),
    ):
        features.to_dataframe(LAYER)


def test_opening_and_reading_loads_no_other_package(file: Path) -> None:
    code = (
        "import sys; from permafrost import open_features;"
        f"features = open_features({str(file)!r}); features.to_numpy({LAYER!r});"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"tensorflow", "keras", "sklearn", "pandas", "dask"} & set(done.stdout.split())
