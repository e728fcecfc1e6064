"""Graph -> TFLite bytes.

In: a Graph. Out: a self-contained flatbuffer for LiteRT and tflite-runtime, float32, NHWC inside and at its borders,
input "input" and output "output". Rules kept: no TRANSPOSE and no RESHAPE; ReLU and ReLU6 are fused, HARD_SWISH is an
operator; XNNPACK takes every operator, so that a network is one partition; equal graphs give equal bytes; the schema's
classes come with ai-edge-litert and are loaded when something is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ofa_edge.errors import UsageError
from ofa_edge.graph import passes
from ofa_edge.graph.flatbuffer import File
from ofa_edge.graph.ir import Activation, Graph, Node, Op, Tensor

# A file for all sizes is written as for this one, so that its bytes depend on no other: any that the layers allow.
_ANY_SIZE = 32

# The version of DEQUANTIZE that takes half precision.
_DEQUANTIZE_HALF = 3

_FUSED = {Activation.RELU: "RELU", Activation.RELU6: "RELU6", Activation.H_SIGMOID: "RELU6"}
_RECTIFIERS = (Activation.RELU, Activation.RELU6, Activation.H_SIGMOID)
_Pads = Sequence[tuple[int, int]]


def to_bytes(graph: Graph, *, symbolic: bool = False, rectified: bool = False, half: bool = False) -> bytes:
    """Write a graph.

    Args:
        symbolic: H and W of the input may be any (`Interpreter.resize_tensor_input`, which costs no latency), and the
            bytes do not depend on the size the graph was built at. The classifier alone takes a 1 x 1 map and keeps it.
        rectified: the input has no negative values, as behind a ReLU; a maximum over it is then padded with zeros.
        half: weights are stored in half precision (passes.halved rounds them so that nothing is lost here) behind a
            DEQUANTIZE, which XNNPACK does once, when it loads the file; biases stay as they are.

    Raises:
        UsageError: an average over windows that TFLite would place in another way.
        ModuleNotFoundError: ai-edge-litert is not installed (the extra [litert]).
    """
    graph = passes.for_runtime(graph, "litert")
    free = symbolic and not any(node.op is Op.LINEAR and node.inputs[0] == graph.input for node in graph.nodes)
    return _Writer(_resized(graph) if free else graph, free, rectified, half).bytes()


def _resized(graph: Graph) -> Graph:
    """The same layers for _ANY_SIZE."""
    shapes: dict[str, tuple[int, ...]] = {graph.input.name: (*graph.input.shape[:2], _ANY_SIZE, _ANY_SIZE)}

    def sized(tensor: Tensor) -> Tensor:
        return replace(tensor, shape=shapes[tensor.name])

    nodes = []
    for node in graph.nodes:
        inputs = tuple(map(sized, node.inputs))
        shape = node.output.shape
        if node.op is Op.ADD or node.op is Op.SCALE:
            shape = inputs[0].shape
        elif node.op not in (Op.MEAN, Op.LINEAR):
            shape = (*shape[:2], *(-(-side // node.stride) for side in inputs[0].shape[2:]))
        shapes[node.output.name] = shape
        nodes.append(replace(node, inputs=inputs, output=sized(node.output)))
    return replace(graph, input=sized(graph.input), output=sized(graph.output), nodes=tuple(nodes))


class _Writer:
    """One file in the making. Names made here hold a '/', names of layers and arrays do not."""

    def __init__(self, graph: Graph, free: bool, rectified: bool, half: bool):
        self._graph = graph
        self._free = free
        self._half = half
        self._file = File()
        self._makers = {node.output.name: node for node in graph.nodes}
        self._rectified = rectified

    def bytes(self) -> bytes:
        graph, file = self._graph, self._file
        self._tensor(graph.input.name, graph.input.shape)
        for node in graph.nodes:
            self._node(node)
        return file.bytes([graph.input.name], [graph.output.name])

    # -- layers -----------------------------------------------------------------------------------
    def _node(self, node: Node) -> None:
        """The operators of one layer, its activation fused or behind it."""
        self._tensor(node.output.name, node.output.shape)
        output = node.output.name
        unfused = node.activation in (Activation.H_SWISH, Activation.H_SIGMOID)
        if unfused:
            output = f"{node.name}/linear"
            self._tensor(output, node.output.shape)
        writers = {
            Op.CONV: self._conv,
            Op.MAX_POOL: self._max_pool,
            Op.AVERAGE_POOL: self._average_pool,
            Op.MEAN: self._mean,
            Op.LINEAR: self._linear,
        }
        writers.get(node.op, self._pairwise)(node, output)
        if node.activation is Activation.H_SWISH:
            self._file.operator("HARD_SWISH", [output], [node.output.name], "HardSwishOptions")
        elif node.activation is Activation.H_SIGMOID:
            # The layer gave relu6(x + 3).
            sixth = self._file.constant("sixth/", np.asarray(1 / 6, np.float32))
            self._file.operator("MUL", [output, sixth], [node.output.name], "MulOptions", **self._act(Activation.NONE))

    def _conv(self, node: Node, output: str) -> None:
        file, arrays = self._file, self._graph.arrays
        weight, bias = arrays[node.weight], arrays[node.bias]
        if node.activation is Activation.H_SIGMOID:
            bias = bias + np.float32(3)
        above, left = (weight.shape[2] - 1) * node.row_dilation // 2, node.kernel // 2
        source, padding = node.inputs[0].name, "SAME"
        if not self._same_is_even(node, 1 + 2 * above, 1 + 2 * left):
            source, padding = self._padded(node, [(above, above), (left, left)]), "VALID"
        depthwise = node.groups > 1
        order = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
        constants = [self._weight(node.weight, weight.transpose(order)), file.constant(node.bias, bias)]
        file.operator(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            [source, *constants],
            [output],
            "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions",
            padding=file.enum("Padding", padding),
            strideH=node.stride,
            strideW=node.stride,
            dilationHFactor=node.row_dilation,
            dilationWFactor=1,
            **({"depthMultiplier": 1} if depthwise else {}),
            **self._act(node.activation),
        )

    def _same_is_even(self, node: Node, *spans: int) -> bool:
        """Whether 'SAME' means the same padding on both sides, which is ours, at this size (or any, where free)."""
        if node.stride == 1 or max(spans) == 1:
            return True
        if self._free:
            return False
        sides = node.inputs[0].shape[2:]
        overhang = [
            (-(-side // node.stride) - 1) * node.stride + span - side for side, span in zip(sides, spans, strict=True)
        ]
        return all(over == span - 1 for over, span in zip(overhang, spans, strict=True))

    def _padded(self, node: Node, pads: _Pads) -> str:
        """The node's input with a border of zeros; XNNPACK makes it part of the convolution that reads it."""
        name, source = f"{node.name}/padded", node.inputs[0]
        sides = [side + sum(pad) for side, pad in zip(source.shape[2:], pads, strict=True)]
        self._tensor(name, (*source.shape[:2], *sides))
        amounts = self._file.constant(f"{node.name}/pads", np.asarray([(0, 0), *pads, (0, 0)], np.int32))
        self._file.operator("PAD", [source.name, amounts], [name], "PadOptions")
        return name

    def _max_pool(self, node: Node, output: str) -> None:
        source, padding = node.inputs[0].name, "SAME"
        if not self._same_is_even(node, node.kernel, node.kernel):
            pad, padding = node.kernel // 2, "VALID"
            maker = self._makers.get(source)
            if self._rectified if maker is None else maker.activation in _RECTIFIERS:
                source = self._padded(node, [(pad, pad)] * 2)
            else:
                source = self._repeated_edges(node, pad)
        self._pool("MAX_POOL_2D", node, source, output, padding)

    def _repeated_edges(self, node: Node, pad: int) -> str:
        """The node's input with its outermost rows and columns repeated, which changes no maximum.

        XNNPACK takes neither MIRROR_PAD nor PADV2, but slices with ends counted from the end.
        """
        if pad > 1:
            raise UsageError(
                f"layer {node.name!r}: a maximum over {node.kernel} x {node.kernel} cannot be padded in TFLite"
            )
        source, shape = node.inputs[0].name, list(node.inputs[0].shape)
        for axis, at in ((1, 2), (2, 3)):  # of NHWC, and of our shapes
            edges = []
            for end in ("first", "last"):
                name = f"{node.name}/{end}{axis}"
                self._tensor(name, (*shape[:at], 1, *shape[at + 1 :]))
                self._edge(source, name, axis, last=end == "last")
                edges.append(name)
            shape[at] += 2
            name = f"{node.name}/wider{axis}"
            self._tensor(name, tuple(shape))
            options = {"axis": axis, **self._act(Activation.NONE)}
            self._file.operator(
                "CONCATENATION", [edges[0], source, edges[1]], [name], "ConcatenationOptions", **options
            )
            source = name
        return source

    def _edge(self, source: str, output: str, axis: int, *, last: bool) -> None:
        begin, end = [0] * 4, [0] * 4
        begin[axis], end[axis] = (-1, 0) if last else (0, 1)
        # A bit says that the axis is taken from its beginning, or to its end.
        masks = {"beginMask": 15 & ~(last << axis), "endMask": 15 & ~((not last) << axis)}
        bounds = [
            self._file.constant(f"{output}/{name}", np.asarray(value, np.int32))
            for name, value in (("begin", begin), ("end", end), ("step", [1] * 4))
        ]
        self._file.operator("STRIDED_SLICE", [source, *bounds], [output], "StridedSliceOptions", **masks)

    def _average_pool(self, node: Node, output: str) -> None:
        """Windows side by side from the first pixel on; the last may reach over the edge and averages what is inside.
        'SAME' puts at most one pixel of that overhang behind, the next one before."""
        sides = node.inputs[0].shape[2:]
        if max(node.stride - 1 if self._free else -side % node.stride for side in sides) > 1:
            raise UsageError(
                f"layer {node.name!r}: TFLite has no average over windows of {node.stride} with an edge of its own",
                hint="write ONNX, or an input size that the windows divide",
            )
        self._pool("AVERAGE_POOL_2D", node, node.inputs[0].name, output, "SAME")

    def _pool(self, operator: str, node: Node, source: str, output: str, padding: str) -> None:
        self._file.operator(
            operator,
            [source],
            [output],
            "Pool2DOptions",
            padding=self._file.enum("Padding", padding),
            strideH=node.stride,
            strideW=node.stride,
            filterHeight=node.kernel,
            filterWidth=node.kernel,
            **self._act(node.activation),
        )

    def _mean(self, node: Node, output: str) -> None:
        axes = self._file.constant("axes/", np.asarray([1, 2], np.int32))
        self._file.operator("MEAN", [node.inputs[0].name, axes], [output], "ReducerOptions", keepDims=True)

    def _linear(self, node: Node, output: str) -> None:
        """FULLY_CONNECTED flattens what it reads."""
        arrays = self._graph.arrays
        constants = [
            self._weight(node.weight, arrays[node.weight]),
            self._file.constant(node.bias, arrays[node.bias]),
        ]
        self._file.operator(
            "FULLY_CONNECTED",
            [node.inputs[0].name, *constants],
            [output],
            "FullyConnectedOptions",
            **self._act(node.activation),
        )

    def _pairwise(self, node: Node, output: str) -> None:
        name = {Op.ADD: "ADD", Op.SCALE: "MUL"}[node.op]
        inputs = [tensor.name for tensor in node.inputs]
        self._file.operator(name, inputs, [output], f"{name.title()}Options", **self._act(node.activation))

    # -- parts ------------------------------------------------------------------------------------
    def _weight(self, name: str, array: np.ndarray) -> str:
        """The tensor that holds weights in single precision, stored in half where that was asked for."""
        if not self._half:
            return self._file.constant(name, array)
        stored = self._file.constant(f"{name}/half", array.astype(np.float16))
        self._file.tensor(name, array.shape)
        self._file.operator("DEQUANTIZE", [stored], [name], "DequantizeOptions", version=_DEQUANTIZE_HALF)
        return name

    def _act(self, activation: Activation) -> dict[str, Any]:
        return {"fusedActivationFunction": self._file.enum("ActivationFunctionType", _FUSED.get(activation, "NONE"))}

    def _tensor(self, name: str, shape: tuple[int, ...]) -> None:
        """A value of NCHW `shape`."""
        dims = (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape
        signature = None
        if self._free and len(shape) == 4 and shape[2:] != (1, 1):
            signature = (dims[0], -1, -1, dims[3])
        self._file.tensor(name, dims, signature)
