"""The second part of an exported model: from layers to the head's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from permafrost.stages.backbones.layers import pool_outputs
from permafrost.stages.datasets.targets import REGRESSION
from permafrost.stages.errors import InputError
from permafrost.stages.export.backbone_part import ExportPart
from permafrost.stages.heads import HEADS, CalibratedHead, Calibration, LinearForm
from permafrost.stages.heads.calibration.calibration import ISOTONIC, LEAST_OF_FLOAT32, TEMPERATURE
from permafrost.stages.heads.head import check_widths

_ACTIVATIONS = {"softmax": "softmax", "sigmoid": "sigmoid", "identity": "linear"}


def join_features(
    parts: Sequence[ExportPart], activations: Sequence[Mapping[str, Any]], head: Any
) -> Any:
    """Pool each part's activations, scale it if the head does so, and join them side by side.

    Raises
    ------
    InputError
        The head scales layer by layer, and was fitted on layers of other widths.
    """
    from keras import layers

    numbered = enumerate(zip(activations, parts, strict=True), start=1)
    features = [_pool(activation, part, number=n) for n, (activation, part) in numbered]
    check_widths(head, [one.shape[1] for one in features])
    if getattr(head, "widths", ()):
        features = [
            layers.UnitNormalization(dtype="float32", name=f"l2_{number}")(one)
            for number, one in enumerate(features, start=1)
        ]
    if len(features) == 1:
        return features[0]
    return layers.Concatenate(dtype="float32", name="features")(features)


def _pool(activations: Mapping[str, Any], part: ExportPart, *, number: int) -> Any:
    """Pool, flatten, and round as storing does."""
    from keras import layers, ops

    kept = pool_outputs(ops, part.layer, activations, part.network)
    flatten = layers.Flatten("channels_last", dtype="float32", name=f"features_{number}")
    pooled = flatten(kept)
    if part.dtype == "float32":
        return pooled
    return layers.Identity(dtype=part.dtype, name=f"features_{number}_{part.dtype}")(pooled)


def apply_head(head: Any, features: Any) -> Any:
    """Put the head, calibrated if it is, behind the features."""
    if isinstance(head, CalibratedHead):
        return _apply_calibrated(head, features)
    network = getattr(head, "network", None)
    if network is not None:
        return network(features, training=False)
    form = head.linear_form()
    if form is None:
        others = [name for name, kind in HEADS.items() if not kind.keeps_rows]
        raise InputError(
            f"the head {head.kind!r} consists of training rows and cannot be exported; fit one of"
            f" {', '.join(others)}"
        )
    name = "value" if head.task == REGRESSION else "probabilities"
    return _apply_linear(form, features, name=name)


def _apply_calibrated(head: CalibratedHead, features: Any) -> Any:
    """Put a head and its calibration behind the features; into the weights, where that is the same.

    Raises
    ------
    InputError
        The calibration is no formula.
    """
    found = head.calibration
    if found.method == ISOTONIC:
        raise InputError(
            "a head with an isotonic calibration cannot be exported; fit it with --calibrate"
            " temperature or sigmoid"
        )
    form = getattr(head.base, "linear_form", lambda: None)()
    if form is not None and len(found.curves) == 1:
        return _apply_linear(_calibrate_form(form, found), features, name="probabilities")
    return _calibrate_outputs(apply_head(head.base, features), found)


def _calibrate_form(form: LinearForm, found: Calibration) -> LinearForm:
    """Return the linear form whose answer is the calibrated one."""
    if found.method == TEMPERATURE:
        slope, offset = float(found.curves[0][0]), 0.0
        return replace(form, weights=slope * form.weights, bias=slope * form.bias)
    slope, offset = found.curves[0].tolist()
    weights, bias = slope * np.diff(form.weights, axis=1), slope * np.diff(form.bias) + offset
    return replace(
        form, weights=np.hstack([0 * weights, weights]), bias=np.concatenate([[0], bias])
    )


def _calibrate_outputs(outputs: Any, found: Calibration) -> Any:
    """Do what `Calibration.apply` does, in float32, with layers and operations of Keras."""
    from keras import layers, ops

    least = max(found.floor, LEAST_OF_FLOAT32)
    logs = ops.log(ops.maximum(outputs, least))
    curves = np.stack(found.curves)
    n_classes = outputs.shape[1]
    if found.method == TEMPERATURE:
        weights, bias = curves[0][0] * np.eye(n_classes), np.zeros(n_classes)
        return _multiply(logs, weights, bias, activation="softmax", name="calibrated")
    if len(curves) == 1:
        slope, offset = curves[0]
        weights, bias = np.array([[0, -slope], [0, slope]]), np.array([0, offset])
        return _multiply(logs, weights, bias, activation="softmax", name="calibrated")
    others = _multiply(outputs, 1 - np.eye(n_classes), np.zeros(n_classes), name="others")
    odds = layers.Subtract(name="odds")([logs, ops.log(ops.maximum(others, least))])
    raised = _multiply(
        odds, np.diag(curves[:, 0]), curves[:, 1], activation="sigmoid", name="raised"
    )
    total = ops.sum(raised, axis=1, keepdims=True)
    return ops.divide(raised, ops.maximum(total, LEAST_OF_FLOAT32))


def _multiply(
    values: Any, weights: Any, bias: Any, *, name: str, activation: str = "linear"
) -> Any:
    from keras import layers

    dense = layers.Dense(len(bias), activation=activation, dtype="float32", name=name)
    outputs = dense(values)
    dense.set_weights([weights, bias])
    return outputs


def _apply_linear(form: LinearForm, features: Any, *, name: str) -> Any:
    """Scale and multiply.

    Features are centred in float32 before they are divided, which is exact where it matters:
    where the mean is large beside the deviations. The division is multiplied into the weights in
    float64, and what the means lost as float32 comes back with the bias.
    """
    from keras import layers

    weights, bias = form.weights, form.bias
    if form.mean is not None and form.std is not None:
        weights = weights / form.std[:, None]
        mean = form.mean.astype(np.float32)
        bias = bias - (form.mean - mean) @ weights
        features = _build_centring(mean)(features)
    elif form.scale == "l2":
        features = layers.UnitNormalization(dtype="float32", name="l2")(features)
    return _multiply(features, weights, bias, activation=_ACTIVATIONS[form.link], name=name)


def _build_centring(mean: Any) -> Any:
    from keras import layers

    # Given as arguments, the numbers would be text in the model's configuration.
    centre = layers.Normalization(dtype="float32", name="centre")
    centre.build((None, len(mean)))
    centre.set_weights([mean, np.ones_like(mean), np.array(0)])
    centre.finalize_state()
    return centre
