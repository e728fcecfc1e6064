"""Compiled files: every space, runtime and precision; half the size in half precision; what falls off is said."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace

import numpy as np
import onnx as onnx_package
import pytest

from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.graph import acceleration, check, compiling, onnx, passes, quantize, reference, tflite
from ofa_edge.graph.build import network
from ofa_edge.graph.flatbuffer import File
from ofa_edge.graph.ir import Graph, Op
from ofa_edge.latency import workload
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.space.arch import Space
from ofa_edge.space.block import Block, Layer
from ofa_edge.space.spaces import SPACES
from ofa_edge.weights.random import random_arrays
from tests.families import SMALL_MBV3, SMALL_RESNET
from tests.train.tiny import TINY

FAMILIES = ("ofa-lite0", "ofa-mbv3-w1.0", "ofa-proxyless-w1.3", "ofa-resnet50d")
PAIRS = [(runtime, precision) for runtime in compiling.FORMATS for precision in compiling.PRECISIONS]
WIDE = Block("expanded_conv", 16, 14, 16, mid_channels=48, kernel=7, skip=True, se=True, activation="h_swish")


def graph_of(space: Space, size: int) -> Graph:
    space = replace(space, resolutions=(size,))
    layers = space.layers(space.smallest(size))
    return network(layers, random_arrays(layers, 3))


def block_graph(block: Block) -> Graph:
    layers = [Layer("", block)]
    return network(layers, random_arrays(layers, 1))


def images(graph: Graph, count: int = 4) -> np.ndarray:
    return reference.golden_inputs(graph, count, seed=5)


@pytest.mark.parametrize(("runtime", "precision"), PAIRS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_space_compiles_for_every_runtime_in_every_precision(name: str, runtime: str, precision: str) -> None:
    graph = graph_of(SPACES[name], 64)
    found = compiling.compile_graph(graph, runtime=runtime, precision=precision, calibration=images(graph))
    assert found.format == compiling.FORMATS[runtime]
    assert found.parity.rel < {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.2}[precision]
    assert found.golden.inputs.shape == (1, 3, 64, 64)
    again = check.compare(check.run(found.content, found.golden.inputs), found.golden.outputs)
    assert again.rel <= (0 if precision == "int8" else 1e-5)
    assert found.golden.tolerance == compiling.TOLERANCES[precision]
    if runtime == "litert":
        assert (found.partitions, dict(found.outside), found.notices) == (1, {}, ())
    floats = len(onnx.to_bytes(graph) if runtime == "onnxruntime" else tflite.to_bytes(graph))
    assert len(found.content) / floats < {"fp32": 1.001, "fp16": 0.51, "int8": 0.3}[precision]


@pytest.mark.parametrize("space", [TINY, SMALL_MBV3, SMALL_RESNET], ids=lambda space: space.name)
def test_golden_outputs_in_half_precision_are_those_of_the_rounded_weights(space: Space) -> None:
    """So that a device is held to 1e-4 although the file is 1e-3 off the network in single precision."""
    graph = graph_of(space, 32)
    for runtime in compiling.FORMATS:
        found = compiling.compile_graph(graph, runtime=runtime, precision="fp16")
        exact = reference.run(passes.halved(graph), found.golden.inputs)
        assert np.array_equal(found.golden.outputs, exact)
        assert check.compare(check.run(found.content, found.golden.inputs), exact).rel < 1e-5
        assert found.parity.rel > 1e-5


def test_onnx_runtime_widens_half_precision_once_when_it_loads_the_file() -> None:
    graph = graph_of(TINY, 32)
    half, full = onnx.to_bytes(passes.halved(graph), half=True), onnx.to_bytes(graph)
    assert check.operators(half)["Cast"] == sum(node.weight != "" for node in graph.nodes)
    assert check.optimized_operators(half) == check.optimized_operators(full)


def test_weights_beyond_half_precision_are_refused_by_name() -> None:
    graph = block_graph(Block("Conv_1", 4, 3, 5))
    graph.arrays["conv.weight"][0] = 7e4  # type: ignore[index]
    with pytest.raises(BadFile, match=r"'conv\.weight' are beyond half precision") as caught:
        compiling.compile_graph(graph, runtime="onnxruntime", precision="fp16")
    assert "fp32" in caught.value.hint


def test_halving_keeps_biases_and_the_graph_it_was_given() -> None:
    graph = graph_of(TINY, 32)
    before = {name: array.copy() for name, array in graph.arrays.items()}
    rounded = passes.halved(graph).arrays
    weights = {node.weight for node in graph.nodes}
    for name, array in before.items():
        assert np.array_equal(graph.arrays[name], array)
        assert np.array_equal(rounded[name], array) == (name not in weights)


# -- int8 -----------------------------------------------------------------------------------------
def test_int8_onnx_weights_have_seven_bits_so_that_no_cpu_saturates() -> None:
    graph = graph_of(TINY, 32)
    for bits, most in ((7, 64), (8, 127)):
        model = compiling.write(graph, "onnxruntime", "int8", calibration=images(graph), weight_bits=bits)
        constants = onnx_package.load_model_from_string(model).graph.initializer
        arrays = [onnx_package.numpy_helper.to_array(one) for one in constants]
        assert max(int(np.abs(a.astype(int)).max()) for a in arrays if a.dtype == np.int8 and a.ndim > 1) == most


def test_activations_are_an_argument_and_usual_for_a_machine() -> None:
    graph = graph_of(TINY, 32)
    for activations in ("uint8", "int8"):
        found = compiling.compile_graph(
            graph, runtime="onnxruntime", precision="int8", calibration=images(graph), activations=activations
        )
        assert found.activations == activations
    assert compiling.compile_graph(graph, runtime="onnxruntime").activations == ""
    assert [compiling.usual_activations(m) for m in ("x86_64", "AMD64", "aarch64", "armv7l", "arm64")] == [
        *("uint8", "uint8"),
        *("int8", "int8", "int8"),
    ]


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        ({"runtime": "onnxruntime", "precision": "int8"}, "needs images", "--data"),
        ({"runtime": "abacus"}, "runtime 'abacus'", "onnxruntime or litert"),
        ({"runtime": "litert", "precision": "int4"}, "precision 'int4'", "fp32 or fp16 or int8"),
        ({"runtime": "litert", "activations": "uint8"}, "activations are int8", "leave"),
    ],
)
def test_what_cannot_be_written_is_refused(asked: dict[str, str], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        compiling.compile_graph(graph_of(TINY, 32), **asked)  # type: ignore[arg-type]
    assert hint in caught.value.hint


def test_a_file_that_does_not_compute_what_the_graph_says_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer with a fault: it takes the one activation for the other."""
    monkeypatch.setitem(tflite._FUSED, tflite.Activation.RELU6, "NONE")
    with pytest.raises(OfaEdgeError, match=r"net\.tflite: outputs differ from the reference"):
        compiling.compile_graph(graph_of(TINY, 32), runtime="litert", name="net.tflite")


# -- what runs the fast way -----------------------------------------------------------------------
def test_a_graph_that_falls_off_the_delegate_is_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hard-swish in integers, which XNNPACK does not take: what quantize.py is there to avoid."""
    graph = block_graph(WIDE)
    compiled = {"runtime": "litert", "precision": "int8", "calibration": images(graph)}
    assert compiling.compile_graph(graph, **compiled).notices == ()  # type: ignore[arg-type]
    monkeypatch.setattr(quantize, "_KEPT_FLOAT", ())
    found = compiling.compile_graph(graph, **compiled)  # type: ignore[arg-type]
    assert found.partitions == 3
    assert dict(found.outside) == {"HARD_SWISH": 2}
    assert found.notices == ("XNNPACK takes the network in 3 pieces, slower kernels the rest: 2 HARD_SWISH",)


def test_an_operator_that_nothing_accelerates_is_named() -> None:
    file = File()
    for name in "abcd":
        file.tensor(name, (1, 2, 2, 8))
    for operator, source, target in (("ABS", "a", "b"), ("SIGN", "b", "c"), ("ABS", "c", "d")):
        file.operator(operator, [source], [target])
    assert acceleration.of(file.bytes(["a"], ["d"])) == acceleration.Acceleration(2, {"SIGN": 1})
    alone = File()
    for name in "ab":
        alone.tensor(name, (1, 4))
    alone.operator("SIGN", ["a"], ["b"])
    assert acceleration.of(alone.bytes(["a"], ["b"])) == acceleration.Acceleration(0, {"SIGN": 1})


def test_float_islands_of_an_int8_onnx_file_are_counted() -> None:
    graph = graph_of(SMALL_MBV3, 33)
    found = compiling.compile_graph(graph, runtime="onnxruntime", precision="int8", calibration=images(graph))
    gates = sum(node.activation in ("h_swish", "h_sigmoid") for node in graph.nodes)
    assert found.outside["HardSigmoid"] == gates
    assert 1 < found.partitions <= 1 + gates
    assert "compute in float between conversions" in found.notices[0]
    plain = graph_of(TINY, 32)
    clean = compiling.compile_graph(plain, runtime="onnxruntime", precision="int8", calibration=images(plain))
    assert (clean.partitions, dict(clean.outside), clean.notices) == (1, {}, ())


def test_activations_that_onnx_runtime_leaves_alone_are_named() -> None:
    for space in (TINY, SMALL_MBV3, SMALL_RESNET):
        assert acceleration.of(onnx.to_bytes(graph_of(space, 32))).outside == {}
    behind_a_sum = Block("bottleneck", 16, 14, 16, mid_channels=8, kernel=3, skip=True, activation="relu6")
    assert acceleration.of(onnx.to_bytes(block_graph(behind_a_sum))).outside == {"Clip": 1}


def test_the_split_of_large_depthwise_kernels_is_on_where_it_was_measured_to_be_faster() -> None:
    def sides(graph: Graph) -> list[tuple[int, ...]]:
        return [graph.arrays[node.weight].shape[2:] for node in graph.nodes if node.op is Op.CONV and node.groups > 1]

    graph = block_graph(WIDE)
    assert sides(passes.for_runtime(graph, "onnxruntime")) == [(7, 7)]
    assert sides(passes.for_runtime(graph, "litert")) == [(3, 7), (2, 7), (2, 7)]


# -- bytes ----------------------------------------------------------------------------------------
def test_files_of_tables_are_what_they_were_when_the_shipped_tables_were_measured() -> None:
    """A change here makes every table untrue: its blocks are no longer those that are deployed."""
    block = Block("expanded_conv", 24, 14, 40, mid_channels=72, kernel=7, stride=2, se=True, activation="h_swish")
    found = {
        runtime: hashlib.sha256(workload.block_file(block, RunsOn(runtime))).hexdigest()[:16]
        for runtime in compiling.FORMATS
    }
    assert found == {"onnxruntime": "0088f0330b0bf258", "litert": "08770b8891c0d885"}


@pytest.mark.parametrize(("runtime", "precision"), PAIRS)
def test_an_anchor_can_be_written_for_whatever_a_bundle_is(runtime: str, precision: str) -> None:
    runs_on = RunsOn(runtime, precision=precision)
    model = workload.network_file(TINY, TINY.smallest(), runs_on)
    assert check.run(model, np.zeros((1, 3, 16, 16), np.float32)).shape == (1, 3)


@pytest.mark.parametrize(("runtime", "precision"), PAIRS)
def test_equal_inputs_give_equal_bytes_and_nothing_is_printed(
    runtime: str, precision: str, capfd: pytest.CaptureFixture[str]
) -> None:
    graph = graph_of(TINY, 32)
    x = images(graph)
    one, other = (compiling.compile_graph(graph, runtime=runtime, precision=precision, calibration=x) for _ in range(2))
    assert one.content == other.content
    assert np.array_equal(one.golden.outputs, other.golden.outputs)
    assert capfd.readouterr() == ("", "")


def test_onnx_needs_no_litert(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "ai_edge_litert"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    graph = graph_of(TINY, 32)
    assert compiling.compile_graph(graph, runtime="onnxruntime", precision="fp16").partitions == 1
    with pytest.raises(ModuleNotFoundError):
        compiling.compile_graph(graph, runtime="litert")
