"""Graph -> ONNX bytes.

In: a Graph. Out: a self-contained model, opset 17 and IR version 8 (old runtimes on old devices read it),
float32, input "input" and output "output" in NCHW. Rules kept: equal graphs give equal bytes (no time, no
tool version, a fixed order); ReLU6 is a Clip with constant limits, which ONNX Runtime fuses into the Conv; weights in
half precision go through a Cast, which ONNX Runtime does once, when it loads the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ofa_edge.graph import passes
from ofa_edge.graph.ir import Activation, Graph, Node, Op, Tensor

OPSET = 17
IR_VERSION = 8

# Names made here hold a '/', names of layers and arrays a '.', so they never meet.
_RELU6_LIMITS = {"relu6/min": 0.0, "relu6/max": 6.0}
_Dims = tuple[int | str, ...]


def to_bytes(graph: Graph, *, symbolic: bool = False, half: bool = False) -> bytes:
    """Write a graph.

    With `symbolic` the input's H and W are the free dimensions "h" and "w" in place of numbers, so that
    one file serves all resolutions and its bytes do not depend on the one it was built at; a runtime pins
    them before it optimises. The classifier alone takes a 1 x 1 map and keeps it.

    With `half` weights are stored in half precision (passes.halved rounds them so that nothing is lost here); biases,
    a hundredth of them, stay as they are, and so does everything that is computed.
    """
    graph = passes.for_runtime(graph, "onnxruntime")
    nodes = [written for node in graph.nodes for written in _nodes(node, graph)]
    stored = {node.weight for node in graph.nodes if node.weight} if half else set()
    constants = [
        _constant(f"{name}/half" if name in stored else name, array, half=name in stored)
        for name, array in graph.arrays.items()
    ]
    nodes = [_widening(name) for name in graph.arrays if name in stored] + nodes
    if any(node.activation is Activation.RELU6 for node in graph.nodes):
        constants += [_constant(name, np.asarray(value, np.float32)) for name, value in _RELU6_LIMITS.items()]
    first, last = _free_dims(graph) if symbolic else (graph.input.shape, graph.output.shape)
    proto = helper.make_graph(
        nodes,
        "ofa-edge",
        [helper.make_tensor_value_info(graph.input.name, TensorProto.FLOAT, first)],
        [helper.make_tensor_value_info(graph.output.name, TensorProto.FLOAT, last)],
        constants,
    )
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="ofa-edge"
    )
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _free_dims(graph: Graph) -> tuple[_Dims, _Dims]:
    """Input and output shape with H and W named wherever the layers allow any size.

    An output that is 4 times smaller is named "h_4", "w_4" (sizes round up, as 'same' padding does).
    """
    scale: dict[Tensor, int] = {graph.input: 1}  # how many times smaller than the input; pooled maps are absent
    for node in graph.nodes:
        before = scale.get(node.inputs[0])
        if node.op is Op.LINEAR and before is not None:
            return graph.input.shape, graph.output.shape
        if node.op is not Op.MEAN and before is not None:
            scale[node.output] = before * node.stride
    first: _Dims = (*graph.input.shape[:2], "h", "w")
    if (factor := scale.get(graph.output)) is None:
        return first, graph.output.shape
    suffix = f"_{factor}" if factor > 1 else ""
    return first, (*graph.output.shape[:2], f"h{suffix}", f"w{suffix}")


def _nodes(node: Node, graph: Graph) -> list[onnx.NodeProto]:
    """The ONNX nodes of one layer: the operator, then its activation."""
    plain = node.activation is Activation.NONE
    inputs = [tensor.name for tensor in node.inputs]
    output = node.output.name if plain else f"{node.name}/linear"
    if node.op is Op.CONV:
        rows = graph.arrays[node.weight].shape[2]
        pads = [(rows - 1) * node.row_dilation // 2, node.kernel // 2]
        dilated: dict[str, Any] = {"dilations": [node.row_dilation, 1]} if node.row_dilation > 1 else {}
        written = [
            helper.make_node(
                "Conv",
                [*inputs, node.weight, node.bias],
                [output],
                name=node.name,
                kernel_shape=[rows, node.kernel],
                strides=[node.stride] * 2,
                pads=pads * 2,
                group=node.groups,
                **dilated,
            )
        ]
    elif node.op is Op.LINEAR:
        flat = f"{node.name}/flat"
        written = [
            helper.make_node("Flatten", inputs, [flat], name=flat),
            helper.make_node("Gemm", [flat, node.weight, node.bias], [output], name=node.name, transB=1),
        ]
    elif node.op in (Op.MAX_POOL, Op.AVERAGE_POOL):
        written = [_pool(node, inputs, output)]
    else:
        operator = {Op.MEAN: "GlobalAveragePool", Op.SCALE: "Mul", Op.ADD: "Add"}[node.op]
        written = [helper.make_node(operator, inputs, [output], name=node.name)]
    return written if plain else [*written, _activation(node, output)]


def _pool(node: Node, inputs: list[str], output: str) -> onnx.NodeProto:
    """A maximum is padded as a convolution is; an average's last window may reach over the edge instead."""
    largest = node.op is Op.MAX_POOL
    edges: dict[str, Any] = {"pads": [node.kernel // 2] * 4} if largest else {"ceil_mode": 1}
    return helper.make_node(
        "MaxPool" if largest else "AveragePool",
        inputs,
        [output],
        name=node.name,
        kernel_shape=[node.kernel] * 2,
        strides=[node.stride] * 2,
        **edges,
    )


def _activation(node: Node, source: str) -> onnx.NodeProto:
    name, target = f"{node.name}/{node.activation}", [node.output.name]
    if node.activation is Activation.RELU6:
        return helper.make_node("Clip", [source, *_RELU6_LIMITS], target, name=name)
    if node.activation is Activation.H_SIGMOID:
        return helper.make_node("HardSigmoid", [source], target, name=name, alpha=1 / 6, beta=0.5)
    operator = {Activation.RELU: "Relu", Activation.H_SWISH: "HardSwish"}[node.activation]
    return helper.make_node(operator, [source], target, name=name)


def _widening(name: str) -> onnx.NodeProto:
    """Single precision of weights that are stored in half."""
    return helper.make_node("Cast", [f"{name}/half"], [name], name=f"{name}/cast", to=TensorProto.FLOAT)


def _constant(name: str, array: np.ndarray, *, half: bool = False) -> TensorProto:
    data = np.ascontiguousarray(array, dtype="<f2" if half else "<f4").reshape(array.shape).tobytes()
    return helper.make_tensor(name, TensorProto.FLOAT16 if half else TensorProto.FLOAT, array.shape, data, raw=True)
