"""Blocks and folded arrays -> Graph.

In: layers (a whole network, or one block with path '') and the arrays named as weights.layout says.
Out: a Graph whose every shape has been checked. Rules kept: a block that is profiled alone and the same
block inside a deployed network are built by the same lines; nothing here depends on a file format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.graph.ir import Activation, Graph, Node, Op, Tensor
from ofa_edge.space.block import ACTIVATIONS, Layer
from ofa_edge.weights.layout import array_name, weight_shapes


def network(layers: Sequence[Layer], arrays: Mapping[str, np.ndarray]) -> Graph:
    """The graph of these layers, each fed by the one before.

    `arrays` may hold more than the layers need: a block is built alone out of a network's arrays by
    passing that one layer.

    Raises:
        UsageError: no layers, a block this version cannot build, a path used twice, or a layer whose
            input is not the output of the one before.
        BadFile: an array is missing, or has another type or shape, or is not finite.
    """
    if not layers:
        raise UsageError("a network needs at least one layer")
    first = layers[0].block
    source = Tensor("input", (1, first.in_channels, first.in_size, first.in_size))
    builder = _Builder(source, arrays)
    seen: set[str] = set()
    for layer in layers:
        if layer.path in seen:
            raise UsageError(f"two layers have the path {layer.path!r}")
        seen.add(layer.path)
        _check_block(layer)
        builder.add(layer)
    *body, last = builder.nodes
    output = Tensor("output", last.output.shape)
    nodes = (*body, replace(last, output=output))
    return Graph(source, output, nodes, builder.used)


def _check_block(layer: Layer) -> None:
    """Raises UsageError where the fields of a block do not go together."""
    block = layer.block
    where = f"layer {layer.path!r}" if layer.path else f"block {block.key}"

    def need(condition: bool, problem: str) -> None:
        if not condition:
            raise UsageError(f"{where}: {problem}", details={"block": block.key})

    weight_shapes(block)  # refuses unknown types
    need(block.bits == 32, f"the builder makes float32 layers, not {block.bits}-bit ones")
    need(block.activation in ACTIVATIONS, f"unknown activation {block.activation!r}")
    need(min(block.in_channels, block.out_channels, block.in_size) > 0, "channels and size must be positive")
    need(block.kernel > 0 and block.kernel % 2 == 1, f"kernel {block.kernel} is not odd")
    need(block.stride > 0, f"stride {block.stride} is not positive")
    same = block.stride == 1 and block.in_channels == block.out_channels
    need(same or not block.skip, "a skip needs stride 1 and as many channels out as in")
    need(block.type == "expanded_conv" or not block.se, f"a {block.type} has no SE")
    if block.type in ("expanded_conv", "bottleneck"):
        need(block.mid_channels > 0, f"{block.type} needs mid channels")
        return
    need(not block.mid_channels, f"a {block.type} has no mid channels")
    need(block.type == "Conv" or not block.skip, f"a {block.type} has no skip")
    if block.type in ("AvgPool2D", "Logits"):
        need(block.kernel == block.stride == 1, f"a {block.type} has no kernel or stride")
    if block.type in ("AvgPool2D", "MaxPool2D", "Logits"):
        need(block.activation == "none", f"a {block.type} has no activation")
    if block.type in ("AvgPool2D", "MaxPool2D"):
        need(block.in_channels == block.out_channels, "pooling keeps the number of channels")
    if block.type == "Logits":
        need(block.in_size == 1, "the classifier takes a 1 x 1 map: put AvgPool2D before it")


class _Builder:
    """Grows a graph layer by layer; `current` is the tensor that the next node reads."""

    def __init__(self, source: Tensor, arrays: Mapping[str, np.ndarray]):
        self.current = source
        self.nodes: list[Node] = []
        self.used: dict[str, np.ndarray] = {}
        self._arrays = arrays

    def add(self, layer: Layer) -> None:
        block = layer.block
        expected = (1, block.in_channels, block.in_size, block.in_size)
        if self.current.shape != expected:
            raise UsageError(
                f"layer {layer.path!r} takes {_text(expected)}, the layer before gives {_text(self.current.shape)}",
                details={"block": block.key},
            )
        writers: dict[str, Callable[[Layer], None]] = {
            "expanded_conv": self._expanded_conv,
            "bottleneck": self._bottleneck,
            "AvgPool2D": self._pool,
            "MaxPool2D": self._max_pool,
            "Logits": self._logits,
        }
        writers.get(block.type, self._convolution)(layer)

    # -- block types ------------------------------------------------------------------------------
    def _convolution(self, layer: Layer) -> None:
        entry = self.current
        self._conv(layer, "conv", Activation(layer.block.activation), stride=layer.block.stride)
        if layer.block.skip:
            self._plain(layer, "add", Op.ADD, (entry, self.current), entry.shape)

    def _expanded_conv(self, layer: Layer) -> None:
        block = layer.block
        entry, activation = self.current, Activation(block.activation)
        if block.mid_channels != block.in_channels:
            self._conv(layer, "expand", activation)
        self._conv(layer, "depthwise", activation, stride=block.stride, groups=block.mid_channels)
        if block.se:
            wide = self.current
            self._plain(layer, "se_mean", Op.MEAN, (wide,), (1, block.mid_channels, 1, 1))
            self._conv(layer, "se_reduce", Activation.RELU)
            self._conv(layer, "se_expand", Activation.H_SIGMOID)
            self._plain(layer, "se_scale", Op.SCALE, (wide, self.current), wide.shape)
        self._conv(layer, "project", Activation.NONE)
        if block.skip:
            self._plain(layer, "add", Op.ADD, (entry, self.current), entry.shape)

    def _bottleneck(self, layer: Layer) -> None:
        block = layer.block
        entry, activation = self.current, Activation(block.activation)
        self._conv(layer, "reduce", activation)
        self._conv(layer, "conv", activation, stride=block.stride)
        self._conv(layer, "expand", Activation.NONE)
        branch, self.current = self.current, entry
        if not block.skip:
            if block.stride > 1:
                shape = (1, block.in_channels, block.out_size, block.out_size)
                self._plain(layer, "average", Op.AVERAGE_POOL, (entry,), shape, side=block.stride, stride=block.stride)
            self._conv(layer, "downsample", Activation.NONE)
        self._plain(layer, "add", Op.ADD, (branch, self.current), branch.shape, activation)

    def _max_pool(self, layer: Layer) -> None:
        block = layer.block
        shape = (1, block.out_channels, block.out_size, block.out_size)
        self._plain(layer, "max", Op.MAX_POOL, (self.current,), shape, side=block.kernel, stride=block.stride)

    def _pool(self, layer: Layer) -> None:
        self._plain(layer, "mean", Op.MEAN, (self.current,), (1, layer.block.out_channels, 1, 1))

    def _logits(self, layer: Layer) -> None:
        weight, bias = self._pair(layer, "linear")
        name = array_name(layer.path, "linear")
        output = Tensor(name, (1, layer.block.out_channels))
        self._append(Node(name, Op.LINEAR, (self.current,), output, weight=weight, bias=bias))

    # -- nodes ------------------------------------------------------------------------------------
    def _conv(self, layer: Layer, conv: str, activation: Activation, *, stride: int = 1, groups: int = 1) -> None:
        weight, bias = self._pair(layer, conv)
        channels, _, kernel, _ = self.used[weight].shape
        _, _, height, width = self.current.shape
        name = array_name(layer.path, conv)
        output = Tensor(name, (1, channels, -(-height // stride), -(-width // stride)))
        self._append(
            Node(name, Op.CONV, (self.current,), output, activation, weight, bias, kernel, stride, groups),
        )

    def _plain(
        self,
        layer: Layer,
        name: str,
        op: Op,
        inputs: tuple[Tensor, ...],
        shape: tuple[int, ...],
        activation: Activation = Activation.NONE,
        *,
        side: int = 1,
        stride: int = 1,
    ) -> None:
        """A node without weights; pools have a `side` in pixels."""
        name = array_name(layer.path, name)
        self._append(Node(name, op, inputs, Tensor(name, shape), activation, kernel=side, stride=stride))

    def _append(self, node: Node) -> None:
        self.nodes.append(node)
        self.current = node.output

    def _pair(self, layer: Layer, conv: str) -> tuple[str, str]:
        """Check and take the weight and bias of one convolution; their names."""
        shape = weight_shapes(layer.block)[conv]
        names = (array_name(layer.path, conv, "weight"), array_name(layer.path, conv, "bias"))
        for name, wanted in zip(names, (shape, shape[:1]), strict=True):
            self.used[name] = _checked(self._arrays, name, wanted)
        return names


def _checked(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    hint = "the arrays are not those of this arch: cut them again from the checkpoint"
    array = arrays.get(name)
    if array is None:
        raise BadFile(f"there is no array {name!r}", hint=hint)
    if array.dtype != np.float32:
        raise BadFile(f"array {name!r} is {array.dtype}, not float32", hint=hint)
    if array.shape != shape:
        raise BadFile(f"array {name!r} is {_text(array.shape)}, the block needs {_text(shape)}", hint=hint)
    if not np.isfinite(array).all():
        raise BadFile(f"array {name!r} holds a value that is not a finite number", hint=hint)
    return array


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a scalar"
