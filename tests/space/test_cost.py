"""Costs: figures published for EfficientNet-Lite0, hand counts, and sums over subnets. Layer by layer they are
compared with the built graph and with what PyTorch executes in tests/graph/test_graph_cost.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ofa_edge.space.block import Block
from ofa_edge.space.cost import (
    block_macs,
    block_params,
    block_peak_activation_bytes,
    block_weight_bytes,
    cost,
)
from ofa_edge.space.spaces import OFA_LITE0


def test_the_largest_subnet_has_the_published_size_of_efficientnet_lite0():
    # github.com/tensorflow/tpu, efficientnet/lite: 4.7 M parameters and 407 M multiply-adds at 224 x 224, 1000 classes.
    lite0 = replace(OFA_LITE0, classes=1000, resolutions=(224,))
    found = cost(lite0.blocks(lite0.largest(224)))
    assert found.params == pytest.approx(4.7e6, rel=0.02)
    assert found.macs == pytest.approx(407e6, rel=0.06)


# in 16 x 10 x 10, mid 64, out 24, k 3, stride 2 -> 5 x 5
STRIDED = Block("expanded_conv", 16, 10, 24, mid_channels=64, kernel=3, stride=2, activation="relu6")
# in 16 x 6 x 6, mid 16 (no expansion), out 16, k 5, with its skip
PLAIN = Block("expanded_conv", 16, 6, 16, mid_channels=16, kernel=5, skip=True, activation="relu6")
# in 16 x 6 x 6, mid 64, SE squeezed to 16
SE = Block("expanded_conv", 16, 6, 16, mid_channels=64, kernel=3, skip=True, se=True, activation="h_swish")
STEM = Block("Conv", 3, 9, 8, kernel=3, stride=2)
POOL = Block("AvgPool2D", 8, 5, 8)
LOGITS = Block("Logits", 8, 1, 10)


@pytest.mark.parametrize(
    ("block", "macs", "params", "peak"),
    [
        # expand + depthwise + project; the peak is in the depthwise: 64 maps of 10 x 10 and of 5 x 5
        (
            STRIDED,
            100 * 16 * 64 + 25 * 64 * 9 + 25 * 64 * 24,
            17 * 64 + 10 * 64 + 65 * 24,
            4 * (64 * 100 + 64 * 25),
        ),
        # entry, the depthwise's output, the projection's output; or entry, projection, sum: 3 x 16 maps either way
        (PLAIN, 36 * 16 * 25 + 36 * 16 * 16, 26 * 16 + 17 * 16, 4 * 3 * 16 * 36),
        # the gates multiply 64 maps into 64 maps while the entry waits for its skip
        (
            SE,
            36 * (16 * 64 + 64 * 9 + 64 * 16) + 2 * 64 * 16,
            17 * 64 + 10 * 64 + 65 * 16 + 17 * 64 + 65 * 16,
            4 * (16 * 36 + 2 * 64 * 36 + 64),
        ),
        (STEM, 25 * 27 * 8, 28 * 8, 4 * (3 * 81 + 8 * 25)),
        (POOL, 0, 0, 4 * (8 * 25 + 8)),
        (LOGITS, 80, 90, 4 * (8 + 10)),
    ],
    ids=["strided", "plain", "se", "stem", "pool", "logits"],
)
def test_hand_counts(block, macs, params, peak):
    assert block_macs(block) == macs
    assert block_params(block) == params
    assert block_weight_bytes(block) == 4 * params
    assert block_peak_activation_bytes(block) == peak


# in 16 x 6 x 6, mid 8, out 24, stride 2 -> 3 x 3, with a projection of the pooled entry beside it
PROJECTED = Block("bottleneck", 16, 6, 24, mid_channels=8, kernel=3, stride=2, activation="relu")
PROJECTED_MACS = 36 * 16 * 8 + 9 * (8 * 8 * 9 + 8 * 24 + 16 * 24)
# in and out 16 x 6 x 6, mid 40: wider inside, so that the peak is there
HELD = Block("bottleneck", 16, 6, 16, mid_channels=40, kernel=3, skip=True, activation="relu")
SKIPPED = Block("Conv", 16, 6, 16, kernel=3, skip=True, activation="relu")


@pytest.mark.parametrize(
    ("block", "macs", "params", "peak"),
    [
        # pooling: the branch's 24 maps wait while 16 maps of 6 x 6 become 16 of 3 x 3
        (PROJECTED, PROJECTED_MACS, 17 * 8 + (72 + 1) * 8 + 9 * 24 + 17 * 24, 24 * 9 + 16 * 36 + 16 * 9),
        # the 3x3 convolution: 40 maps in, 40 out, and the entry
        (HELD, 36 * (16 * 40 + 40 * 40 * 9 + 40 * 16), 17 * 40 + 361 * 40 + 41 * 16, 36 * (16 + 40 + 40)),
        # the addition: entry, convolution, sum
        (SKIPPED, 36 * 16 * 16 * 9, 145 * 16, 36 * 3 * 16),
        (Block("MaxPool2D", 16, 6, 16, kernel=3, stride=2), 0, 0, 16 * 36 + 16 * 9),
        (Block("Conv_2", 16, 1, 24, activation="h_swish"), 16 * 24, 17 * 24, 16 + 24),
    ],
    ids=["projected", "held", "skipped", "max pool", "conv 2"],
)
def test_hand_counts_of_resnets_blocks(block, macs, params, peak):
    assert (block_macs(block), block_params(block)) == (macs, params)
    assert block_peak_activation_bytes(block) == 4 * peak


@pytest.mark.parametrize("bits", [8, 16])
def test_narrow_numbers_take_fewer_bytes_and_as_many_macs(bits):
    narrow = replace(STRIDED, bits=bits)
    assert block_macs(narrow) == block_macs(STRIDED)
    assert block_params(narrow) == block_params(STRIDED)
    assert block_weight_bytes(narrow) * 32 == block_weight_bytes(STRIDED) * bits
    assert block_peak_activation_bytes(narrow) * 32 == block_peak_activation_bytes(STRIDED) * bits


def test_a_networks_cost_sums_counts_and_takes_the_greatest_peak():
    blocks = [STEM, replace(PLAIN, in_channels=8, out_channels=8, mid_channels=8, in_size=5), POOL, LOGITS]
    total = cost(iter(blocks))
    assert total.macs == sum(map(block_macs, blocks))
    assert total.params == sum(map(block_params, blocks))
    assert total.weight_bytes == 4 * total.params
    assert total.peak_activation_bytes == max(map(block_peak_activation_bytes, blocks))
