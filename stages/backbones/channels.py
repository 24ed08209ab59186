"""Which axis of a layer's output is its channels? The graph says so.

Images come with their channels last. A layer with a data format says where they are in what it
takes and gives; what moves axes takes them along; what lays values out anew loses them, and then
the layers that are called on its result tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from permafrost.stages.backbones.calls import LAST, STARTS, Call

# After these, an axis is no longer what it was.
_LOSING = (
    "BatchToSpaceND Dot Einsum ExpandDims Flatten MatMul Moveaxis Pack RepeatVector Reshape"
    " SpaceToBatchND Squeeze Stack Swapaxes Transpose Unpack"
)


def find_channel_axes(calls: Sequence[Call]) -> dict[str, int]:
    """Find the axis of the channels in what each call gives, the batch's axis counted.

    Parameters
    ----------
    calls : sequence of Call
        Of a whole network, inputs first.

    Returns
    -------
    dict of str to int
        By the names of the calls; only of those whose channels are not last.
    """
    losing = set(_LOSING.split())
    axes: dict[str, int] = {}
    for call in calls:
        axis = _follow(call, axes, losing=losing)
        if axis is not None:
            axes[call.name] = axis
    for call in reversed(calls):
        taken = call.channel_axis
        if taken is None and not call.moves and call.kind not in losing:
            taken = axes.get(call.name)
        for source in call.sources:
            if taken is not None:
                axes.setdefault(source, taken)
    return {name: axis for name, axis in axes.items() if axis != LAST}


def _follow(call: Call, axes: Mapping[str, int], *, losing: set[str]) -> int | None:
    """Return the axis of what a call gives, if that or what it is called on tells."""
    known = [axes[source] for source in call.sources if source in axes]
    if call.moves and known:
        rank = len(call.moves)
        place = call.moves.index(known[0] % rank)
        return LAST if place == rank - 1 else place
    if call.kind in losing:
        return None
    if call.channel_axis is not None:
        return call.channel_axis
    return known[0] if known else LAST if call.kind in STARTS else None
