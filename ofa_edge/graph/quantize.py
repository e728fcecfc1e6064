"""Float model files -> int8 model files, static: weights a scale a channel, activations a scale a tensor.

In: the bytes that onnx.py or tflite.py wrote, and inputs to calibrate on. Out: bytes of the same format, for the same
sizes as before. Rules kept: ONNX goes through ONNX Runtime's own quantiser (QDQ nodes, which its CPU kernels fuse),
TFLite through ai-edge-quantizer; what would cut a network into several XNNPACK partitions stays float; equal inputs
give equal bytes. Times do not depend on the values: for profiling any input calibrates as well as another.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from ofa_edge.graph import check
from ofa_edge.graph.quiet import quiet

Activations = Literal["uint8", "int8"]
"""What activations are in an ONNX file. x86-64's instructions multiply unsigned by signed bytes: there int8 took three
times as long as uint8. ARM's multiply bytes of one sign. A TFLite file's are int8 always."""

# Integers at the border of a block alone: any scale will do where nobody reads the values.
_BORDER_SCALE = 1 / 32


# LiteRT 2.3: XNNPACK's delegate takes these in float only.
_KEPT_FLOAT = ("HARD_SWISH", "AVERAGE_POOL_2D")


def onnx_int8(
    model: bytes,
    inputs: np.ndarray,
    *,
    activations: Activations = "uint8",
    weight_bits: int = 8,
    integer_input: bool = False,
    integer_output: bool = False,
) -> bytes:
    """Quantise an ONNX file.

    Args:
        inputs: float32 (N, C, H, W), each run alone; of any size that the file takes.
        activations: type of the activations; weights are int8.
        weight_bits: of these, 7 or 8: with 8 the kernels for x86-64 CPUs without VNNI add two products in 16 bits and
            saturate.
        integer_input, integer_output: no conversion from and to float there, as at the borders of a block inside a
            network; the file's input or output is then of the type of the activations.

    Raises:
        BadFile: not a model we run.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    proto = check.load(model)
    kinds = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    with tempfile.TemporaryDirectory(prefix="ofa-edge-") as folder, quiet():
        path = Path(folder, "int8.onnx")
        quantize_static(
            proto,
            str(path),
            _reader(proto.graph.input[0].name, inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=kinds[activations],
            weight_type=QuantType.QInt8,
            reduce_range=weight_bits < 8,
        )
        found = onnx.load_model_from_string(path.read_bytes())
    elem = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}[activations]
    if integer_input:
        _take_integers(found.graph, elem)
    if integer_output:
        _give_integers(found.graph, elem)
    found.ir_version = proto.ir_version
    found.producer_name, found.producer_version = proto.producer_name, proto.producer_version
    data: bytes = found.SerializeToString(deterministic=True)
    return data


def tflite_int8(model: bytes, inputs: np.ndarray) -> bytes:
    """Quantise a TFLite file; its input and output are int8 then, with a scale and a zero point.

    Operators that XNNPACK takes in float alone stay float between a DEQUANTIZE and a QUANTIZE; in int8 they would end
    its partition (a block with h-swish at 28 x 28 x 240 took 2.1 ms so, .64 ms in float, .37 ms this way).

    Args:
        inputs: float32 (N, C, H, W), each run alone; of any size that the file takes.

    Raises:
        ModuleNotFoundError: ai-edge-quantizer is not installed (the extra [quantize]).
    """
    from ai_edge_quantizer import quantizer, recipe

    kept = [{"regex": ".*", "operation": name, "algorithm_key": "no_quantize", "op_config": {}} for name in _KEPT_FLOAT]
    work = quantizer.Quantizer(bytearray(model), [*recipe.static_wi8_ai8(), *kept])
    statistics: dict[str, Any] = {}
    with quiet():
        for one in inputs:
            image = np.ascontiguousarray(one[None].transpose(0, 2, 3, 1))
            _widen(statistics, work.calibrate({"serving_default": [{"input": image}]}, num_threads=1))
        return bytes(work.quantize(statistics).quantized_model)


def _widen(statistics: dict[str, Any], found: Mapping[str, Mapping[str, Any]]) -> None:
    """Extremes over all inputs, as ONNX Runtime's quantiser has them; the library's own are a moving average, which the
    first input rules."""
    for tensor, values in found.items():
        before = statistics.setdefault(tensor, dict(values))
        for name, choose in (("min", np.minimum), ("max", np.maximum)):
            before[name] = choose(before[name], values[name])


def _reader(name: str, inputs: np.ndarray) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[dict[str, np.ndarray]] = iter([{name: one[None]} for one in inputs])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    return Reader()


def _take_integers(graph: onnx.GraphProto, elem: int) -> None:
    """Remove what quantises the input, or convert it back where a float operator reads it."""
    entry = graph.input[0]
    quantisers = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == entry.name]
    for node in quantisers:
        _rename(graph.node, node.output[0], entry.name)
        graph.node.remove(node)
    if not quantisers:
        _rename(graph.node, entry.name, f"{entry.name}/float")
        graph.node.insert(0, _converter(graph, "DequantizeLinear", entry.name, f"{entry.name}/float", elem))
    entry.type.tensor_type.elem_type = elem


def _give_integers(graph: onnx.GraphProto, elem: int) -> None:
    result = graph.output[0]
    (maker,) = [node for node in graph.node if result.name in node.output]
    if maker.op_type == "DequantizeLinear":
        integers = maker.input[0]
        graph.node.remove(maker)
        for node in graph.node:
            node.output[:] = [result.name if name == integers else name for name in node.output]
        _rename(graph.node, integers, result.name)
    else:
        maker.output[:] = [f"{result.name}/float"]
        _rename(graph.node, result.name, f"{result.name}/float")
        graph.node.append(_converter(graph, "QuantizeLinear", f"{result.name}/float", result.name, elem))
    result.type.tensor_type.elem_type = elem


def _converter(graph: onnx.GraphProto, operator: str, source: str, target: str, elem: int) -> onnx.NodeProto:
    scale, zero = f"{target}/scale", f"{target}/zero"
    graph.initializer.append(helper.make_tensor(scale, TensorProto.FLOAT, (), [_BORDER_SCALE]))
    graph.initializer.append(helper.make_tensor(zero, elem, (), [128 if elem == TensorProto.UINT8 else 0]))
    return helper.make_node(operator, [source, scale, zero], [target], name=f"{target}/{operator}")


def _rename(nodes: Sequence[onnx.NodeProto], old: str, new: str) -> None:
    """Make every reader of `old` read `new`."""
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]
