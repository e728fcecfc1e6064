"""Random weights: reproducible, of the right shapes, and tame enough to time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from ofa_edge.errors import UsageError
from ofa_edge.graph.build import network
from ofa_edge.graph.onnx import to_bytes
from ofa_edge.space.block import Block, Layer
from ofa_edge.space.cost import block_params
from ofa_edge.space.spaces import OFA_LITE0, OFA_MBV3_W10, OFA_RESNET50D
from ofa_edge.weights.layout import weight_shapes
from ofa_edge.weights.random import random_arrays

LAYERS = OFA_LITE0.layers(OFA_LITE0.largest(128))
MBV3 = OFA_MBV3_W10.layers(OFA_MBV3_W10.largest(128))
RESNET = OFA_RESNET50D.layers(OFA_RESNET50D.smallest(128))
BLOCK = Block("expanded_conv", 24, 9, 24, mid_channels=72, kernel=5, skip=True, se=True, activation="h_swish")


def test_equal_seeds_give_equal_arrays():
    first, again, other = (random_arrays(LAYERS, seed) for seed in (1, 1, 2))
    assert list(first) == list(again)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["stem.conv.weight"], other["stem.conv.weight"])


def test_values_do_not_depend_on_the_input_size():
    small, large = (random_arrays([Layer("", replace(BLOCK, in_size=size))], 0) for size in (7, 56))
    assert all(np.array_equal(small[name], large[name]) for name in small)


@pytest.mark.parametrize(
    "block", [BLOCK, replace(BLOCK, mid_channels=24), *(layer.block for layer in LAYERS[:3] + LAYERS[-3:])]
)
def test_arrays_are_float32_and_as_many_as_the_block_has_parameters(block):
    arrays = random_arrays([Layer("p", block)], 0)
    assert all(array.dtype == np.float32 for array in arrays.values())
    assert sum(array.size for array in arrays.values()) == block_params(block)
    names = {f"p.{conv}.{kind}" for conv in weight_shapes(block) for kind in ("weight", "bias")}
    assert set(arrays) == names


@pytest.mark.parametrize(
    ("layers", "least", "most"),
    [(LAYERS, 0.1, 5), (MBV3, 0.01, 5), (RESNET, 0.1, 20)],
    ids=["lite0", "mbv3", "resnet50d"],
)
def test_activations_keep_their_scale_through_the_deepest_network(layers, least, most):
    graph = network(layers, random_arrays(layers, 0))
    model = onnx.load_model_from_string(to_bytes(graph))
    for node in graph.nodes[:-1]:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(node.output.name))
    x = np.random.default_rng(0).standard_normal(graph.input.shape, dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    outputs = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"input": x})
    scales = [float(np.sqrt(np.mean(np.square(value)))) for value in outputs]
    assert min(scales) > least
    assert max(scales) < most


def test_unknown_types_are_refused():
    with pytest.raises(UsageError, match="'shuffle' cannot be built"):
        random_arrays([Layer("", replace(BLOCK, type="shuffle"))], 0)
