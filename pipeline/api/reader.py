"""Open a ``features.h5`` in Python: as NumPy, Dask, TensorFlow or pandas."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.views.features import Features
from permafrost.pipeline.api.batches import choose_batches, iterate_batches, shuffle_rows
from permafrost.pipeline.api.lazy_rows import describe_rows
from permafrost.pipeline.errors import PipelineError
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.matrices.matrix import Rows

if TYPE_CHECKING:
    import dask.array
    import pandas as pd
    import tensorflow as tf

# A table with more columns than this takes longer to make than to read, and pandas copies it often.
MAX_TABLE_COLUMNS = 100_000


def open_features(path: str | os.PathLike[str]) -> FeatureReader:
    """Open what ``extract`` wrote.

    Parameters
    ----------
    path : str or Path
        A ``features.h5``.

    Raises
    ------
    CacheError
        There is no such file, or it is something else.
    """
    return FeatureReader(Path(path))


class FeatureReader:
    """An open ``features.h5``; close it, or use it in a ``with``.

    Every row is read through the checks of the cache: a shard that is missing or damaged raises a
    `CacheError` that names it, where plain HDF5 would give NaN. What `to_dask` and `to_tf_dataset`
    return outlives this object: it opens the file for itself whenever it reads.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._open: Features | None = Features(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # An open file cannot travel: a process that gets this, as a DataLoader's, opens its own.
        return open_features, (self.path,)

    def __len__(self) -> int:
        """How many images."""
        return len(self._features)

    def __repr__(self) -> str:
        if self._open is None:
            return f"<{self.path.name}: closed>"
        layers = ", ".join(f"{layer} {self.shape(layer)[1:]}" for layer in self.layers)
        return f"<{self.path.name}: {len(self)} images; {layers}>"

    def close(self) -> None:
        """Close the file."""
        if self._open is not None:
            self._open.__exit__()
        self._open = None

    @property
    def root(self) -> str:
        """Where `paths` start from."""
        return self._features.place

    @property
    def paths(self) -> NDArray[np.str_]:
        """POSIX paths of the images, shape (n,)."""
        return np.array(self._features.paths, np.str_)

    @property
    def labels(self) -> NDArray[np.str_]:
        """Labels, shape (n,); ``""`` where there is none."""
        return np.array(self._features.labels, np.str_)

    @property
    def classes(self) -> NDArray[np.str_]:
        """The different labels, sorted; a class's code is its place here."""
        return np.unique(self.labels[self.labels != ""])

    @property
    def splits(self) -> NDArray[np.str_]:
        """``"train"``, ``"val"``, ``"test"`` or ``""``, shape (n,)."""
        return np.array(self._features.splits, np.str_)

    @property
    def columns(self) -> list[str]:
        """The names of the further columns of the dataset's table, sorted."""
        return self._features.columns

    def column(self, name: str) -> NDArray[np.str_]:
        """Return a column of the dataset's table, shape (n,); ``""`` where it has nothing."""
        return np.array(self._features.column(name), np.str_)

    @property
    def layers(self) -> list[str]:
        """The layer specs, sorted."""
        return self._features.layers

    def shape(self, layer: str) -> tuple[int, ...]:
        """Return the number of images and the shape of a row."""
        return len(self), *self._features.shape(layer)

    def dtype(self, layer: str) -> np.dtype[Any]:
        """Return what is stored: float32 or float16; uint8 of ``pixels``."""
        return self._features.dtype(layer)

    def iterate(
        self, layer: str, batch_size: int = 256, *, split: str | None = None
    ) -> Iterator[NDArray[Any]]:
        """Yield batches in the order of the rows; only some megabytes are in memory.

        Parameters
        ----------
        layer : str
        batch_size : int
        split : str, optional
            Only rows of this split.

        Yields
        ------
        ndarray, shape (batch_size, *shape of a row)
            The last one may be shorter.
        """
        size = choose_batches(self._features, layer, batch_size)
        batches = iterate_batches(self._features, layer, self._choose_rows(split), size=size)
        return (values for _, values in batches)

    def to_numpy(self, layer: str, *, split: str | None = None) -> NDArray[Any]:
        """Read a layer into memory.

        Returns
        -------
        ndarray, shape (n, *shape of a row)
            Of all rows, or of those of one split, in their order.
        """
        return self._features.read(layer, self._choose_rows(split))

    def to_dask(self, layer: str) -> dask.array.Array:
        """Return a layer as a lazy array, which threads, processes and clusters may compute.

        A block is a run of whole rows, about 32 MiB. It ends where the next row lies in another
        HDF5 chunk of the shard that holds it, so that neighbouring blocks read no chunk twice.

        Returns
        -------
        dask.array.Array, shape (n, *shape of a row)
        """
        import dask.array as da

        source = describe_rows(self._features, layer)
        blocks = tuple(np.diff(source.cut_blocks()).tolist())
        return da.from_array(
            source,
            chunks=(blocks, *source.shape[1:]),
            name=f"features-{source.key}",
            asarray=False,
            meta=np.empty((0,) * source.ndim, source.dtype),
        )

    def to_tf_dataset(
        self,
        layer: str,
        *,
        batch_size: int = 32,
        split: str | None = None,
        shuffle: int | None = None,
        labels: bool = True,
    ) -> tf.data.Dataset:
        """Return a layer as batches that stream from disk, read ahead of the training step.

        Parameters
        ----------
        layer : str
        batch_size : int
        split : str, optional
            Only rows of this split.
        shuffle : int, optional
            Seed of the order of the rows, another one each epoch; none, or False, keeps the order.
            HDF5 chunks are shuffled, and the rows of those that are in memory together: about
            32 MiB.
        labels : bool
            Whether each element is a pair, of features and class codes (see `classes`), or the
            features alone.

        Returns
        -------
        tf.data.Dataset
            Of float ``(b, *shape of a row)`` and int64 ``(b,)``. TensorFlow turns what reading
            raises into an error of its own, whose text holds ours.

        Raises
        ------
        InputError
            Rows have no label, though `labels` are asked for; or the seed is negative.
        """
        shuffle = None if shuffle is False else shuffle
        if shuffle is not None and shuffle < 0:
            raise InputError(f"shuffle={shuffle} is no seed; give 0 or more")
        from permafrost.stages.frameworks.start import start_tensorflow

        start_tensorflow(with_keras=False)
        import tensorflow as tf

        rows = self._choose_rows(split)
        codes = self._encode_labels(rows) if labels else None
        source = describe_rows(self._features, layer)
        size = choose_batches(self._features, layer, batch_size)
        epochs = itertools.count()

        def generate() -> Iterator[Any]:
            seed = None if shuffle is None else [shuffle, next(epochs)]
            order = rows if seed is None else shuffle_rows(rows, seed, size=size)
            with source.open() as features:
                for some, values in iterate_batches(features, layer, order, size=size):
                    yield values if codes is None else (values, codes[some])

        signature: Any = tf.TensorSpec((None, *source.shape[1:]), source.dtype)
        if labels:
            signature = (signature, tf.TensorSpec((None,), tf.int64))
        batches = tf.data.Dataset.from_generator(generate, output_signature=signature)
        n_batches = math.ceil(len(rows) / batch_size)
        return batches.apply(tf.data.experimental.assert_cardinality(n_batches)).prefetch(
            tf.data.AUTOTUNE
        )

    def to_dataframe(self, layer: str, *, split: str | None = None) -> pd.DataFrame:
        """Return a layer as a table of texts, the dataset's own columns included, and features.

        These are ``path``, ``label``, ``split``, the `columns`, and ``LAYER_0`` and so on.

        Raises
        ------
        PipelineError
            pandas is not installed.
        InputError
            The layer has over 100,000 values an image.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise PipelineError(
                "a DataFrame needs pandas; get it with: pip install 'permafrost[dataframe]'"
            ) from error
        n_columns = math.prod(self.shape(layer)[1:])
        if n_columns > MAX_TABLE_COLUMNS:
            raise InputError(
                f"{layer!r} has {n_columns:,} values an image, more than {MAX_TABLE_COLUMNS:,}"
                " columns; pool it, as in conv:avg, or use to_numpy or to_dask"
            )
        rows = self._choose_rows(split)
        known = {"path": self.paths, "label": self.labels, "split": self.splits}
        known |= {name: self.column(name) for name in self.columns}
        values = self._features.read(layer, rows).reshape(len(rows), -1)
        table = pd.DataFrame({name: column[rows] for name, column in known.items()})
        features = pd.DataFrame(values, columns=name_features(layer, n_columns))
        return pd.concat([table, features], axis=1)

    @property
    def _features(self) -> Features:
        if self._open is None:
            raise PipelineError(f"{str(self.path)!r} is closed; open it again")
        return self._open

    def _choose_rows(self, split: str | None) -> Rows:
        if split is None:
            return np.arange(len(self))
        splits = self.splits
        rows = np.flatnonzero(splits == split)
        if not len(rows):
            known = np.unique(splits[splits != ""]).tolist()
            if not known:
                raise InputError(
                    f"no row of {str(self.path)!r} has a split; extract again with --split test=0.3"
                )
            raise UnknownNameError("split", split, known)
        return rows

    def _encode_labels(self, rows: Rows) -> NDArray[np.int64]:
        labels = self.labels
        n_unknown = int((labels[rows] == "").sum())
        if n_unknown:
            raise InputError(
                f"{n_unknown} of {len(rows)} rows have no label; choose a split that has them all,"
                " or leave them out with labels=False"
            )
        return np.searchsorted(self.classes, labels)


def name_features(layer: str, n_features: int) -> list[str]:
    """Name the columns of a flattened layer: ``block5_pool:avg_0`` and so on."""
    return [f"{layer}_{column}" for column in range(n_features)]
