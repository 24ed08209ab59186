"""Several files as one table: which rows, whose columns, and what a layer's name stands for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from permafrost.cache.errors import NotAViewError
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.tasks.rows import FeatureFiles, read_labels
from permafrost.stages.errors import InputError
from tests.helpers.views import write_features

N = 12
DIGITS = load_digits()
PIXELS = DIGITS.data[:N].astype(np.float32)
LABELS = [str(label) for label in DIGITS.target[:N]]
NOTHING = [""] * N

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of digits; each call another one."""
    names = (tmp_path / f"{number}.h5" for number in itertools.count())

    def call(
        layer: str = "a",
        *,
        numbers: Sequence[int] = range(N),
        labels: Sequence[str] = NOTHING,
        splits: Sequence[str] = NOTHING,
        columns: dict[str, Sequence[str]] | None = None,
        values: NDArray[np.float32] = PIXELS,
    ) -> Path:
        order = list(numbers)
        return write_features(
            next(names),
            {layer: values[order]},
            labels=[labels[number] for number in order],
            splits=[splits[number] for number in order],
            columns={k: [v[number] for number in order] for k, v in (columns or {}).items()},
            numbers=order,
        )

    return call


# Rows


def test_rows_are_matched_by_image_in_the_order_of_the_first_file(write: Write) -> None:
    order = np.random.default_rng(0).permutation(N)
    with FeatureFiles([write("a"), write("b", numbers=order)]) as files:
        matrix = files.open_matrix(files.find_layers("a+b"))
        np.testing.assert_array_equal(matrix.read(np.arange(N)), np.hstack([PIXELS, PIXELS]))


def test_rows_that_one_file_lacks_are_left_out_and_counted_for_each_file(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = write("a", numbers=range(10)), write("b", numbers=range(4, N))
    with FeatureFiles([first, second]) as files:
        assert files.paths == [f"{number:04d}.png" for number in range(4, 10)]
        matrix = files.open_matrix(files.find_layers("b"))
        np.testing.assert_array_equal(matrix.read(np.arange(6)), PIXELS[4:10])
    assert len(caplog.messages) == 2
    assert f"4 of 10 images of {str(first)!r}" in caplog.messages[0]
    assert f"2 of 8 images of {str(second)!r}" in caplog.messages[1]


def test_an_image_that_comes_twice_keeps_both_rows_and_one_group(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = write("a", numbers=[0, 1, 0, 2]), write("b", numbers=[2, 1, 0, 0])
    with FeatureFiles([first, second]) as files:
        matrix = files.open_matrix(files.find_layers("b"))
        np.testing.assert_array_equal(matrix.read(np.arange(4)), PIXELS[[0, 1, 0, 2]])
        groups = files.groups
    assert groups[0] == groups[2]
    assert len(set(groups.tolist())) == 3
    assert caplog.messages == []


def test_files_without_rows_or_without_a_common_image_are_one_line(write: Write) -> None:
    empty, low, high = (write(numbers=some) for some in ([], range(3), range(3, 6)))
    with pytest.raises(PipelineError, match=r"has no rows; extract some images"):
        FeatureFiles([empty])
    with pytest.raises(PipelineError, match=r"no image in common; extract the same images"):
        FeatureFiles([low, high])


# Columns


def test_each_column_is_of_the_first_file_that_has_any_of_it(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    splits = ["test", "train"] * (N // 2)
    reverse = range(N - 1, -1, -1)
    bare = write("a")
    labelled = write("b", labels=LABELS, numbers=reverse)
    split = write("c", labels=LABELS, splits=splits, columns={"age": LABELS})
    with FeatureFiles([bare, labelled, split]) as files:
        assert files.column("label") == LABELS
        assert files.splits.tolist() == splits
        assert files.column("age") == LABELS
        assert len(read_labels(files).test) == N // 2
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["group", "Group", " GROUP "])
def test_a_column_group_of_any_file_joins_its_rows(write: Write, name: str) -> None:
    with FeatureFiles([write("a"), write("b", columns={name: ["x", "x", "y", *NOTHING[3:]]})]) as f:
        groups = f.groups.tolist()
    assert groups[0] == groups[1]
    assert len(set(groups)) == N - 1


def test_files_that_disagree_are_warned_of_once_with_an_example(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    others = ["0", "7", "8", *LABELS[3:-1], ""]
    first, second = write("a", labels=LABELS), write("b", labels=others)
    for _ in range(3):  # as the steps of a sweep do
        with FeatureFiles([first, second]) as files:
            assert files.column("label") == LABELS
    (warning,) = caplog.messages
    assert "2 images have another label" in warning
    assert str(first) in warning
    assert str(second) in warning
    assert "'0001.png'" in warning


def test_a_column_that_no_file_has_names_those_there_are(write: Write) -> None:
    files = [write("a", columns={"age": LABELS}), write("b")]
    with FeatureFiles(files) as opened, pytest.raises(NotAViewError, match=r"'agee'.*'age'"):
        opened.column("agee")


# Layers

MAPS = DIGITS.data[:N].astype(np.float32).reshape(N, 4, 8, 2)


@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_a_pooling_that_was_not_extracted_is_derived_from_the_full_map(
    write: Write, pooling: str, reduce: Callable[..., NDArray[np.float32]]
) -> None:
    with FeatureFiles([write("a", values=MAPS)]) as files:
        matrix = files.open_matrix(files.find_layers(f"a:{pooling}"))
        rows = np.array([7, 0, 3])
        pooled = reduce(MAPS, axis=(1, 2))
        assert matrix.shape == pooled.shape
        np.testing.assert_allclose(matrix.read(rows), pooled[rows], rtol=1e-6)
        columns = np.hstack(list(matrix.iterate_columns(rows, n_bytes=1)))
        np.testing.assert_allclose(columns, pooled[rows], rtol=1e-6)


def test_a_map_and_its_flattened_rows_stand_for_each_other(write: Write) -> None:
    for stored, wanted, values in (("a", "a:flatten", MAPS), ("a:flatten", "a", PIXELS)):
        with FeatureFiles([write(stored, values=values)]) as files:
            matrix = files.open_matrix(files.find_layers(wanted))
            np.testing.assert_array_equal(matrix.read(np.arange(N)), PIXELS)


def test_a_layer_that_cannot_be_derived_is_one_line(write: Write) -> None:
    with FeatureFiles([write("a:flatten"), write("b")]) as files:
        with pytest.raises(NotAViewError, match=r"no layer 'a:avg'; it has: a:flatten, b; extract"):
            files.find_layers("a:avg")
        with pytest.raises(InputError, match="no height and width"):
            files.find_layers("b:avg")


def test_a_layer_of_one_file_is_named_with_the_file(write: Write) -> None:
    with FeatureFiles([write("a"), write("a"), write("b")]) as files:
        assert [one.file for one in files.find_layers("a")] == [0, 1]
        assert [one.file for one in files.find_layers("1/a+2/b")] == [1, 2]
        with pytest.raises(NotAViewError, match="no layer '2/a'; it has: a, b"):
            files.find_layers("2/a")


def test_all_is_every_layer_but_the_images(tmp_path: Path) -> None:
    maps, flat = PIXELS.reshape(N, 4, 4, 4), PIXELS[:, :5]
    layers = {"b": maps, "b:avg": flat, "a": maps, "flat": flat, "pixels": maps}
    file = write_features(tmp_path / "x.h5", layers, labels=LABELS, splits=NOTHING)
    with FeatureFiles([file]) as files:
        assert names_of(files, "all") == ["a", "b", "b:avg", "flat"]
        assert names_of(files, "x/all+pixels") == ["a", "b", "b:avg", "flat", "pixels"]
        # Each layer once, however often it was extracted; what is no map stays.
        assert names_of(files, "all:avg") == ["a:avg", "b:avg", "flat"]
        assert files.open_matrix(files.find_layers("all:avg")).widths == (4, 5, 5)
        assert files.has_space("all")
        with pytest.raises(NotAViewError, match="no layer 'none'"):
            files.find_layers("none")


def test_a_layer_of_which_only_another_pooling_is_there_is_not_left_out(tmp_path: Path) -> None:
    layers = {"a:max": PIXELS, "b": PIXELS.reshape(N, 4, 4, 4), "pixels": PIXELS}
    file = write_features(tmp_path / "x.h5", layers, labels=LABELS, splits=NOTHING)
    said = "no layer 'a:avg' for 'all:avg', nor its full map"
    with FeatureFiles([file]) as files, pytest.raises(NotAViewError, match=said):
        files.find_layers("all:avg")


def test_a_layer_that_is_called_all_is_that_layer(tmp_path: Path) -> None:
    layers = {"all": PIXELS, "b": PIXELS}
    file = write_features(tmp_path / "x.h5", layers, labels=LABELS, splits=NOTHING)
    with FeatureFiles([file]) as files:
        assert names_of(files, "all") == ["all"]


def names_of(files: FeatureFiles, expression: str) -> list[str]:
    return [str(layer.spec) for layer in files.find_layers(expression)]
