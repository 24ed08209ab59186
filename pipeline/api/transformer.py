"""A frozen backbone as a scikit-learn transformer, over the same cache as the command ``extract``.

Whoever imports this module wants scikit-learn; `permafrost` imports it when it is asked for it.
"""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from permafrost.cache.shards.follow import follow_rows
from permafrost.cache.shards.gather import StoredRows
from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import open_cache
from permafrost.cache.store.leases import Uses
from permafrost.cache.store.recipe import Recipe, recipe_key
from permafrost.pipeline.api.reader import name_features
from permafrost.pipeline.computing.tally import Tally, list_failures
from permafrost.pipeline.errors import PipelineError, UnreadableError
from permafrost.pipeline.extraction.extract import fill_cache
from permafrost.pipeline.extraction.results import locate_again
from permafrost.pipeline.options import (
    DEFAULT_CACHE,
    DatasetOptions,
    ExtractOptions,
    FeatureOptions,
    RunOptions,
    read_options,
)
from permafrost.pipeline.parsers import parse_bytes, parse_size
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.planning.missing import LayerPlan
from permafrost.pipeline.planning.recipe import build_recipe
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.manifest import Manifest, write_manifest
from permafrost.stages.datasets.texts import Texts
from permafrost.stages.errors import InputError, UnknownNameError
from permafrost.stages.matrices.matrix import read_stored
from permafrost.stages.sources.folder import drop_file_scheme

_ON_ERROR = ("fail", "nan")


# scikit-learn clones and searches by the names in the signature of `__init__`.
@dataclass(eq=False, repr=False)
class BackboneFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Paths of images in, activations of a frozen backbone's layer out.

    What was computed once is read from the cache: in another fold, for another head, in another
    notebook, by the command line. Nothing is learned from the images or from `y`.

    Parameters
    ----------
    backbone : str or Path
        A Keras Application, as ``"vgg16"`` or ``"mobilenet(alpha=0.25)"``, or a Keras model file.
        ``"none"`` is for the layer ``"pixels"``: the images themselves, as 0 to 1.
    layer : str
        A layer and its pooling, as ``"block5_pool:avg"``. One that is not pooled is flattened.
        Several are several transformers, side by side in scikit-learn's ``make_union``.
    weights : str or Path
        ``"imagenet"``, ``"random"`` or a weights file.
    size : int or (int, int), optional
        Input height and width in pixels; the backbone's own by default.
    preprocess : str
        ``"auto"``, ``"caffe"``, ``"tf"``, ``"torch"``, ``"none"``, or as
        ``"mean=123.68,116.78,103.94,std=58,57,57"``.
    resize, resize_mode, view, orient : str
        As on the command line, but for the view, which is one.
    dtype : str
        What the cache stores: ``"float32"``, or ``"float16"`` at half the bytes.
    engine, precision, decode : str
        As on the command line.
    cache_dir : str or Path
        May be shared with the command line and with other processes.
    memory : str or int
        Budget for images and activations in flight, as ``"4GB"`` or in bytes.
    batch_size : int, optional
        Chosen from the budget by default.
    on_error : str
        What an image that cannot be read does: ``"fail"`` stops; ``"nan"`` warns and makes it a
        row of NaN, so that rows and labels never shift.
    verbose : bool
        Whether to show progress.

    Attributes
    ----------
    n_features_out_ : int
    recipe_ : dict
        Everything that determines the numbers.
    """

    backbone: str | os.PathLike[str] = "vgg16"
    layer: str = "block5_pool:avg"
    _: KW_ONLY
    weights: str | os.PathLike[str] = "imagenet"
    size: int | tuple[int, int] | None = None
    preprocess: str = "auto"
    resize: str = "bilinear"
    resize_mode: str = "stretch"
    view: str = "identity"
    orient: str = "ignore"
    dtype: str = "float32"
    engine: str = "tensorflow"
    precision: str = "float32"
    decode: str = "exact"
    cache_dir: str | os.PathLike[str] = DEFAULT_CACHE.name
    memory: str | int = "4GB"
    batch_size: int | None = None
    on_error: str = "fail"
    verbose: bool = False

    def fit(self, X: Iterable[str | os.PathLike[str]], y: object = None) -> Self:
        """Check the options and the paths, and look the backbone up; no image is opened.

        Parameters
        ----------
        X : iterable of str or Path, length n
            Paths of images: a list, an array, a column of a table.
        y : ignored

        Raises
        ------
        StageError, PipelineError, CacheError
            One line that names the value and the remedy.
        """
        _list_paths(X)
        self._choose_run()
        self.recipe_, self.n_features_out_ = self._describe()
        return self

    def transform(self, X: Iterable[str | os.PathLike[str]]) -> NDArray[np.float32]:
        """Compute what the cache lacks, and read the rest.

        Parameters
        ----------
        X : iterable of str or Path, length n
            In any folders; a path may come twice.

        Returns
        -------
        ndarray of float32, shape (n, n_features_out_)
            In the order of `X`.

        Raises
        ------
        PipelineError
            An image cannot be read, with ``on_error="fail"``; or the backbone or a parameter
            changed since `fit`.
        """
        check_is_fitted(self)
        paths = _list_paths(X)
        recipe, _ = self._describe()
        if recipe_key(recipe) != recipe_key(self.recipe_):
            raise PipelineError(
                f"the backbone {str(self.backbone)!r} or a parameter is no longer what it was"
                " fitted with; restore it or fit again"
            )
        try:
            return self._extract(paths)
        except UnreadableError as error:
            remedy = 'on_error="nan" makes it a row of NaN'
            raise UnreadableError(error.path, error.reason, remedy) from None

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return ``block5_pool:avg_0``, …: the layer, and the place in the flattened row."""
        check_is_fitted(self)
        return np.array(name_features(self.layer, self.n_features_out_), object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _choose_features(self) -> FeatureOptions:
        if not isinstance(self.layer, str):
            raise InputError(f"layer is {self.layer!r}; give a name, as 'block5_pool:avg'")
        sides = self.size if isinstance(self.size, tuple | list) else [self.size]
        size = None if self.size is None else parse_size("x".join(map(str, sides)))
        files = {"backbone": os.fspath(self.backbone), "weights": os.fspath(self.weights)}
        given = self.get_params() | files | {"layers": (self.layer,), "size": size}
        options = read_options(FeatureOptions, given)
        if len(options.views) > 1:
            raise InputError(
                f"view is {self.view!r}; give one, and stack the rows of several transformers"
            )
        return options

    def _choose_run(self) -> RunOptions:
        if self.on_error not in _ON_ERROR:
            raise UnknownNameError("on_error", self.on_error, _ON_ERROR)
        batch_size: Any = self.batch_size  # what was passed, which may be anything
        is_number = isinstance(batch_size, int | np.integer)
        if batch_size is not None and not (is_number and batch_size > 0):
            raise InputError(f"batch_size is {batch_size!r}; give a number of images, or None")
        return RunOptions(
            batch_size=batch_size,
            memory_bytes=parse_bytes(str(self.memory)),
            on_error="fail" if self.on_error == "fail" else "skip",
        )

    def _describe(self) -> tuple[Recipe, int]:
        options = self._choose_features()
        with Index(open_cache(Path(self.cache_dir)).index_file) as index:
            backbone = Backbone(options, index)
            (spec,) = backbone.layers
            layer = backbone.card.find_layer(spec.layer, backbone=options.backbone)
            shape = layer.pool_shape(spec)
            return build_recipe(options, backbone, spec), math.prod(shape)

    def _extract(self, paths: list[str]) -> NDArray[np.float32]:
        tally = Tally()
        layout = open_cache(Path(self.cache_dir))
        with (
            tempfile.TemporaryDirectory() as folder,
            Index(layout.index_file) as index,
            Uses(layout.leases_folder) as uses,
        ):
            options = ExtractOptions(
                dataset=DatasetOptions(manifest=_write_list(paths, Path(folder))),
                features=self._choose_features(),
                cache=layout.root,
                run=self._choose_run(),
            )
            prepared = fill_cache(options, layout, index, tally, uses, quiet=not self.verbose)
            failed = list_failures(prepared, tally)
            _warn_of_failures(failed, n_images=len(paths))
            digests = prepared.dataset.manifest.digests
            return _gather(prepared.plan.layers[0], digests, n_failed=len(failed))


def _list_paths(X: Iterable[str | os.PathLike[str]]) -> list[str]:
    if isinstance(X, str | bytes | os.PathLike):
        raise InputError(f"X is the one path {os.fsdecode(X)!r}; write it as a list")
    if isinstance(X, Iterator):
        raise InputError(f"X is a {type(X).__name__}, which can be read only once; write list(X)")
    n_axes = getattr(X, "ndim", 1)
    if n_axes != 1:
        raise InputError(f"X has {n_axes} axes; give one of paths: a list, or one column")
    paths = [_read_path(value, position) for position, value in enumerate(X)]
    if not paths:
        raise InputError("X is empty; give the paths of some images")
    return paths


def _read_path(value: str | os.PathLike[str], position: int) -> str:
    try:
        return drop_file_scheme(os.fsdecode(value))
    except TypeError:
        raise InputError(f"X[{position}] is {value!r}; give the path of an image") from None


def _write_list(paths: list[str], folder: Path) -> Path:
    """Write the paths as what `extract` takes for images in any folders: a manifest."""
    blank = [""] * len(paths)
    file = folder / "manifest.csv"
    digests = Digests.none(len(paths))
    manifest = Manifest(
        root=str(Path.cwd()), paths=Texts.of(paths), labels=blank, splits=blank, digests=digests
    )
    write_manifest(manifest, file)
    return file


def _warn_of_failures(failed: list[tuple[str, str]], *, n_images: int) -> None:
    if failed:
        path, reason = failed[0]
        warnings.warn(
            f"{len(failed)} of {n_images} images cannot be read and are rows of NaN;"
            f" the first: {path!r}: {reason}",
            stacklevel=5,  # where transform was called, behind set_output
        )


def _gather(layer: LayerPlan, digests: Digests, *, n_failed: int) -> NDArray[np.float32]:
    # What this run computed is not in the set as it was when planned.
    locations = locate_again(layer, digests, n_failed=n_failed)
    found = np.flatnonzero(~locations.missing)
    stored = np.empty((len(found), *layer.row.shape), layer.row.dtype)
    wanted = StoredRows(
        folder=layer.features.folder,
        key=layer.features.key,
        locations=locations.select(found),
        digests=digests.array[found],
    )
    follow_rows(wanted, np.arange(len(found)), stored)
    flat = stored.reshape(len(found), math.prod(layer.row.shape))
    values = read_stored(flat).astype(np.float32, copy=False)
    if not n_failed:
        return values
    rows = np.full((len(digests), values.shape[1]), np.nan, np.float32)
    rows[found] = values
    return rows
