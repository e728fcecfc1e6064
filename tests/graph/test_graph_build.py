"""Blocks to Graph: shapes, names, and one error for each way the input can be wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.graph.build import network
from ofa_edge.graph.ir import Activation, Op
from ofa_edge.space.block import Block, Layer
from ofa_edge.space.spaces import OFA_LITE0
from ofa_edge.weights.random import random_arrays

BLOCK = Block("expanded_conv", 24, 9, 24, mid_channels=72, kernel=5, skip=True, activation="relu6")


def test_a_network_is_one_chain_of_checked_shapes():
    arch = OFA_LITE0.sample(np.random.default_rng(3))
    layers = OFA_LITE0.layers(arch)
    graph = network(layers, random_arrays(layers, 0))
    assert graph.input.shape == (1, 3, arch.resolution, arch.resolution)
    assert graph.output.shape == (1, OFA_LITE0.classes)
    made = {graph.input}
    for node in graph.nodes:
        assert set(node.inputs) <= made
        made.add(node.output)
    assert graph.nodes[-1].output == graph.output
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)


def test_shapes_of_every_block_of_the_space_follow_its_blocks():
    for layer in OFA_LITE0.layers(OFA_LITE0.largest(112)):
        alone = Layer("", layer.block)
        graph = network([alone], random_arrays([alone], 0))
        assert graph.input.shape == (1, layer.block.in_channels, layer.block.in_size, layer.block.in_size)
        assert graph.output.shape[:2] == (1, layer.block.out_channels)
        assert graph.output.shape[2:] in ((), (layer.block.out_size, layer.block.out_size))


def test_the_nodes_of_a_block_with_everything():
    layer = Layer("x", replace(BLOCK, se=True, activation="h_swish"))
    graph = network([layer], random_arrays([layer], 0))
    assert [(node.name, node.op, node.activation) for node in graph.nodes] == [
        ("x.expand", Op.CONV, Activation.H_SWISH),
        ("x.depthwise", Op.CONV, Activation.H_SWISH),
        ("x.se_mean", Op.MEAN, Activation.NONE),
        ("x.se_reduce", Op.CONV, Activation.RELU),
        ("x.se_expand", Op.CONV, Activation.H_SIGMOID),
        ("x.se_scale", Op.SCALE, Activation.NONE),
        ("x.project", Op.CONV, Activation.NONE),
        ("x.add", Op.ADD, Activation.NONE),
    ]
    assert [tensor.name for tensor in graph.nodes[-1].inputs] == ["input", "x.project"]


def test_the_nodes_of_a_bottleneck_with_a_projection() -> None:
    layer = Layer("x", Block("bottleneck", 24, 9, 48, mid_channels=16, kernel=3, stride=2, activation="relu"))
    graph = network([layer], random_arrays([layer], 0))
    assert [(node.name, node.op, node.activation) for node in graph.nodes] == [
        ("x.reduce", Op.CONV, Activation.RELU),
        ("x.conv", Op.CONV, Activation.RELU),
        ("x.expand", Op.CONV, Activation.NONE),
        ("x.average", Op.AVERAGE_POOL, Activation.NONE),
        ("x.downsample", Op.CONV, Activation.NONE),
        ("x.add", Op.ADD, Activation.RELU),
    ]
    assert [tensor.name for tensor in graph.nodes[3].inputs] == ["input"]
    assert [tensor.name for tensor in graph.nodes[-1].inputs] == ["x.expand", "x.downsample"]


def test_a_convolution_adds_its_input_after_the_activation() -> None:
    layer = Layer("x", Block("Conv", 24, 9, 24, kernel=3, skip=True, activation="relu"))
    graph = network([layer], random_arrays([layer], 0))
    assert [(node.op, node.activation) for node in graph.nodes] == [
        (Op.CONV, Activation.RELU),
        (Op.ADD, Activation.NONE),
    ]


def test_expansion_by_one_has_no_expansion_layer():
    layer = Layer("", replace(BLOCK, mid_channels=24, skip=False))
    assert [node.name for node in network([layer], random_arrays([layer], 0)).nodes] == ["depthwise", "project"]


def test_a_layer_is_built_alone_out_of_the_networks_arrays():
    layers = OFA_LITE0.layers(OFA_LITE0.smallest())
    arrays = random_arrays(layers, 0)
    graph = network([layers[3]], arrays)
    assert set(graph.arrays) == {name for name in arrays if name.startswith(layers[3].path + ".")}
    assert all(graph.arrays[name] is arrays[name] for name in graph.arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, "not 8-bit"),
        ({"activation": "gelu"}, "unknown activation 'gelu'"),
        ({"in_channels": 0, "skip": False}, "must be positive"),
        ({"in_size": 0}, "must be positive"),
        ({"kernel": 4}, "kernel 4 is not odd"),
        ({"kernel": -1}, "kernel -1 is not odd"),
        ({"stride": 0}, "stride 0 is not positive"),
        ({"stride": 2}, "a skip needs stride 1"),
        ({"out_channels": 40}, "a skip needs stride 1"),
        ({"mid_channels": 0}, "needs mid channels"),
        ({"type": "Conv"}, "a Conv has no mid channels"),
        ({"type": "Conv", "stride": 2, "mid_channels": 0}, "a skip needs stride 1"),
        ({"type": "Conv_1", "mid_channels": 0}, "a Conv_1 has no skip"),
        ({"type": "Conv_1", "skip": False, "mid_channels": 0, "se": True}, "a Conv_1 has no SE"),
        ({"type": "bottleneck", "se": True}, "a bottleneck has no SE"),
        ({"type": "bottleneck", "mid_channels": 0}, "bottleneck needs mid channels"),
        ({"type": "shuffle"}, "blocks of type 'shuffle' cannot be built"),
        ({"type": "AvgPool2D", "skip": False, "mid_channels": 0}, "a AvgPool2D has no kernel or stride"),
        ({"type": "MaxPool2D", "skip": False, "mid_channels": 0}, "a MaxPool2D has no activation"),
        ({"type": "AvgPool2D", "skip": False, "mid_channels": 0, "kernel": 1}, "a AvgPool2D has no activation"),
    ],
)
def test_blocks_that_make_no_sense_are_refused(change, message):
    block = replace(BLOCK, **change)
    with pytest.raises(UsageError, match=message):
        network([Layer("", block)], {})


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Block("AvgPool2D", 16, 4, 24), "pooling keeps the number of channels"),
        (Block("MaxPool2D", 16, 4, 24, kernel=3, stride=2), "pooling keeps the number of channels"),
        (Block("Logits", 16, 2, 10), "put AvgPool2D before it"),
        (Block("Logits", 16, 1, 10, activation="relu"), "a Logits has no activation"),
    ],
)
def test_head_blocks_that_make_no_sense_are_refused(block, message):
    with pytest.raises(UsageError, match=message):
        network([Layer("", block)], {})


def test_layers_must_follow_each_other():
    layers = [Layer("a", BLOCK), Layer("b", replace(BLOCK, in_size=10))]
    with pytest.raises(UsageError, match="'b' takes 1 x 24 x 10 x 10, the layer before gives 1 x 24 x 9 x 9"):
        network(layers, random_arrays(layers, 0))


def test_no_layers_and_repeated_paths_are_refused():
    with pytest.raises(UsageError, match="at least one layer"):
        network([], {})
    with pytest.raises(UsageError, match="two layers have the path 'a'"):
        network([Layer("a", BLOCK)] * 2, random_arrays([Layer("a", BLOCK)], 0))


def _broken(change: str) -> dict[str, np.ndarray]:
    arrays = random_arrays([Layer("p", BLOCK)], 0)
    name = "p.depthwise.weight"
    if change == "missing":
        del arrays["p.project.bias"]
    elif change == "dtype":
        arrays[name] = arrays[name].astype(np.float16)
    elif change == "shape":
        arrays[name] = arrays[name][:, :, 1:-1, 1:-1]
    elif change == "bias":
        arrays["p.expand.bias"] = np.float32(0).reshape(())
    else:
        arrays[name][3, 0, 1, 1] = float(change)
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "there is no array 'p.project.bias'"),
        ("dtype", "'p.depthwise.weight' is float16, not float32"),
        ("shape", "'p.depthwise.weight' is 72 x 1 x 3 x 3, the block needs 72 x 1 x 5 x 5"),
        ("bias", "'p.expand.bias' is a scalar, the block needs 72"),
        ("nan", "'p.depthwise.weight' holds a value that is not a finite number"),
        ("inf", "'p.depthwise.weight' holds a value that is not a finite number"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    with pytest.raises(BadFile, match=message) as caught:
        network([Layer("p", BLOCK)], _broken(change))
    assert caught.value.hint


def test_errors_have_a_message_for_people():
    with pytest.raises(OfaEdgeError) as caught:
        network([Layer("stages.1.0", replace(BLOCK, kernel=4))], {})
    assert caught.value.message.startswith("layer 'stages.1.0': ")
    assert caught.value.details["block"].startswith("b1:expanded_conv")
