"""``show --image X --model DIR``: where a linear head looks, and what it takes the image for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permafrost.cache.store.index import Index
from permafrost.cache.store.layout import open_cache
from permafrost.pipeline.export.classifier import (
    Classifier,
    check_recipe,
    load_classifier,
    locate_files,
)
from permafrost.pipeline.looking.nearest import Neighbour, find_neighbours
from permafrost.pipeline.looking.one_image import OneImage, open_image, read_outputs
from permafrost.pipeline.looking.photos import Photos
from permafrost.pipeline.options import FeatureOptions, RunOptions
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.tables import Table
from permafrost.pipeline.tasks.rows import JOINED_BY
from permafrost.stages.backbones.layers import LayerSpec, parse_layer_spec
from permafrost.stages.datasets.targets import REGRESSION
from permafrost.stages.evaluation.class_maps import (
    PartMap,
    check_poolings,
    find_linear_form,
    map_classes,
)

MOST_CLASSES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class LookOptions:
    """What is looked at.

    Attributes
    ----------
    image : Path
    model : Path
        What ``fit`` wrote.
    features : tuple of Path
        Where neighbours are sought; by default what the model was fitted on.
    cache : Path
    run : RunOptions
    out : Path
        The picture.
    """

    image: Path
    model: Path
    features: tuple[Path, ...] = ()
    cache: Path
    run: RunOptions
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassView:
    """What a head says of one class.

    Attributes
    ----------
    name : str
        The class; of a regression, the column.
    score : float
        What scikit-learn decides by, or the value.
    probability : float or None
        None of a regression.
    maps : tuple of ndarray of float64, shape (h, w)
        Of each layer; the sum over all positions of all is the score.
    neighbours : tuple of Neighbour
        The most alike images of this class, the nearest first.
    """

    name: str
    score: float
    probability: float | None
    maps: tuple[NDArray[np.float64], ...]
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a head sees in an image.

    Attributes
    ----------
    image : OneImage
    layer, head, task : str
    features : FeatureOptions
        Of the first layer: how the network saw the image.
    size : tuple of int
        Height and width of its input.
    classes : tuple of ClassView
        The likeliest first, at most `MOST_CLASSES`.
    n_classes : int
        Of the head.
    photos : Photos
        Those of the neighbours.
    missing : str
        Why there are no neighbours.
    """

    image: OneImage
    layer: str
    head: str
    task: str
    features: FeatureOptions
    size: tuple[int, int]
    classes: tuple[ClassView, ...]
    n_classes: int
    photos: Photos
    missing: str

    @property
    def root(self) -> str:
        """Where the neighbours' paths start."""
        return next(iter(self.photos.roots), "")

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as a JSON object; maps as lists of rows, the top first."""
        classes = [
            {
                "class": one.name,
                "score": one.score,
                "probability": one.probability,
                "maps": [part.tolist() for part in one.maps],
                "neighbours": [neighbour.to_dict() for neighbour in one.neighbours],
            }
            for one in self.classes
        ]
        told = {"what": "image", "head": self.head, "layer": self.layer, "task": self.task}
        return {"thing": str(self.image.file)} | told | {"classes": classes, "root": self.root}

    def describe(self) -> list[str | Table]:
        """Return the classes, and the nearest images of each, for a person."""
        is_value = self.task == REGRESSION
        header = ("value", ">score") if is_value else ("class", ">score", ">probability")
        rows = [
            (
                one.name,
                f"{one.score:.3f}",
                *([] if one.probability is None else [f"{one.probability:.4f}"]),
            )
            for one in self.classes
        ]
        parts: list[str | Table] = [
            f"{self.image.file}: {self.head} on {self.layer}",
            Table(header=header, rows=rows),
        ]
        if len(self.classes) < self.n_classes:
            parts.append(f"… {self.n_classes} classes in all")
        nearest = [
            (one.name, f"{each.similarity:.3f}", each.path, each.label, each.split)
            for one in self.classes
            for each in one.neighbours
        ]
        if nearest:
            names = ("nearest", ">cosine", "image", "label", "split")
            parts += ["", Table(header=names, rows=nearest)]
        return parts + ([self.missing] if self.missing else [])


def look(options: LookOptions) -> Look:
    """Find out where a linear head looks.

    Raises
    ------
    StageError, CacheError, PipelineError
        The head is not linear, a layer has no positions, or the backbone is no longer the one that
        the head was fitted on.
    """
    image, classifier = open_image(options.image), load_classifier(options.model)
    head = classifier.head
    find_linear_form(head)
    specs = [parse_layer_spec(part.layer) for part in classifier.parts]
    check_poolings([spec.pooling for spec in specs])
    size = _check_backbones(classifier, options.cache)
    parts = _read_parts(options, image, classifier, specs)
    features = np.concatenate([part.features for part in parts]).astype(np.float32)
    said, maps = head.predict(features[np.newaxis])[0], map_classes(head, parts)
    is_value = head.task == REGRESSION
    names = [classifier.target] if is_value else head.classes.tolist()
    order = np.argsort(-said, kind="stable")[:MOST_CLASSES].tolist()
    shown = [names[place] for place in order]
    photos, nearest, missing = _find_nearest(options, classifier, features, image, shown)
    return Look(
        image=image,
        layer=JOINED_BY.join(part.layer for part in classifier.parts),
        head=head.kind,
        task=head.task,
        features=classifier.parts[0].features,
        size=size,
        classes=tuple(
            ClassView(
                name=names[place],
                score=float(sum(one[..., place].sum() for one in maps)),
                probability=None if is_value else float(said[place]),
                maps=tuple(one[..., place] for one in maps),
                neighbours=neighbours,
            )
            for place, neighbours in zip(order, nearest, strict=True)
        ),
        n_classes=len(names),
        photos=photos,
        missing=missing,
    )


def _check_backbones(classifier: Classifier, cache: Path) -> tuple[int, int]:
    """Check that all backbones are those of the fit; return height and width of the first."""
    with Index(open_cache(cache).index_file) as index:
        backbones = [Backbone(part.features, index) for part in classifier.parts]
        for part, backbone in zip(classifier.parts, backbones, strict=True):
            check_recipe(part, backbone)
        return backbones[0].card.size


def _read_parts(
    options: LookOptions, image: OneImage, classifier: Classifier, specs: Sequence[LayerSpec]
) -> list[PartMap]:
    """Return the maps of the layers that the head was fitted on; refuse what has none."""
    outputs = read_outputs(
        [
            (part.features, str(LayerSpec(spec.layer)))
            for part, spec in zip(classifier.parts, specs, strict=True)
        ],
        image,
        cache=options.cache,
        run=options.run,
        scratch=options.out.absolute().parent,
    )
    for spec, output in zip(specs, outputs, strict=True):
        output.check(spec.layer)
    return [
        PartMap(values=one.values, pooling=spec.pooling, channel_axis=one.channel_axis)
        for one, spec in zip(outputs, specs, strict=True)
    ]


def _find_nearest(
    options: LookOptions,
    classifier: Classifier,
    features: NDArray[np.float32],
    image: OneImage,
    names: Sequence[str],
) -> tuple[Photos, list[tuple[Neighbour, ...]], str]:
    """Return where images lie, the nearest of each class, and why there are none."""
    files = options.features or tuple(locate_files(options.model))
    if options.features or (files and all(file.is_file() for file in files)):
        return *find_neighbours(files, classifier, features, image.digest, names=names), ""
    why = "the features that it was fitted on are not there; name them with --features F.h5"
    return Photos(), [()] * len(names), why
