"""What cost.py counts from Blocks equals what is in the built graph, and what PyTorch executes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from ofa_edge.graph.build import network
from ofa_edge.graph.ir import Graph, Op
from ofa_edge.space.block import ACTIVATIONS, Block, Layer, make_divisible
from ofa_edge.space.cost import block_ops, cost
from ofa_edge.space.spaces import OFA_LITE0, OFA_MBV3_W10, resnet_d
from ofa_edge.weights.layout import array_name, weight_shapes
from ofa_edge.weights.random import random_arrays

ITEM = 4  # bytes of a float32


def macs_of(graph: Graph) -> int:
    """One multiply-accumulate for each weight and each place it is used at."""
    total = 0
    for node in graph.nodes:
        if node.op in (Op.CONV, Op.LINEAR):
            total += graph.arrays[node.weight].size * math.prod(node.output.shape[2:])
    return total


def peak_bytes_of(graph: Graph) -> int:
    """Lifetimes by brute force: at each node its output, and all that was made before and is read at it or later.

    An activation is part of its node, so it works in place.
    """
    peak = 0
    made = [graph.input]
    for i, node in enumerate(graph.nodes):
        still_read = {tensor for later in graph.nodes[i:] for tensor in later.inputs}
        alive = [node.output, *(tensor for tensor in made if tensor in still_read)]
        peak = max(peak, sum(math.prod(tensor.shape) for tensor in alive) * ITEM)
        made.append(node.output)
    return peak


def zeros(layers: Sequence[Layer]) -> dict[str, np.ndarray]:
    """Folded arrays that take no memory."""
    shapes = {}
    for layer in layers:
        for conv, shape in weight_shapes(layer.block).items():
            shapes[array_name(layer.path, conv, "weight")] = shape
            shapes[array_name(layer.path, conv, "bias")] = shape[:1]
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def _assert_costs_are_the_graphs(layers: Sequence[Layer]) -> None:
    counted = cost(layer.block for layer in layers)
    graph = network(layers, zeros(layers))
    assert sum(block_ops(layer.block) for layer in layers) == len(graph.nodes)
    assert counted.macs == macs_of(graph)
    assert counted.params == sum(array.size for array in graph.arrays.values())
    assert counted.weight_bytes == sum(array.nbytes for array in graph.arrays.values())
    assert counted.peak_activation_bytes == peak_bytes_of(graph)


EVERYTHING = Block("expanded_conv", 16, 6, 16, mid_channels=64, kernel=5, skip=True, se=True, activation="h_swish")


@st.composite
def bottlenecks(draw: st.DrawFn) -> Block:
    """ResNet's, with and without the projection beside it; narrowing ones and odd sizes included."""
    in_channels = 8 * draw(st.integers(1, 16))
    skip = draw(st.booleans())
    return Block(
        "bottleneck",
        in_channels,
        draw(st.integers(1, 30)),
        in_channels if skip else 8 * draw(st.integers(1, 16)),
        mid_channels=8 * draw(st.integers(1, 24)),
        kernel=3,
        stride=1 if skip else draw(st.integers(1, 2)),
        skip=skip,
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )


@st.composite
def inverted(draw: st.DrawFn) -> Block:
    """Inverted bottlenecks, narrowing ones and single pixels included."""
    in_channels = 8 * draw(st.integers(1, 8))
    skip = draw(st.booleans())
    return Block(
        "expanded_conv",
        in_channels,
        draw(st.integers(1, 40)),
        in_channels if skip else 8 * draw(st.integers(1, 24)),
        mid_channels=make_divisible(in_channels * draw(st.sampled_from((0.5, 1, 2, 6)))),
        kernel=draw(st.sampled_from((3, 5, 7))),
        stride=1 if skip else draw(st.integers(1, 3)),
        skip=skip,
        se=draw(st.booleans()),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )


@settings(deadline=None)
@example(EVERYTHING)
@example(replace(EVERYTHING, mid_channels=16))
@example(replace(EVERYTHING, mid_channels=16, se=False))
@given(inverted() | bottlenecks())
def test_costs_of_any_block_are_those_of_its_graph(block):
    _assert_costs_are_the_graphs([Layer("", block)])


# All types of blocks; ResNets of full width are the same with larger numbers.
FAMILIES = [OFA_LITE0, OFA_MBV3_W10, resnet_d("narrow", (0.125, 0.25))]
by_family = pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)


@by_family
def test_costs_of_the_spaces_blocks_are_those_of_their_graphs(space):
    for block in space.distinct_blocks((space.resolutions[1],)):
        _assert_costs_are_the_graphs([Layer("", block)])


@by_family
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_costs_of_subnets_are_those_of_their_graphs(space, seed):
    _assert_costs_are_the_graphs(space.layers(space.sample(np.random.default_rng(seed))))


def test_macs_are_what_pytorch_executes(reference):
    se = [Layer("", EVERYTHING)]
    for layers in (se, OFA_LITE0.layers(OFA_LITE0.largest(96)), OFA_LITE0.layers(OFA_LITE0.smallest(96))):
        first = layers[0].block
        with FlopCounterMode(display=False) as counter:
            reference(
                layers, random_arrays(layers, 0), np.zeros((1, first.in_channels, *[first.in_size] * 2), np.float32)
            )
        assert counter.get_total_flops() == 2 * cost(layer.block for layer in layers).macs
