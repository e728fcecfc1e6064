"""ONNX files: valid, equal to the reference, reproducible, and fused by ONNX Runtime."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.graph import check
from ofa_edge.graph.build import network
from ofa_edge.graph.ir import Op
from ofa_edge.graph.onnx import to_bytes
from ofa_edge.space.block import ACTIVATIONS, Block, Layer, make_divisible
from ofa_edge.space.spaces import OFA_LITE0
from ofa_edge.weights.random import random_arrays

RNG = np.random.default_rng(7)
DISTINCT = OFA_LITE0.distinct_blocks(OFA_LITE0.resolutions)
# Single precision over at most a few thousand terms a layer, in another order than the reference's.
TOLERANCE = 2e-5
OTHER_OPERATORS = {"AvgPool2D": {"GlobalAveragePool": 1}, "Logits": {"Flatten": 1, "Gemm": 1}}


def _input(block: Block) -> np.ndarray:
    return RNG.standard_normal((1, block.in_channels, block.in_size, block.in_size), dtype=np.float32)


def _model(block: Block, *, symbolic: bool = False) -> bytes:
    layers = [Layer("", block)]
    return to_bytes(network(layers, random_arrays(layers, 1)), symbolic=symbolic)


def _assert_block_equals(block: Block, reference) -> None:
    layers = [Layer("", block)]
    arrays = random_arrays(layers, 1)
    x = _input(block)
    expected = reference(layers, arrays, x)
    for symbolic in (False, True):
        model = to_bytes(network(layers, arrays), symbolic=symbolic)
        assert check.parity(model, x, expected).rel < TOLERANCE, block.key


@st.composite
def expanded_convs(draw: st.DrawFn) -> Block:
    """Blocks of this and of later spaces: odd and even sizes, strides, SE, every activation, expand 1."""
    in_channels = 8 * draw(st.integers(1, 4))
    skip = draw(st.booleans())
    stride = 1 if skip else draw(st.sampled_from((1, 2)))
    return Block(
        "expanded_conv",
        in_channels,
        draw(st.integers(1, 15)),
        in_channels if skip else 8 * draw(st.integers(1, 4)),
        mid_channels=make_divisible(in_channels * draw(st.sampled_from((1, 3, 4, 6)))),
        kernel=draw(st.sampled_from((3, 5, 7))),
        stride=stride,
        skip=skip,
        se=draw(st.booleans()),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )


@settings(deadline=None, max_examples=40)
@given(block=expanded_convs())
def test_any_inverted_bottleneck_equals_the_reference(block, reference):
    _assert_block_equals(block, reference)


@st.composite
def resnet_blocks(draw: st.DrawFn) -> Block:
    """Bottlenecks and what stands in ResNet's stem, at odd and even sizes."""
    channels, size = 8 * draw(st.integers(1, 3)), draw(st.integers(1, 15))
    activation = draw(st.sampled_from(ACTIVATIONS))
    kind = draw(st.sampled_from(("bottleneck", "Conv", "MaxPool2D")))
    if kind == "Conv":
        return Block("Conv", channels, size, channels, kernel=3, skip=True, activation=activation)
    if kind == "MaxPool2D":
        return Block("MaxPool2D", channels, size, channels, kernel=3, stride=2)
    skip = draw(st.booleans())
    return Block(
        "bottleneck",
        channels,
        size,
        channels if skip else 8 * draw(st.integers(1, 4)),
        mid_channels=8 * draw(st.integers(1, 2)),
        kernel=3,
        stride=1 if skip else draw(st.sampled_from((1, 2, 3))),
        skip=skip,
        activation=activation,
    )


@settings(deadline=None, max_examples=40)
@given(block=resnet_blocks())
def test_any_block_of_a_resnet_equals_the_reference(block, reference):
    _assert_block_equals(block, reference)


@settings(deadline=None, max_examples=12)
@given(block=st.sampled_from(DISTINCT))
def test_blocks_of_the_space_equal_the_reference(block, reference):
    _assert_block_equals(block, reference)


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize(
    "block",
    [
        Block("Conv", 3, 0, 16, kernel=3, stride=2, activation="h_swish"),
        Block("Conv", 3, 0, 16, kernel=5, stride=1, activation="relu6"),
        Block("Conv_1", 16, 0, 40, activation="relu"),
        Block("Conv_2", 16, 0, 24, activation="h_swish"),
        Block("AvgPool2D", 16, 0, 16),
    ],
    ids=lambda block: block.type,
)
def test_other_blocks_equal_the_reference(block, size, reference):
    _assert_block_equals(replace(block, in_size=size), reference)


def test_the_classifier_equals_the_reference(reference):
    _assert_block_equals(Block("Logits", 24, 1, 10), reference)


@pytest.fixture(scope="module")
def net():
    """A random subnet with its arrays and three inputs."""
    arch = OFA_LITE0.sample(np.random.default_rng(11), 112)
    layers = OFA_LITE0.layers(arch)
    return layers, random_arrays(layers, 5), RNG.standard_normal((3, 3, 112, 112), dtype=np.float32)


def test_a_whole_network_equals_the_reference(net, reference):
    layers, arrays, x = net
    result = check.parity(to_bytes(network(layers, arrays)), x, reference(layers, arrays, x))
    assert result.rel < TOLERANCE
    assert result.finite
    assert result.argmax_equal


def test_a_chain_of_single_blocks_is_the_network(net):
    layers, arrays, x = net
    whole = check.run(to_bytes(network(layers, arrays)), x[:1])
    for layer in layers:
        x = check.run(to_bytes(network([layer], arrays), symbolic=True), x[:1])
    assert check.compare(x, whole).rel < TOLERANCE


def test_one_symbolic_file_serves_all_resolutions(net, reference):
    layers, arrays, _ = net
    model = to_bytes(network(layers, arrays), symbolic=True)
    for size in (96, 101, 160):
        x = RNG.standard_normal((1, 3, size, size), dtype=np.float32)
        assert check.parity(model, x, reference(layers, arrays, x)).rel < TOLERANCE


@pytest.mark.parametrize("symbolic", [False, True])
def test_files_pass_the_full_onnx_check(net, symbolic):
    layers, arrays, _ = net
    for part in (layers, *([layer] for layer in layers)):
        model = onnx.load_model_from_string(to_bytes(network(part, arrays), symbolic=symbolic))
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (8, [("", 17)])
        assert [v.name for v in model.graph.input] == ["input"]
        assert [v.name for v in model.graph.output] == ["output"]


def _dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize(
    ("block", "first", "last"),
    [
        (Block("Conv_1", 16, 7, 40), [1, 16, "h", "w"], [1, 40, "h", "w"]),
        (Block("Conv", 3, 9, 16, kernel=3, stride=2), [1, 3, "h", "w"], [1, 16, "h_2", "w_2"]),
        (Block("AvgPool2D", 16, 7, 16), [1, 16, "h", "w"], [1, 16, 1, 1]),
        (Block("Logits", 16, 1, 10), [1, 16, 1, 1], [1, 10]),
    ],
    ids=lambda value: value.type if isinstance(value, Block) else "",
)
def test_names_of_free_dimensions(block, first, last):
    graph = onnx.load_model_from_string(_model(block, symbolic=True)).graph
    assert (_dims(graph.input[0]), _dims(graph.output[0])) == (first, last)
    static = onnx.load_model_from_string(_model(block)).graph
    assert all(isinstance(dim, int) for dim in _dims(static.input[0]) + _dims(static.output[0]))


def test_symbolic_bytes_do_not_depend_on_the_size():
    block = Block("expanded_conv", 24, 14, 40, mid_channels=72, kernel=5, stride=2, activation="relu6")
    files = {_model(replace(block, in_size=size), symbolic=True) for size in (7, 14, 28)}
    assert len(files) == 1
    assert len({_model(replace(block, in_size=size)) for size in (7, 14, 28)}) == 3


def test_bytes_do_not_depend_on_process_or_order_of_arrays():
    layers = OFA_LITE0.layers(OFA_LITE0.smallest(96))
    arrays = random_arrays(layers, 2)
    shuffled = {name: arrays[name] for name in sorted(arrays, reverse=True)}
    here = hashlib.sha256(to_bytes(network(layers, arrays))).hexdigest()
    assert hashlib.sha256(to_bytes(network(layers, shuffled))).hexdigest() == here
    code = (
        "import hashlib\n"
        "from ofa_edge.graph.build import network\nfrom ofa_edge.graph.onnx import to_bytes\n"
        "from ofa_edge.space.spaces import OFA_LITE0 as S\nfrom ofa_edge.weights.random import random_arrays\n"
        "layers = S.layers(S.smallest(96))\n"
        "print(hashlib.sha256(to_bytes(network(layers, random_arrays(layers, 2)))).hexdigest())"
    )
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(p for p in sys.path if p)}
        there = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert there.stdout.strip() == here


def test_weights_are_stored_once_and_unchanged(net):
    layers, arrays, _ = net
    stored = onnx.load_model_from_string(to_bytes(network(layers, arrays))).graph.initializer
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in stored}
    assert len(values) == len(stored)
    assert set(values) - set(arrays) == {"relu6/min", "relu6/max"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(values[name], array)


def _fused(model: bytes) -> dict[str, int]:
    """Operators after optimisation, without domain; layouts' reorders left out."""
    counts: dict[str, int] = {}
    for name, count in check.optimized_operators(model).items():
        plain = name.rpartition(".")[2].replace("FusedConv", "Conv")
        if not plain.startswith("Reorder"):
            counts[plain] = counts.get(plain, 0) + count
    return counts


def test_clip_is_fused_into_every_convolution_and_nothing_strays():
    for block in {block.weights_key: block for block in DISTINCT}.values():
        layers = [Layer("", block)]
        graph = network(layers, random_arrays(layers, 1))
        fused = _fused(to_bytes(graph, symbolic=True))
        convolutions = sum(node.op is Op.CONV for node in graph.nodes)
        assert fused.pop("Conv", 0) == convolutions, block.key
        # Not every CPU's kernels add the skip inside the convolution; a Clip may be left on none.
        assert fused.pop("Add", 0) <= block.skip, block.key
        assert fused == OTHER_OPERATORS.get(block.type, {}), block.key


def test_a_network_is_optimised_as_its_blocks_are(net):
    layers, arrays, _ = net
    graph = network(layers, arrays)
    fused = _fused(to_bytes(graph))
    assert fused.pop("Conv") == sum(node.op is Op.CONV for node in graph.nodes)
    assert fused.pop("Add", 0) <= sum(layer.block.skip for layer in layers)
    assert fused == {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
