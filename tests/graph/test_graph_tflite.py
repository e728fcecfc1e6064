"""TFLite files: equal to the reference, one XNNPACK partition, one file for all sizes, reproducible."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.errors import UsageError
from ofa_edge.graph import check, onnx, passes, reference, tflite
from ofa_edge.graph.build import network
from ofa_edge.graph.ir import Graph, Op
from ofa_edge.space.block import ACTIVATIONS, Block, Layer, make_divisible
from ofa_edge.space.spaces import OFA_LITE0, SPACES
from ofa_edge.weights.random import random_arrays
from tests.tflite import DELEGATE, load, operators, run

RNG = np.random.default_rng(7)
TOLERANCE = 2e-5  # single precision, as in test_graph_onnx


def _graph(block: Block) -> Graph:
    layers = [Layer("", block)]
    return network(layers, random_arrays(layers, 1))


def _assert_equals(graph: Graph) -> None:
    x = RNG.standard_normal(graph.input.shape, dtype=np.float32)
    expected = reference.run(graph, x)
    for symbolic in (False, True):
        model = tflite.to_bytes(graph, symbolic=symbolic)
        free = symbolic and graph.nodes[0].op is not Op.LINEAR
        assert check.compare(run(model, x, resize=free), expected).rel < TOLERANCE, (symbolic, graph.nodes)
        assert operators(model).count(DELEGATE) == 1


@st.composite
def inverted_bottlenecks(draw: st.DrawFn) -> Block:
    channels, skip = 8 * draw(st.integers(1, 3)), draw(st.booleans())
    return Block(
        "expanded_conv",
        channels,
        draw(st.integers(1, 15)),
        channels if skip else 8 * draw(st.integers(1, 3)),
        mid_channels=make_divisible(channels * draw(st.sampled_from((1, 3, 4)))),
        kernel=draw(st.sampled_from((3, 5, 7, 9))),
        stride=1 if skip else draw(st.sampled_from((1, 2))),
        skip=skip,
        se=draw(st.booleans()),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )


@settings(max_examples=60)
@given(block=inverted_bottlenecks())
def test_any_inverted_bottleneck_equals_the_reference(block: Block) -> None:
    _assert_equals(_graph(block))


@settings(max_examples=30)
@given(
    size=st.integers(1, 15),
    stride=st.sampled_from((1, 2)),
    skip=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
)
def test_any_bottleneck_of_a_resnet_equals_the_reference(size: int, stride: int, skip: bool, activation: str) -> None:
    kept = skip and stride == 1
    block = Block(
        "bottleneck", 16, size, 16 if kept else 24, mid_channels=8, kernel=3, stride=stride, skip=kept,
        activation=activation,
    )  # fmt: skip
    _assert_equals(_graph(block))


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize(
    "block",
    [
        Block("Conv", 3, 0, 16, kernel=3, stride=2, activation="h_swish"),
        Block("Conv", 3, 0, 16, kernel=5, stride=1, activation="relu6"),
        Block("Conv", 8, 0, 8, kernel=3, skip=True, activation="relu"),
        Block("Conv_1", 16, 0, 40, activation="relu"),
        Block("Conv_2", 16, 0, 24, activation="h_swish"),
        Block("MaxPool2D", 8, 0, 8, kernel=3, stride=2),
        Block("AvgPool2D", 16, 0, 16),
    ],
    ids=lambda block: f"{block.type}-{block.activation}",
)
def test_other_blocks_equal_the_reference(block: Block, size: int) -> None:
    _assert_equals(_graph(replace(block, in_size=size)))


def test_the_classifier_equals_the_reference() -> None:
    _assert_equals(_graph(Block("Logits", 24, 1, 10)))


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("name", SPACES)
def test_networks_of_every_family_are_one_partition_and_equal_the_reference(name: str, symbolic: bool) -> None:
    space = SPACES[name]
    layers = space.layers(space.smallest(space.resolutions[0]))
    graph = network(layers, random_arrays(layers, 3))
    x = RNG.standard_normal(graph.input.shape, dtype=np.float32)
    model = tflite.to_bytes(graph, symbolic=symbolic)
    assert check.compare(run(model, x, resize=symbolic), reference.run(graph, x)).rel < TOLERANCE
    found = operators(model)
    assert found.count(DELEGATE) == 1
    assert not {"TRANSPOSE", "RESHAPE", "DEQUANTIZE", "CONCATENATION"} & set(found)


def test_a_chain_of_single_blocks_is_the_network() -> None:
    layers = OFA_LITE0.layers(OFA_LITE0.sample(np.random.default_rng(11), 112))
    arrays = random_arrays(layers, 5)
    x = RNG.standard_normal((1, 3, 112, 112), dtype=np.float32)
    whole = run(tflite.to_bytes(network(layers, arrays)), x)
    for layer in layers:
        x = run(tflite.to_bytes(network([layer], arrays), symbolic=True), x, resize=layer.block.type != "Logits")
    assert check.compare(x, whole).rel < TOLERANCE


def test_a_rectified_input_is_padded_with_zeros() -> None:
    graph = _graph(Block("MaxPool2D", 8, 8, 8, kernel=3, stride=2))
    x = np.abs(RNG.standard_normal(graph.input.shape, dtype=np.float32))
    model = tflite.to_bytes(graph, symbolic=True, rectified=True)
    assert check.compare(run(model, x, resize=True), reference.run(graph, x)).rel == 0
    assert sorted(operators(model)) == [DELEGATE, "MAX_POOL_2D", "PAD"]


def test_an_average_that_tflite_places_in_another_way_is_refused() -> None:
    block = Block("bottleneck", 8, 7, 16, mid_channels=8, kernel=3, stride=3, activation="relu")
    with pytest.raises(UsageError, match="average"):
        tflite.to_bytes(_graph(block))
    found = operators(tflite.to_bytes(_graph(replace(block, in_size=9))))
    assert found.count(DELEGATE) == 1


def test_symbolic_bytes_do_not_depend_on_the_size() -> None:
    block = Block("expanded_conv", 24, 14, 40, mid_channels=72, kernel=7, stride=2, se=True, activation="h_swish")
    files = {tflite.to_bytes(_graph(replace(block, in_size=size)), symbolic=True) for size in (7, 14, 28)}
    assert len(files) == 1
    with pytest.raises(RuntimeError, match="resize dimension"):
        load(tflite.to_bytes(_graph(block)), side=9)


def test_bytes_do_not_depend_on_the_process() -> None:
    block = Block("expanded_conv", 24, 14, 40, mid_channels=72, kernel=7, stride=2, se=True, activation="h_swish")
    here = hashlib.sha256(tflite.to_bytes(_graph(block))).hexdigest()
    code = (
        "import hashlib\nfrom ofa_edge.graph import build, tflite\nfrom ofa_edge.space.block import Block, Layer\n"
        "from ofa_edge.weights.random import random_arrays\n"
        f"layers = [Layer('', Block.from_key({block.key!r}))]\n"
        "print(hashlib.sha256(tflite.to_bytes(build.network(layers, random_arrays(layers, 1)))).hexdigest())"
    )
    environment = {"PYTHONHASHSEED": "5", "PYTHONPATH": ":".join(p for p in sys.path if p)}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_constants_lie_at_multiples_of_16_bytes() -> None:
    from ai_edge_litert import schema_py_generated as schema

    graph = _graph(Block("expanded_conv", 8, 5, 8, mid_channels=24, kernel=3, se=True, activation="relu"))
    data = tflite.to_bytes(graph)
    model = schema.Model.GetRootAs(data, 0)
    found = 0
    for index in range(model.BuffersLength()):
        values = model.Buffers(index).DataAsNumpy()
        if isinstance(values, np.ndarray):
            offset = (
                values.__array_interface__["data"][0] - np.frombuffer(data, np.uint8).__array_interface__["data"][0]
            )
            assert offset % 16 == 0
            found += 1
    assert found >= len(graph.arrays)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 2), (7, 1), (7, 2), (9, 1), (11, 2), (13, 1)])
def test_split_depthwise_keeps_the_function_and_its_promise(kernel: int, stride: int) -> None:
    graph = _graph(
        Block("expanded_conv", 8, 13, 16, mid_channels=16, kernel=kernel, stride=stride, activation="h_swish")
    )
    split = passes.split_depthwise(graph)
    x = RNG.standard_normal(graph.input.shape, dtype=np.float32)
    assert check.compare(reference.run(split, x), reference.run(graph, x)).rel < 1e-6
    assert check.parity(onnx.to_bytes(split), x, reference.run(graph, x)).rel < TOLERANCE
    taps = [split.arrays[node.weight][0, 0].size for node in split.nodes if node.groups > 1]
    assert sum(taps) == kernel**2
    assert max(taps) <= passes.XNNPACK_TAPS or (kernel == 13 and len(taps) == 1)
    assert (split.input, split.output) == (graph.input, graph.output)
    if kernel < 7:
        assert split.nodes == graph.nodes
