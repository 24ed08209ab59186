"""Does a network scale its pixels itself? Its own graph says so, whatever it is called."""

from __future__ import annotations

from collections.abc import Iterable

from permafrost.stages.backbones.calls import STARTS, Call

# Layers of Keras and operations of Keras and TensorFlow that leave the values of pixels what they
# are, where they are not training; geometry is no scaling. RGB turned into BGR is half of a
# preprocessing, so what picks or turns channels is not among them.
_KEEPING = (
    "AlphaDropout AveragePooling2D AvgPool BatchToSpaceND BroadcastTo Cast CenterCrop Concat"
    " ConcatV2 Concatenate CropImages Cropping2D Dropout ExpandDims Flatten GaussianDropout"
    " GaussianNoise Identity IdentityN InputLayer MaxPool MaxPooling2D MirrorPad Pack Pad PadImages"
    " PadV2 Permute RandomBrightness RandomContrast RandomCrop RandomFlip RandomRotation"
    " RandomShear RandomTranslation RandomZoom Repeat RepeatVector Reshape Resize ResizeBicubic"
    " ResizeBilinear ResizeNearestNeighbor Resizing SpaceToBatchND SpatialDropout2D Squeeze Stack"
    " StopGradient Tile Transpose UpSampling2D ZeroPadding2D"
)
# The first weights take the pixels as they were given; and a shape is no pixel.
_LEARNING = (
    "BatchMatMulV2 Conv2D Conv2DTranspose Dense DepthwiseConv2D DepthwiseConv2dNative EinsumDense"
    " MatMul SeparableConv2D Shape ShapeN"
)


def scales_input(calls: Iterable[Call]) -> bool:
    """Tell whether pixels meet anything that changes their values before the first weights.

    Parameters
    ----------
    calls : iterable of Call
        Of a whole network, inputs first.

    Returns
    -------
    bool
        True as well for what is not known to leave them alone, as a normalization in batches.
    """
    keeping, learning = set(_KEEPING.split()), set(_LEARNING.split())
    raw: set[str] = set()
    for call in calls:
        meets_pixels = not raw.isdisjoint(call.sources)
        if (call.kind in STARTS and not call.sources) or (meets_pixels and call.kind in keeping):
            raw.add(call.name)
        elif meets_pixels and call.kind not in learning:
            return True
    return False
