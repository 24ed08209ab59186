"""``export``: the backbone up to the layer, its preprocessing and the head as one Keras model."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from permafrost.cache.disk.publish import make_folder, published
from permafrost.cache.store.recipe import Recipe
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.export.classifier import (
    Classifier,
    ClassifierPart,
    check_recipe,
    list_features,
    load_classifier,
    make_classifier,
)
from permafrost.pipeline.export.publishing import SAVED_MODEL, is_empty, list_files, publish_format
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.outputs import write_json
from permafrost.pipeline.planning.backbone import Backbone
from permafrost.pipeline.planning.recipe import DECODING
from permafrost.stages.backbones.applications import parse_backbone
from permafrost.stages.backbones.layers import parse_layer_spec
from permafrost.stages.datasets.targets import order_classes
from permafrost.stages.export.backbone_part import ExportPart, Images
from permafrost.stages.export.classifier import (
    build_classifier,
    check_layers,
    check_parts,
    describe_answer,
    flatten_model,
    save_classifier,
)
from permafrost.stages.export.formats import FORMATS, KERAS, choose_format
from permafrost.stages.heads import Head
from permafrost.warn import warn_once

# The member of a ``.keras`` file that says when it was written.
_ABOUT = "metadata.json"


def export(model: Path, out: Path, *, form: str | None = None) -> dict[str, object]:
    """Write what ``fit`` left in `model` as one Keras model that needs nothing of this project.

    Parameters
    ----------
    out : Path
        Beside it, in any format but Keras' own, ``<out>.json`` says what its outputs stand for.
    form : str, optional
        One of `stages.export.formats.FORMATS`; that of the suffix of `out` by default.

    Returns
    -------
    dict
        The file, its size in bytes, the shape of its input, and what its outputs stand for.

    Raises
    ------
    PipelineError, StageError
        The backbone is no longer the one that the head was fitted on, or cannot be exported.
    """
    form = check_export_file(out, form)
    classifier = load_classifier(model)
    parts = _load_parts(classifier)
    # Not earlier: until they are checked, the recipes may be anything.
    pixels = share_pixels([(part.layer, part.recipe) for part in classifier.parts])
    head = classifier.head
    order = order_classes(head.classes.tolist(), classifier.order)
    classes = head.classes[order].tolist()
    if classifier.views:
        warn_once(
            f"{str(model)!r} was fitted on the views {','.join(classifier.views)} of each image;"
            f" the exported model looks at {classifier.views[0]} alone"
        )
    network = build_classifier(parts, head, order=order)
    make_folder(out.absolute().parent)
    if form == KERAS:
        with published(out, is_same=_is_same_model) as temporary:
            save_classifier(network, temporary, task=head.task, classes=classes, pixels=pixels)
    else:
        publish_format(network, out, form)
        answer = describe_answer(task=head.task, classes=classes, pixels=pixels)
        write_json(out.with_name(f"{out.name}.json"), answer)
    return {
        "model": str(out),
        "format": form,
        "bytes": sum(file.stat().st_size for file in list_files(out, form)),
        "input_shape": list(network.input_shape[1:]),
        "task": head.task,
        "classes": classes,
        "pixels": pixels,
    }


def _is_same_model(one: Path, other: Path) -> bool:
    """Tell whether two ``.keras`` files differ at most in when they were written."""
    try:
        return _list_members(one) == _list_members(other)
    except (OSError, zipfile.BadZipFile, ValueError, LookupError):
        return False


def _list_members(file: Path) -> object:
    with zipfile.ZipFile(file) as archive:
        about = json.loads(archive.read(_ABOUT)) | {"date_saved": None}
        return about, {
            one.filename: (one.CRC, one.file_size)
            for one in archive.infolist()
            if one.filename != _ABOUT
        }


def write_backbone(out: Path, head: Head, record: Mapping[str, Any]) -> None:
    """Write a fitted network, from pixels on, as one flat Keras model: a backbone as any other.

    Parameters
    ----------
    out : Path
        Ends in ``.keras``.
    head : Head
        A network.
    record : mapping
        That of ``model.json``.

    Raises
    ------
    PipelineError, StageError
        The backbone is no longer the one that the head was fitted on, or cannot be exported.
    """
    classifier = make_classifier(head, record)
    network = flatten_model(build_classifier(_load_parts(classifier), head))
    check_layers(network)
    with published(out) as temporary:
        network.save(temporary)


def check_export_file(out: Path, form: str | None = None) -> str:
    """Return the format that a model is to be written in.

    Raises
    ------
    PipelineError, StageError
        None can be written there, or in that format.
    """
    form = choose_format(out, form)
    is_folder = not FORMATS[form].suffix
    if out.is_dir() and not is_folder:
        raise PipelineError(f"cannot export to {str(out)!r}, a folder; name a file")
    if is_folder and out.exists() and not (out / SAVED_MODEL).is_file() and not is_empty(out):
        raise PipelineError(
            f"{str(out)!r} is there, and no SavedModel; name a folder that is not there"
        )
    return form


def check_preset(features: FeatureOptions, form: str) -> None:
    """Raise InputError where a preset's layers cannot be exported; this loads the preset.

    KerasHub does not read back all of its own layers, which other formats do without.
    """
    if form != KERAS or not parse_backbone(features.backbone).preset:
        return
    backbone = Backbone(features)
    parts = [ClassifierPart(layer=str(s), recipe={}, features=features) for s in backbone.layers]
    check_parts([_load_part(part, features, backbone) for part in parts])


def share_pixels(layers: Sequence[tuple[str, Recipe]]) -> dict[str, object]:
    """Return what makes an image file the pixels that these layers were computed from.

    Raises
    ------
    PipelineError
        It is not the same for all of them.
    """
    (first, ours), *others = layers
    for layer, recipe in others:
        differing = [
            f"{name} {ours[name]} and {recipe[name]}"
            for name in DECODING
            if ours[name] != recipe[name]
        ]
        if differing:
            raise PipelineError(
                f"one model takes one image, but {first} and {layer} were extracted from different"
                f" ones ({', '.join(differing)}); extract both alike"
            )
    return {name: ours[name] for name in DECODING}


def _load_parts(classifier: Classifier) -> list[ExportPart]:
    """Load each backbone once, whatever the number of its layers."""
    wanted = list_features(classifier)
    backbones = {features: Backbone(features) for features in wanted}
    for features, part in zip(wanted, classifier.parts, strict=True):
        check_recipe(part, backbones[features])
    return [
        _load_part(part, features, backbones[features])
        for features, part in zip(wanted, classifier.parts, strict=True)
    ]


def _load_part(part: ClassifierPart, features: FeatureOptions, backbone: Backbone) -> ExportPart:
    layer = parse_layer_spec(part.layer)
    if layer.is_pixels:
        shape = (*backbone.card.size, backbone.card.channels)
        return ExportPart(
            network=Images(input_shape=shape), layer=layer, preprocess="none", view=features.view
        )
    return ExportPart(
        network=backbone.load(),
        layer=layer,
        preprocess=backbone.preprocess,
        view=features.view,
        dtype=features.dtype,
    )
