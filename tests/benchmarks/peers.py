"""What people use instead, as command lines: the Keras idiom, and PyTorch's feature extractor."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from permafrost.pipeline.options import FeatureOptions
from permafrost.stages.backbones.applications import APPLICATIONS, parse_backbone
from permafrost.stages.backbones.layers import LayerSpec, parse_layer_specs

HERE = Path(__file__).parent


class NoPeerError(Exception):
    """A peer cannot do what is asked; says why."""


def _name_vgg_nodes(*pools: int) -> Mapping[str, str]:
    return {f"block{block}_pool": f"features.{node}" for block, node in enumerate(pools, 1)}


def _name_resnet_nodes(*units: int) -> Mapping[str, str]:
    outputs = {f"conv{stage}_block{n}_out": f"layer{stage - 1}" for stage, n in enumerate(units, 2)}
    return {"conv1_relu": "relu", "pool1_pool": "maxpool", **outputs}


# Layers of Keras → nodes of torchvision's model of the same name. Its ResNets have their strides
# in the 3×3 convolutions and not in the 1×1 ones, which is 6 % more work.
TORCH_NODES: Mapping[str, Mapping[str, str]] = {
    "vgg16": _name_vgg_nodes(4, 9, 16, 23, 30),
    "vgg19": _name_vgg_nodes(4, 9, 18, 27, 36),
    "resnet50": _name_resnet_nodes(3, 4, 6, 3),
    "resnet101": _name_resnet_nodes(3, 4, 23, 3),
    "resnet152": _name_resnet_nodes(3, 8, 36, 3),
    "mobilenet_v2": {"out_relu": "features.18"},
}


@dataclass(frozen=True, slots=True)
class PeerJob:
    """What is asked of a peer.

    Attributes
    ----------
    features : FeatureOptions
    folder, out : Path
        The photos, and the file to write.
    """

    features: FeatureOptions
    folder: Path
    out: Path

    @property
    def size(self) -> list[str]:
        """Height and width of the network's input."""
        name = parse_backbone(self.features.backbone).name
        if self.features.size:
            return [str(side) for side in self.features.size]
        return [str(APPLICATIONS[name].size)] * 2


def command_idiom(job: PeerJob) -> list[str]:
    """Return the command line of the Keras idiom, always in float32."""
    backbone = parse_backbone(job.features.backbone)
    if backbone.is_saved:
        raise NoPeerError(f"{backbone.name!r} is a file, and the idiom is for keras.applications")
    weights = job.features.weights
    return [
        *(sys.executable, str(HERE / "keras_idiom.py"), str(job.folder), str(job.out)),
        *("--model", APPLICATIONS[backbone.name].function),
        *("--arguments", json.dumps(dict(backbone.options)), "--size", *job.size),
        *("--layers", ",".join(map(str, parse_layer_specs(job.features.layers)))),
        *(() if weights == "random" else ("--weights", weights)),
    ]


def command_torch(job: PeerJob, python: Path | None, *options: str) -> list[str]:
    """Return the command line of PyTorch's extractor, always with random weights.

    Parameters
    ----------
    job : PeerJob
    python : Path, optional
        An interpreter that has torchvision.
    *options : str
        Of ``torch_extractor.py``.
    """
    if python is None:
        raise NoPeerError("PyTorch is not installed here; name its interpreter with --torch-python")
    backbone = parse_backbone(job.features.backbone)
    nodes = {} if backbone.options else TORCH_NODES.get(backbone.name, {})
    specs = [_rename(spec, nodes, str(backbone)) for spec in parse_layer_specs(job.features.layers)]
    return [
        *(str(python), str(HERE / "torch_extractor.py"), str(job.folder), str(job.out)),
        *("--model", backbone.name, "--size", *job.size, "--nodes", ",".join(specs), *options),
    ]


def _rename(spec: LayerSpec, nodes: Mapping[str, str], backbone: str) -> str:
    if spec.layer not in nodes:
        known = ", ".join(nodes) or "none"
        raise NoPeerError(
            f"{spec.layer} of {backbone} is not mapped to torchvision; known: {known}"
        )
    return str(LayerSpec(nodes[spec.layer], spec.pooling))
