"""What is counted of a file's bytes, and of what is held: against files that are written, and as a fact."""

import numpy as np
import pytest

from ofa_edge.graph import build, compiling
from ofa_edge.graph.stored import Stored
from ofa_edge.space.cost import block_params
from ofa_edge.space.spaces import OFA_LITE0, OFA_MBV3_W10, get_space
from ofa_edge.weights.random import random_arrays
from tests.families import SMALL_MBV3, SMALL_RESNET

PRECISIONS = [(runtime, precision) for runtime in ("onnxruntime", "litert") for precision in ("fp32", "fp16", "int8")]


def written(space, arch, runtime, precision):
    """Bytes of a file, and what is counted of it."""
    layers = space.layers(arch)
    graph = build.network(layers, random_arrays(layers, 0))
    images = np.random.default_rng(1).standard_normal((1, 3, arch.resolution, arch.resolution)).astype(np.float32)
    content = compiling.write(graph, runtime, precision, calibration=images if precision == "int8" else None)
    return len(content), Stored(runtime, precision).cost([layer.block for layer in layers]).weight_bytes


@pytest.mark.parametrize(("runtime", "precision"), PRECISIONS)
def test_the_size_of_a_file_is_what_is_counted_within_one_in_a_hundred(runtime, precision):
    if runtime == "litert":
        pytest.importorskip("ai_edge_litert")
    if precision == "int8" and runtime == "litert":
        pytest.importorskip("ai_edge_quantizer")
    size, counted = written(OFA_LITE0, OFA_LITE0.smallest(96), runtime, precision)
    assert counted == pytest.approx(size, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "precision"), PRECISIONS)
@pytest.mark.parametrize("name", ["ofa-lite0", "ofa-mbv3-w1.0", "ofa-proxyless-w1.3", "ofa-resnet50d"])
def test_the_sizes_of_all_families_files_are_what_is_counted(name, runtime, precision):
    space = get_space(name)
    for arch in (space.smallest(128), space.sample(np.random.default_rng(0)).at(128)):
        size, counted = written(space, arch, runtime, precision)
        assert counted == pytest.approx(size, rel=0.01)


def test_what_is_held_is_what_the_runtimes_compute_with():
    layers = OFA_MBV3_W10.layers(OFA_MBV3_W10.largest(128))
    swish, plain = (
        max((x.block for x in layers if x.block.activation == how), key=block_params) for how in ("h_swish", "relu")
    )
    float32 = Stored()
    for runtime, of_swish in (("onnxruntime", 4), ("litert", 2), ("another", 4)):
        half, int8 = Stored(runtime, "fp16"), Stored(runtime, "int8")
        assert half.held_bytes(plain) == float32.held_bytes(plain) > half.file_bytes(plain)
        assert half.peak_bytes(plain) == float32.peak_bytes(plain) == 4 * int8.peak_bytes(plain)
        assert int8.held_bytes(plain) == int8.file_bytes(plain) < float32.file_bytes(plain)
        assert 4 * int8.peak_bytes(swish) == of_swish * float32.peak_bytes(swish)


@pytest.mark.parametrize("space", [SMALL_MBV3, SMALL_RESNET], ids=lambda space: space.name)
def test_a_network_is_the_sum_of_its_blocks_and_of_an_unknown_runtime_the_greatest(space):
    blocks = space.blocks(space.largest(space.resolutions[0]))
    for precision in ("fp32", "fp16", "int8"):
        each = [Stored(runtime, precision) for runtime in ("onnxruntime", "litert", "another")]
        costs = [stored.cost(blocks) for stored in each]
        for stored, cost in zip(each, costs, strict=True):
            assert cost.weight_bytes == sum(map(stored.file_bytes, blocks))
            peak = max(map(stored.peak_bytes, blocks))
            assert cost.memory_bytes == sum(map(stored.held_bytes, blocks)) + peak
        assert costs[2].weight_bytes >= max(costs[0].weight_bytes, costs[1].weight_bytes)
