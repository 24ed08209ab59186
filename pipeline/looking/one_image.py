"""One image's maps: out of the cache, or through the network as any other image."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.disk.publish import make_folder, temporary_folder
from permafrost.cache.views.features import Features
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.extraction.extract import extract
from permafrost.pipeline.options import DatasetOptions, ExtractOptions, FeatureOptions, RunOptions
from permafrost.pipeline.planning.dataset import Dataset
from permafrost.pipeline.planning.hashing import explain_os_error
from permafrost.stages.backbones.calls import LAST
from permafrost.stages.datasets.digests import Digests
from permafrost.stages.datasets.manifest import Manifest
from permafrost.stages.datasets.texts import Texts
from permafrost.stages.errors import InputError
from permafrost.stages.matrices.matrix import read_stored
from permafrost.stages.sources.boxes import Box, find_box, identify_row
from permafrost.stages.sources.folder import FolderSource


@dataclass(frozen=True, slots=True, kw_only=True)
class OneImage:
    """An image file, or a box in it: where it lies, its bytes, and the row's id."""

    file: Path
    data: bytes
    digest: bytes

    @property
    def box(self) -> Box | None:
        """The part of the file that is the image; None where that is all of it."""
        return find_box(self.file.name)

    @property
    def dataset(self) -> Dataset:
        """The image as a dataset of one row."""
        manifest = Manifest(
            root=str(self.file.parent),
            paths=Texts.of([self.file.name]),
            labels=[""],
            splits=[""],
            digests=Digests.of([self.digest]),
        )
        return Dataset(
            manifest=manifest, source=FolderSource(manifest.root).make_absolute(), unreadable={}
        )


def open_image(file: Path) -> OneImage:
    """Read an image file, or ``photo.jpg#xywh=…`` of one; `PipelineError` where that cannot be."""
    try:
        data = FolderSource(str(file.parent)).read(file.name)
    except OSError as error:
        raise PipelineError(
            f"--image {str(file)!r} cannot be read ({explain_os_error(error)}); name an image file"
        ) from error
    digest = identify_row(file.name, hashlib.sha256(data).digest())
    return OneImage(file=file, data=data, digest=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOutput:
    """What one layer gives of one image.

    Attributes
    ----------
    values : ndarray of float, of the layer's own shape
    channel_axis : int
        Of `values`.
    """

    values: NDArray[Any]
    channel_axis: int

    def check(self, layer: str) -> None:
        """Raise InputError unless it has height, width and channels."""
        if self.values.ndim != 3:
            raise InputError(
                f"the layer {layer!r} has no height and width to draw, its output is"
                f" {self.values.shape}; name one that has, as the command layers lists them"
            )


def read_outputs(
    wanted: Sequence[tuple[FeatureOptions, str]],
    image: OneImage,
    *,
    cache: Path,
    run: RunOptions,
    scratch: Path,
) -> list[LayerOutput]:
    """Return what layers give of an image, before any pooling.

    What the cache does not have is computed, and kept there as of any extraction.

    Parameters
    ----------
    wanted : sequence of (FeatureOptions, str)
        How features are asked for, and the layer; of several views, the first counts.
    image : OneImage
    cache : Path
    run : RunOptions
    scratch : Path
        A folder for what is gone at the end.
    """
    keys = [
        (dataclasses.replace(features, layers=("-",), view=features.views[0]), layer)
        for features, layer in wanted
    ]
    found: dict[tuple[FeatureOptions, str], LayerOutput] = {}
    make_folder(scratch)
    with temporary_folder(scratch) as folder:
        for bare in dict.fromkeys(bare for bare, _ in keys):
            layers = tuple(dict.fromkeys(layer for one, layer in keys if one == bare))
            options = ExtractOptions(
                dataset=DatasetOptions(images=str(image.file.parent), split="none"),
                features=dataclasses.replace(bare, layers=layers),
                cache=cache,
                run=dataclasses.replace(run, materialize=False),
            )
            extract(options, folder / "features.h5", dataset=image.dataset)
            with Features(folder / "features.h5") as opened:
                found |= {(bare, layer): _read(opened, layer) for layer in layers}
    return [found[key] for key in keys]


def _read(opened: Features, layer: str) -> LayerOutput:
    axis = opened.recipe(layer).get("channel_axis", LAST)
    return LayerOutput(
        values=read_stored(opened.read(layer, np.array([0]))[0]),
        channel_axis=axis - 1 if isinstance(axis, int) and axis > 0 else -1,
    )
