"""How far other engines and precisions are from TensorFlow in float32, on the user's images."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np

from permafrost.cache.store.records import Parity, read_record, write_record
from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.forward.batch import load_batch, split_batches
from permafrost.pipeline.forward.views import run_views
from permafrost.pipeline.options import FeatureOptions
from permafrost.pipeline.planning.missing import LayerPlan
from permafrost.pipeline.planning.prepare import Preparation
from permafrost.pipeline.planning.remembered import recall_records
from permafrost.stages.engines.program import HalvingProgram, ProgramSpec
from permafrost.stages.engines.registry import name_reference, open_reference
from permafrost.stages.shortcuts.differences import Run, measure_errors

# Few: the reference is the slow program. Measured with two MobileNets in bfloat16, the mean errors
# of 8 photos are those of 64 to within a fifth, the largest to within a third.
SAMPLE_IMAGES = 8


def is_reference(options: FeatureOptions) -> bool:
    """Tell whether the features are the reference itself."""
    return (options.engine, options.precision) == ("tensorflow", "float32")


def note_parity(
    options: FeatureOptions, prepared: Preparation, program: Run, spec: ProgramSpec
) -> None:
    """Compare a program with the reference once for each feature set, and record the errors.

    Parameters
    ----------
    options : FeatureOptions
    prepared : Preparation
    program : callable
        Of the network, see `run_views`.
    spec : ProgramSpec
        Of the program; the reference computes the same in float32.

    Raises
    ------
    PipelineError
        The precision's range is too small for a layer.
    """
    active = prepared.plan.of_network
    if is_reference(options) or all(read_record(one.features.folder, Parity) for one in active):
        return
    sample = _load_sample(prepared)
    if not len(sample):
        return
    plain = replace(spec, precision="float32")
    run = partial(run_views, batch=sample, layers=active, spec=spec)
    # The reference first, and gone before the program takes its own memory at its first batch.
    with closing(open_reference(prepared.backbone.load(), plain)) as reference:
        expected = run(HalvingProgram(reference))
    errors = measure_errors(lambda _: run(program), lambda _: expected, [sample])
    for layer, (max_error, mean_error) in zip(active, errors, strict=True):
        if not math.isfinite(max_error + mean_error):
            raise PipelineError(
                f"--precision {options.precision}: layer {layer.spec} has values beyond its range;"
                " use bfloat16 or float32"
            )
        parity = Parity(
            reference=name_reference(),
            images=len(sample),
            max_error=max_error,
            mean_error=mean_error,
        )
        write_record(layer.features.folder, parity)


def _load_sample(prepared: Preparation) -> np.ndarray:
    """Decode images from all over the plan: a folder's first ones may all be of one class."""
    plan = prepared.plan
    n_images = min(SAMPLE_IMAGES, len(plan.digests))
    rows = np.linspace(0, len(plan.digests) - 1, n_images).astype(int)
    (task,) = split_batches(plan.paths, plan.digests, rows, batch_size=n_images)
    batch = load_batch(
        prepared.dataset.source, task, spec=prepared.decode, isolation=prepared.isolation
    )
    sample: np.ndarray = batch.pixels[batch.readable]
    return sample


def read_parities(options: FeatureOptions, layers: list[LayerPlan]) -> dict[str, Parity]:
    """Return what is known of each layer; nothing where the features are the reference."""
    if is_reference(options):
        return {}
    return recall_records(layers, Parity)


def describe_parity(layer: str, parity: Parity) -> str:
    """Return a line for people."""
    return (
        f"{layer} against {parity.reference} and float32, on {parity.images} images: relative error"
        f" {parity.max_error:.1e} at most, {parity.mean_error:.1e} on average"
    )
