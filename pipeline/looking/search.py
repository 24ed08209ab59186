"""``search``: the images that are most like another one, or like what a text says."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import open_cache
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.export.classifier import ClassifierPart, check_recipe
from permafrost.pipeline.looking.nearest import is_other, list_nearest
from permafrost.pipeline.looking.one_image import OneImage, open_image, read_outputs
from permafrost.pipeline.options import FeatureOptions, RunOptions, declare
from permafrost.pipeline.outputs import write_rows
from permafrost.pipeline.parsers import read_whole
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.tables import Table
from permafrost.pipeline.tasks.layer_matrix import StoredLayer
from permafrost.pipeline.tasks.rows import FeatureFiles
from permafrost.stages.evaluation.neighbours import measure_cosines
from permafrost.stages.matrices.matrix import require_texts

_COLUMNS = ("rank", "similarity", "label", "path")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What is sought, and where.

    Attributes
    ----------
    features : tuple of Path
        The images.
    layer : str
        What they are compared by: a layer spec, or several joined by ``+``.
    text : str, optional
        In place of an image.
    image : Path, optional
        In place of a text.
    n : int
        How many images are listed.
    out : Path, optional
        A CSV file for them.
    cache : Path
    run : RunOptions
        How the image is computed.
    """

    features: tuple[Path, ...]
    layer: str
    text: str | None = declare(None, metavar="TEXT", help="what is to be seen in the images")
    image: Path | None = field(
        default=None,
        metadata={"type": Path, "metavar": "FILE", "help": "an image, of these or another"},
    )
    n: int = declare(20, flag="-n", type=read_whole, metavar="N", help="how many images")
    out: Path | None = field(
        default=None, metadata={"type": Path, "metavar": "FILE.csv", "help": "a table of them"}
    )
    cache: Path
    run: RunOptions

    def __post_init__(self) -> None:
        if (self.text is None) == (self.image is None):
            raise PipelineError("search for --text, or for --image: give one of the two")
        if self.text is not None and not self.text.strip():
            raise PipelineError("--text '' says nothing; say what is to be seen in the images")
        if self.n < 1:
            raise PipelineError(f"-n {self.n}: list at least 1 image")
        if self.out is not None and self.out.is_dir():
            raise PipelineError(f"--out {str(self.out)!r} is a folder; name a file in it")


def search(options: SearchOptions) -> tuple[list[str | Table], dict[str, Any]]:
    """Find the images whose features have the largest cosines with those of an image, or a text.

    The image itself, known by its bytes, is not among them; of several views the first counts.

    Returns
    -------
    list of str or Table
        For a person.
    dict
        As JSON.

    Raises
    ------
    StageError, CacheError, PipelineError
        There is no such layer or image, texts cannot be compared with the layer, or the backbone is
        no longer the one that the features are of.
    """
    image = None if options.image is None else open_image(options.image)
    with FeatureFiles(options.features) as files:
        layers = files.find_layers(options.layer)
        matrix = files.open_matrix(layers)
        if image is None:
            above = require_texts(matrix.origin, "--text")
            query = above.embed_texts([str(options.text)]).vectors[0]
        else:
            query = _read_image(options, image, files, layers)
        cosines = measure_cosines(matrix, np.arange(len(files)), query)
        others = is_other(files, image.digest if image else bytes(32))
        found = list_nearest(files, cosines, among=others, column="label", n=options.n)
        root, n_images = files.opened[0].place, int(others.sum())
    ranked = list(enumerate(found, start=1))
    if options.out is not None:
        rows = [(rank, one.similarity, one.label, one.path) for rank, one in ranked]
        write_rows(options.out, _COLUMNS, rows)
    named = None if options.image is None else str(options.image)
    parts: list[str | Table] = [
        f"{named or repr(options.text)}: the {len(found)} most alike of {n_images} images, by"
        f" {options.layer}",
        Table(
            header=(">rank", ">similarity", "label", "path"),
            rows=[(str(n), f"{one.similarity:.4f}", one.label, one.path) for n, one in ranked],
        ),
        *([] if options.out is None else [f"→ {options.out}"]),
    ]
    figures = {"text": options.text, "image": named, "layer": options.layer, "root": root}
    images = [{"rank": rank, **one.to_dict()} for rank, one in ranked]
    return parts, figures | {"compared": n_images, "images": images}


def _read_image(
    options: SearchOptions, image: OneImage, files: FeatureFiles, layers: list[StoredLayer]
) -> NDArray[Any]:
    """Return the features of an image by the recipes of some layers, side by side."""
    parts = [
        ClassifierPart(
            layer=str(layer.spec),
            recipe=layer.recipe,
            features=FeatureOptions.from_json(json.dumps(files.read_origin(layer))),
        )
        for layer in layers
    ]
    with Index(open_cache(options.cache).index_file) as index:
        for part in parts:
            check_recipe(part, Backbone(part.features, index), is_fitted=False)
    outputs = read_outputs(
        [(part.features, part.layer) for part in parts],
        image,
        cache=options.cache,
        run=options.run,
        scratch=Path(tempfile.gettempdir()),
    )
    return np.concatenate([one.values.ravel() for one in outputs])
