"""A TensorFlow SavedModel folder as a backbone: its signature as one frozen graph.

Written by ``model.export(folder)`` in Keras 3 or ``model.save(folder)`` in Keras 2. The graph is
data: it may compute on tensors, and every operation is on a list of those that do only that.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from permafrost.stages.backbones.calls import CHANNEL_AXES, LAST, Call
from permafrost.stages.backbones.channels import find_channel_axes
from permafrost.stages.backbones.input_scaling import scales_input
from permafrost.stages.backbones.layers import BackboneCard, LayerCard
from permafrost.stages.backbones.network import Weights, refuse_images
from permafrost.stages.errors import InputError, WeightsError, in_one_line
from permafrost.stages.frameworks.start import check_tensorflow
from permafrost.stages.shortcuts.choice import Hold, Shortcuts

# A size of batches that no axis has by chance, for which shapes are computed.
_BATCH = 6871
_SIGNATURES = ("serving_default", "serve")
_REMEDY = "save the model as a .keras file with model.save('model.keras')"
# What loading restores without running any of the folder's own functions. Tables, assets and
# custom savers are others: their initializers would run, and may read and write files.
_PASSIVE_OBJECTS = {"user_object", "variable", "constant", "function", "bare_concrete_function"}
# Operations that do nothing but compute on tensors. An allow-list, since TensorFlow has some 1,500
# operations, and those that reach files, processes or Python are not marked as such.
_PLAIN_OPERATIONS = (
    "Abs Add AddN AddV2 All Any ArgMax AvgPool BatchMatMulV2 BatchToSpaceND BiasAdd "
    "BroadcastArgs BroadcastTo Cast Ceil ClipByValue Concat ConcatV2 Const Conv2D "
    "DepthToSpace DepthwiseConv2dNative Einsum Elu Equal Erf Erfc Exp ExpandDims Expm1 Fill "
    "Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV3 GatherNd GatherV2 Greater "
    "GreaterEqual Identity IdentityN LeakyRelu Less LessEqual Log Log1p LogSoftmax LogicalAnd "
    "LogicalNot LogicalOr LRN MatMul Max MaxPool Maximum Mean Min Minimum MirrorPad Mul Neg "
    "NoOp NotEqual OneHot Pack Pad PadV2 Placeholder Pow Prod Range RealDiv Reciprocal Relu "
    "Relu6 Reshape ResizeBicubic ResizeBilinear ResizeNearestNeighbor ReverseV2 Round Rsqrt "
    "Select SelectV2 Selu Shape ShapeN Sigmoid Sign Slice Softmax Softplus Softsign "
    "SpaceToBatchND SpaceToDepth Split SplitV Sqrt Square SquaredDifference Squeeze "
    "StopGradient StridedSlice Sub Sum Tanh Tile Transpose Unpack Where ZerosLike"
)


class SavedNetwork:
    """A frozen graph as a backbone; see `stages.backbones.network.Network`.

    Parameters
    ----------
    graph_def : tf.compat.v1.GraphDef
        One placeholder of images, the weights as constants, no functions.
    outputs : dict of str to str
        The operation that gives each of the signature's outputs.
    """

    def __init__(self, graph_def: Any, outputs: dict[str, str]) -> None:
        self._graph_def = graph_def
        self._input = next(node for node in graph_def.node if node.op == "Placeholder")
        self.name, scopes = _find_scopes(graph_def)
        self._operations = {**scopes, **outputs}
        self.size = (0, 0)  # Known once a request has met the shape of the input.

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of one input, without the batch axis; None where any size is taken."""
        sizes = [axis.size for axis in self._input.attr["shape"].shape.dim]
        return tuple(None if size < 0 else size for size in sizes[1:])

    def describe(self) -> BackboneCard:
        """Note each layer's output shape and digest; see `Network.describe`."""
        digests = self.digest_layers()
        layers = {
            name: LayerCard(
                shape=shape, digest=digests[name], channel_axis=self.find_channel_axis(name)
            )
            for name, shape in self._shapes.items()
        }
        return BackboneCard(
            name=self.name,
            size=self.size,
            channels=self.input_shape[2] or 3,
            scales_input=scales_input(self._calls),
            takes_integers=self._dtype.is_integer,
            layers=layers,
        )

    def digest_layers(self) -> dict[str, str]:
        """Return the layers' digests; see `Network.digest_layers`."""
        graph, tensors = self._import_for(None)
        digests = _digest_operations(graph)
        return {name: digests[tensor.op.name] for name, tensor in tensors.items()}

    def find_tokens(self, layer: str) -> None:
        """Return nothing: which tokens are which is not in a graph."""

    def find_channel_axis(self, layer: str) -> int:
        """Return where a layer's channels are; see `Network.find_channel_axis`."""
        return self._channel_axes.get(self._operations[layer], LAST)

    @cached_property
    def _calls(self) -> list[Call]:
        return list(_list_calls(self._graph_def))

    @cached_property
    def _channel_axes(self) -> dict[str, int]:
        return find_channel_axes(self._calls)

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each layer that gives one row an image, without the batch's axis.

        For a batch of unknown size TensorFlow loses shapes, as behind Dense on more than one axis;
        for one that is known it computes them. What has rows of another number gives no features.
        """
        _, tensors = self._import_for(_BATCH)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        return {
            name: tuple(shape[1:])
            for name, shape in shapes.items()
            if shape.is_fully_defined() and shape.rank > 1 and shape[0] == _BATCH
        }

    @property
    def _dtype(self) -> Any:
        import tensorflow as tf

        return tf.as_dtype(self._input.attr["dtype"].type)

    def _import_for(self, n_images: int | None) -> tuple[Any, dict[str, Any]]:
        """Return a graph for images of the size that was asked for, and each layer's tensor."""
        import tensorflow as tf

        shape = (*self.size, self.input_shape[2] or 3)
        with tf.Graph().as_default() as graph:
            images = tf.compat.v1.placeholder(tf.float32, (n_images, *shape))
            try:
                return graph, self._import(images, list(self._operations))
            except ValueError as error:
                raise refuse_images(self.name, shape, error) from error

    @property
    def normalizes(self) -> bool:
        """False, as no shortcuts are taken."""
        return False

    @property
    def ways(self) -> frozenset[str]:
        """None: there is no other way through a graph that exists already."""
        return frozenset()

    def read_weights(self) -> Weights:
        """Return nothing: the weights are constants of the graph."""
        return [], []

    def trace(
        self,
        inputs: Any,
        layers: Sequence[str],
        *,
        weights: Weights,
        hold: Hold,
        shortcuts: Shortcuts,
    ) -> dict[str, Any]:
        """Put the graph, weights and all, into the one being built; see `Network.trace`."""
        found = self._import(inputs, layers)
        for layer, tensor in found.items():
            tensor.set_shape((None, *self._shapes[layer]))
        return found

    def _import(self, inputs: Any, layers: Sequence[str]) -> dict[str, Any]:
        import tensorflow as tf

        cast = inputs if inputs.dtype == self._dtype else tf.cast(inputs, self._dtype)
        tensors = tf.import_graph_def(
            self._graph_def,
            input_map={f"{self._input.name}:0": cast},
            return_elements=[f"{self._operations[layer]}:0" for layer in layers],
            name="savedmodel",
        )
        return dict(zip(layers, tensors, strict=True))


def load_saved_model(path: Path) -> SavedNetwork:
    """Load a SavedModel's signature.

    Raises
    ------
    WeightsError
        Not a SavedModel, or one that does more than compute on tensors.
    InputError
        A signature that does not take one image; or Keras runs on another backend.
    """
    check_tensorflow()
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    _check_objects(path)
    try:
        loaded = tf.saved_model.load(path)
        signature = next(loaded.signatures[k] for k in _SIGNATURES if k in loaded.signatures)
        # This inlines every function, and runs nothing.
        frozen = convert_variables_to_constants_v2(signature)
    except StopIteration:
        raise WeightsError(
            f"{str(path)!r} has no signature {_SIGNATURES[0]!r}; {_REMEDY}"
        ) from None
    except Exception as error:  # TensorFlow raises whatever its parsers raise.
        raise WeightsError(
            f"{str(path)!r} cannot be loaded as a SavedModel: {in_one_line(error)}; {_REMEDY}"
        ) from error
    graph_def = frozen.graph.as_graph_def()
    _check_operations(graph_def, path)
    _check_input(frozen.inputs, path)
    outputs = [tensor.op.name for tensor in frozen.outputs]
    return SavedNetwork(
        graph_def, dict(zip(sorted(signature.structured_outputs), outputs, strict=True))
    )


def _check_objects(path: Path) -> None:
    """Refuse a folder whose loading would run something, before it is loaded."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    try:
        saved = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    except Exception as error:  # Protobuf has its own, and no types.
        raise WeightsError(f"{str(path)!r} is no SavedModel folder; name a .keras file") from error
    for meta_graph in saved.meta_graphs:
        nodes = meta_graph.object_graph_def.nodes
        active = {node.WhichOneof("kind") for node in nodes} - _PASSIVE_OBJECTS
        active |= {"saver" for node in nodes if node.saveable_objects or node.registered_saver}
        if active or not nodes:
            what = (
                f"holds {', '.join(map(str, sorted(active)))}" if active else "is of TensorFlow 1"
            )
            raise WeightsError(f"{str(path)!r} {what}, which is not loaded; {_REMEDY}")


def _check_operations(graph_def: Any, path: Path) -> None:
    nodes = [*graph_def.node, *(n for f in graph_def.library.function for n in f.node_def)]
    others = sorted({node.op for node in nodes} - set(_PLAIN_OPERATIONS.split()))
    if others:
        raise WeightsError(
            f"{str(path)!r} runs {', '.join(others[:5])}, which is not plain computing on tensors;"
            f" {_REMEDY}"
        )


def _check_input(inputs: Sequence[Any], path: Path) -> None:
    is_image = len(inputs) == 1 and inputs[0].shape.rank == 4
    if not is_image or not (inputs[0].dtype.is_floating or inputs[0].dtype.is_integer):
        takes = ", ".join(f"{tensor.dtype.name} {tensor.shape}" for tensor in inputs)
        raise InputError(f"{str(path)!r} takes {takes}, not a batch of images; {_REMEDY}")
    if inputs[0].shape[0] is not None:
        raise InputError(f"{str(path)!r} takes {inputs[0].shape[0]} images at a time; {_REMEDY}")


def _find_scopes(graph_def: Any) -> tuple[str, dict[str, str]]:
    """Return the model's name, and the operation that each layer's scope ends with.

    An operation is named ``StatefulPartitionedCall/model/outer/inner/Relu``, and Keras 3 numbers
    the scopes of an export: ``model_1/outer_1/inner_1/Relu``, ``model_1/bn_1/batchnorm/mul``.
    """
    paths = dict(_list_paths(graph_def))
    roots = {scopes[0] for scopes in paths.values()}
    root = roots.pop() if len(roots) == 1 else ""
    inside = {name: scopes[1:] if root else scopes for name, scopes in paths.items()}
    number = re.search(r"_\d+$", root)
    suffix = number[0] if number else ""
    if not all(re.search(r"_\d+$", scopes[0]) for scopes in inside.values() if scopes):
        suffix = ""
    layers = {}
    for name, scopes in inside.items():
        for depth, scope in enumerate(scopes, start=1):
            if scope.endswith(suffix):
                layers["/".join(part.removesuffix(suffix) for part in scopes[:depth])] = name
    return root.removesuffix(suffix) or "savedmodel", layers


def _list_paths(graph_def: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield each operation that gives one row an image, inputs first, with its scopes."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    for operation in graph.get_operations():
        shape = operation.outputs[0].shape if operation.outputs else tf.TensorShape(())
        inside = re.sub(r"^((Stateful)?PartitionedCall(_\d+)?/)+", "", operation.name)
        scopes = inside.split("/")[:-1]
        if scopes and scopes[0] != "Func" and shape.rank and shape.rank > 1 and shape[0] is None:
            yield operation.name, scopes


def _list_calls(graph_def: Any) -> Iterator[Call]:
    import tensorflow as tf

    constants = {node.name: node for node in graph_def.node if node.op == "Const"}
    for node in graph_def.node:
        sources = tuple(name.removeprefix("^").split(":")[0] for name in node.input)
        axes = constants.get(sources[1]) if node.op == "Transpose" else None
        yield Call(
            name=node.name,
            kind=node.op,
            sources=sources,
            channel_axis=CHANNEL_AXES.get(_read_format(node)),
            moves=() if axes is None else tuple(tf.make_ndarray(axes.attr["value"].tensor)),
        )


def _read_format(node: Any) -> str:
    # Looked up where there is none, it would be there from then on.
    return str(node.attr["data_format"].s.decode()) if "data_format" in node.attr else ""


def _digest_operations(graph: Any) -> dict[str, str]:
    """Digest each operation with all that it is computed from, whatever their names."""
    digests: dict[str, str] = {}
    for operation in graph.get_operations():
        running = hashlib.sha256(operation.type.encode())
        for name, value in sorted(operation.node_def.attr.items()):
            content = value.SerializeToString(deterministic=True)
            if not name.startswith("_"):
                running.update(f" {name} {len(content)} ".encode() + content)
        for tensor in operation.inputs:
            running.update(f" {digests[tensor.op.name]}:{tensor.value_index}".encode())
        digests[operation.name] = running.hexdigest()
    return digests
