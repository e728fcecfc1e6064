"""The reference arithmetic: right by hand, equal to ONNX Runtime, and what refuses a model that is neither."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_edge.errors import OfaEdgeError
from ofa_edge.graph import check, reference
from ofa_edge.graph.build import network
from ofa_edge.graph.ir import Graph, Node, Op, Tensor
from ofa_edge.graph.onnx import to_bytes
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.block import Block, Layer
from ofa_edge.space.spaces import OFA_LITE0
from ofa_edge.weights.random import random_arrays
from tests.search.doubles import REDUCED, SMALL

PICTURE = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)  # 1 2 3 / 4 5 6 / 7 8 9


def convolution(weight: np.ndarray, bias: float = 0.0, stride: int = 1, activation: str = "none") -> Graph:
    """A 3x3 convolution of one channel."""
    block = Block("Conv", 1, 3, 1, kernel=3, stride=stride, activation=activation)
    arrays = {"conv.weight": weight.astype(np.float32).reshape(1, 1, 3, 3), "conv.bias": np.float32([bias])}
    return network([Layer("", block)], arrays)


def subnet(space: Space, arch: Arch, seed: int) -> Graph:
    layers = space.layers(arch)
    return network(layers, random_arrays(layers, seed))


# -- by hand --------------------------------------------------------------------------------------
def test_a_kernel_of_ones_adds_up_the_neighbours() -> None:
    found = reference.run(convolution(np.ones((3, 3))), PICTURE)
    assert found.tolist() == [[[[12, 21, 16], [27, 45, 33], [24, 39, 28]]]]


def test_a_stride_of_two_takes_every_other_place_and_the_bias_is_added() -> None:
    found = reference.run(convolution(np.ones((3, 3)), bias=0.5, stride=2), PICTURE)
    assert found.tolist() == [[[[12.5, 16.5], [24.5, 28.5]]]]


def test_the_kernel_is_not_turned_around() -> None:
    above = np.zeros((3, 3))
    above[0, 1] = 1
    assert reference.run(convolution(above), PICTURE).tolist() == [[[[0, 0, 0], [1, 2, 3], [4, 5, 6]]]]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("none", [-6, -5, -3.5, 0, 1.5, 5, 8]),
        ("relu", [0, 0, 0, 0, 1.5, 5, 8]),
        ("relu6", [0, 0, 0, 0, 1.5, 5, 6]),
        ("h_swish", [0, 0, 0, 0, 1.125, 5, 8]),  # x min(max(x + 3, 0), 6) / 6
    ],
)
def test_activations(activation: str, expected: list[float]) -> None:
    given = np.array([-6, -5, -3.5, 0, 1.5, 5, 8], np.float32)
    centre = np.zeros((3, 3))
    centre[1, 1] = 1
    graph = convolution(centre, activation=activation)
    for x, y in zip(given, expected, strict=True):
        assert reference.run(graph, np.full((1, 1, 3, 3), x, np.float32))[0, 0, 1, 1] == pytest.approx(y)


def test_an_output_beyond_single_precision_is_infinite_without_a_warning() -> None:
    """Weights of a damaged checkpoint: the comparison refuses them, and says what to do."""
    large = np.full((1, 1, 3, 3), 3e38, np.float32)
    assert np.isinf(reference.run(convolution(np.ones((3, 3))), large)).all()


def test_depthwise_channels_do_not_mix_and_a_skip_adds_the_input() -> None:
    block = Block("expanded_conv", 2, 1, 2, mid_channels=2, kernel=3, skip=True)
    weight = np.zeros((2, 1, 3, 3), np.float32)
    weight[:, 0, 1, 1] = 10, 100
    arrays = {
        "depthwise.weight": weight,
        "depthwise.bias": np.zeros(2, np.float32),
        "project.weight": np.float32([[1, 0], [1, 1]]).reshape(2, 2, 1, 1),
        "project.bias": np.float32([0.25, 0]),
    }
    found = reference.run(network([Layer("", block)], arrays), np.float32([1, 2]).reshape(1, 2, 1, 1))
    assert found.ravel().tolist() == [1 + 10 + 0.25, 2 + 10 + 200]


def test_pools_at_odd_sizes() -> None:
    source, half = Tensor("input", (1, 1, 3, 3)), Tensor("output", (1, 1, 2, 2))
    average = Node("a", Op.AVERAGE_POOL, (source,), half, kernel=2, stride=2)
    maximum = Node("m", Op.MAX_POOL, (source,), half, kernel=3, stride=2)
    assert reference.run(Graph(source, half, (average,), {}), PICTURE).tolist() == [[[[3, 4.5], [7.5, 9]]]]
    assert reference.run(Graph(source, half, (maximum,), {}), -PICTURE).tolist() == [[[[-1, -2], [-4, -5]]]]


# -- against ONNX Runtime -------------------------------------------------------------------------
@pytest.mark.parametrize("space", [SMALL, REDUCED], ids=lambda space: space.name)
@pytest.mark.parametrize("seed", range(4))
def test_random_subnets_equal_onnx_runtime(space: Space, seed: int) -> None:
    graph = subnet(space, space.sample(np.random.default_rng(seed)), seed)
    inputs = reference.golden_inputs(graph, 2, seed)
    found = check.parity(to_bytes(graph), inputs, reference.run(graph, inputs))
    assert found.rel < 1e-5
    assert found.argmax_equal


def test_a_subnet_of_the_real_space_equals_onnx_runtime() -> None:
    graph = subnet(OFA_LITE0, OFA_LITE0.sample(np.random.default_rng(3), 96), 3)
    inputs = reference.golden_inputs(graph, 1, 0)
    check.require_equal(check.parity(to_bytes(graph), inputs, reference.run(graph, inputs)), "it")


# -- golden inputs --------------------------------------------------------------------------------
def test_golden_inputs_lie_where_images_do_and_are_drawn_from_the_seed() -> None:
    graph = subnet(SMALL, SMALL.smallest(17), 0)
    inputs = reference.golden_inputs(graph, 3, 1)
    assert (inputs.shape, inputs.dtype) == ((3, 3, 17, 17), np.float32)
    assert np.abs(inputs).max() <= 1
    assert inputs.std() > 0.2
    assert np.array_equal(inputs, reference.golden_inputs(graph, 3, 1))
    assert not np.array_equal(inputs[0], inputs[1])
    assert not np.array_equal(inputs, reference.golden_inputs(graph, 3, 2))


# -- a model that is not the reference ------------------------------------------------------------
def changed(graph: Graph, name: str, value: np.ndarray) -> bytes:
    arrays = {**graph.arrays, name: value.astype(np.float32)}
    return to_bytes(Graph(graph.input, graph.output, graph.nodes, arrays))


@pytest.fixture(scope="module")
def graph() -> Graph:
    return subnet(REDUCED, REDUCED.sample(np.random.default_rng(1), 32), 1)


@pytest.fixture(scope="module")
def golden(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    inputs = reference.golden_inputs(graph, 2, 0)
    return inputs, reference.run(graph, inputs)


@pytest.mark.parametrize("name", ["stem.conv.weight", "stages.1.0.depthwise.weight", "logits.linear.bias"])
def test_a_wrong_weight_is_refused(graph: Graph, golden: tuple[np.ndarray, np.ndarray], name: str) -> None:
    with pytest.raises(OfaEdgeError, match="it: outputs differ from the reference by") as found:
        check.require_equal(check.parity(changed(graph, name, 1.05 * graph.arrays[name]), *golden), "it")
    assert "doctor" in found.value.hint


def test_a_model_that_overflows_is_refused(graph: Graph, golden: tuple[np.ndarray, np.ndarray]) -> None:
    weight = np.full_like(graph.arrays["logits.linear.weight"], 3e38)
    with pytest.raises(OfaEdgeError, match="by inf"):
        check.require_equal(check.parity(changed(graph, "logits.linear.weight", weight), *golden), "it")


def test_single_precision_is_near_enough(graph: Graph, golden: tuple[np.ndarray, np.ndarray]) -> None:
    check.require_equal(check.parity(to_bytes(graph), *golden), "it")
