"""Layers of several views of each image: what is learnt from all of them, and told of one."""

from __future__ import annotations

from collections.abc import Sequence

from permafrost.pipeline.errors import PipelineError
from permafrost.pipeline.tasks.layer_matrix import StoredLayer


def list_views(layers: Sequence[StoredLayer], *, averages: bool = False) -> tuple[str, ...]:
    """Return the views of layers that stand side by side; the first is that of single predictions.

    Parameters
    ----------
    layers : sequence of StoredLayer
    averages : bool
        Whether predictions are to be averaged over them.

    Raises
    ------
    PipelineError
        The layers have different views, or there is one alone to be averaged.
    """
    first, *others = layers
    for other in others:
        if other.views != first.views and len(first.views + other.views) > 2:
            raise PipelineError(
                f"{first.spec} has the views {','.join(first.views)}, and {other.spec}"
                f" {','.join(other.views)}; extract both with the same --view"
            )
    if averages:
        check_several(first.views, what=f"layer {first.spec} is of")
    return first.views


def check_several(views: Sequence[str], *, what: str) -> None:
    """Raise PipelineError where there is nothing to average; `what` has so few views."""
    if len(views) < 2:
        raise PipelineError(
            f"{what} the view {views[0]!r} alone; extract with --view identity,hflip, or drop"
            " --average-views"
        )
