"""int8 files: close to the float ones, integers at a block's borders, one file for all sizes, fused by the runtimes."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import onnx as onnx_package
import onnxruntime
import pytest
from onnx import TensorProto

from device_agents.runtimes import litert_cpu, onnxruntime_cpu
from ofa_edge.cli.app import explain
from ofa_edge.graph import check, onnx, quantize, reference, tflite
from ofa_edge.graph.build import network
from ofa_edge.graph.ir import Graph
from ofa_edge.latency import workload
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.space.block import Block, Layer
from ofa_edge.space.spaces import SPACES
from ofa_edge.weights.random import random_arrays
from tests.tflite import DELEGATE, operators

RNG = np.random.default_rng(7)
BLOCKS = [
    Block("expanded_conv", 16, 14, 16, mid_channels=48, kernel=7, skip=True, se=True, activation="h_swish"),
    Block("expanded_conv", 16, 14, 24, mid_channels=48, kernel=5, stride=2, activation="relu6"),
    Block("bottleneck", 16, 14, 32, mid_channels=8, kernel=3, stride=2, activation="relu"),
    Block("Conv", 3, 32, 16, kernel=3, stride=2, activation="h_swish"),
    Block("Conv_1", 16, 7, 40, activation="relu"),
    Block("MaxPool2D", 8, 14, 8, kernel=3, stride=2),
    Block("AvgPool2D", 16, 7, 16),
    Block("Logits", 24, 1, 10),
]
INT8 = {"onnxruntime": RunsOn(precision="int8"), "litert": RunsOn("litert", precision="int8")}


def _graph(block: Block) -> Graph:
    layers = [Layer("", block)]
    return network(layers, random_arrays(layers, 1))


def _elements(model: bytes) -> tuple[int, int]:
    graph = onnx_package.load_model_from_string(model).graph
    return graph.input[0].type.tensor_type.elem_type, graph.output[0].type.tensor_type.elem_type


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.type}-{block.kernel}")
def test_int8_is_close_to_float_in_both_formats(block: Block) -> None:
    graph = _graph(block)
    x = RNG.standard_normal((3, *graph.input.shape[1:]), dtype=np.float32)
    expected = reference.run(graph, x)
    assert check.parity(quantize.onnx_int8(onnx.to_bytes(graph), x), x, expected).rel < 0.05
    model = litert_cpu.Model(quantize.tflite_int8(tflite.to_bytes(graph), x), {}, threads=1)
    found = np.concatenate([model.infer(one[None]) for one in x])
    assert check.compare(found, expected).rel < 0.05


@pytest.mark.parametrize("name", ["ofa-mbv3-w1.0", "ofa-resnet50d"])
def test_int8_networks_are_one_xnnpack_partition(name: str) -> None:
    space = SPACES[name]
    found = operators(workload.network_file(space, space.smallest(space.resolutions[0]), INT8["litert"]))
    assert found.count(DELEGATE) == 1


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.type}-{block.kernel}")
def test_blocks_alone_have_integers_where_they_have_them_inside_a_network(block: Block) -> None:
    first, last = block.in_channels == 3, block.type == "Logits"
    elements = _elements(workload.block_file(block, INT8["onnxruntime"]))
    assert elements == (
        TensorProto.FLOAT if first else TensorProto.UINT8,
        TensorProto.FLOAT if last else TensorProto.UINT8,
    )
    model = workload.block_file(block, INT8["litert"])
    kept = {"HARD_SWISH": block.activation == "h_swish", "AVERAGE_POOL_2D": block.type == "bottleneck"}
    found = operators(model)
    assert found.count(DELEGATE) == 1
    assert found.count("DEQUANTIZE") == sum(found.count(name) for name, is_kept in kept.items() if is_kept)
    assert found.count("QUANTIZE") == found.count("DEQUANTIZE")


@pytest.mark.parametrize("runtime", INT8)
def test_one_int8_file_serves_all_sizes(runtime: str) -> None:
    block = BLOCKS[1]
    files = {workload.block_file(replace(block, in_size=size), INT8[runtime]) for size in (7, 14, 28)}
    assert len(files) == 1
    module = {"onnxruntime": onnxruntime_cpu, "litert": litert_cpu}[runtime]
    for size in (7, 28):
        model = module.Model(next(iter(files)), {"h": size, "w": size}, 1)
        model.prepare()
        model.run()


def test_borders_that_no_quantiser_made_are_converted() -> None:
    """A block that begins or ends with a float operator still takes and gives integers."""
    graph = _graph(Block("Conv_2", 16, 4, 24, activation="h_swish"))
    x = RNG.standard_normal((1, 16, 4, 4), dtype=np.float32)
    for activations, element, dtype in (("uint8", TensorProto.UINT8, np.uint8), ("int8", TensorProto.INT8, np.int8)):
        model = quantize.onnx_int8(
            onnx.to_bytes(graph, symbolic=True), x, activations=activations, integer_input=True, integer_output=True
        )
        onnx_package.checker.check_model(onnx_package.load_model_from_string(model), full_check=True)
        assert _elements(model) == (element, element)
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"input": RNG.integers(0, 100, x.shape, dtype)})
        assert found.dtype == dtype


def test_quantised_convolutions_are_fused() -> None:
    found = check.optimized_operators(workload.block_file(BLOCKS[1], INT8["onnxruntime"]))
    assert found.pop("com.microsoft.QLinearConv") == 3
    assert not set(found) - {"Transpose"}  # of layout, at the borders


def test_int8_bytes_are_reproducible_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    for runs_on in INT8.values():
        assert workload.block_file(BLOCKS[0], runs_on) == workload.block_file(BLOCKS[0], runs_on)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("module", "extra"), [("ai_edge_litert", "litert"), ("ai_edge_quantizer", "quantize")])
def test_without_the_library_its_extra_is_named(module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        workload.block_file(BLOCKS[0], INT8["litert"])
    assert f"ofa-edge[{extra}]" in explain(caught.value).hint
