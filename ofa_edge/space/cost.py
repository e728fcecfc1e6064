"""What a subnet costs, counted from its Blocks alone: MACs, parameters, weight bytes, activation memory.

The counts are those of the deployed network: batch norm folded into the convolution before it, which
therefore has a bias; a multiply-accumulate counts once; biases, activations and pooling count nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ofa_edge.space.block import Block, make_divisible


@dataclass(frozen=True, slots=True)
class Cost:
    """MACs and parameters are counts; weights and activations are bytes."""

    macs: int
    params: int
    weight_bytes: int
    peak_activation_bytes: int


def block_macs(block: Block) -> int:
    """Multiply-accumulates of one block."""
    area_in, area_out = block.in_size**2, block.out_size**2
    if block.type == "AvgPool2D":
        return 0
    if block.type != "expanded_conv":
        return area_out * block.in_channels * block.out_channels * block.kernel**2
    mid = block.mid_channels
    macs = area_out * mid * (block.kernel**2 + block.out_channels)
    if _expands(block):
        macs += area_in * block.in_channels * mid
    if block.se:
        macs += 2 * mid * make_divisible(mid / 4)
    return macs


def block_params(block: Block) -> int:
    """Weights and biases of one block with batch norm folded."""
    if block.type == "AvgPool2D":
        return 0
    if block.type != "expanded_conv":
        return (block.in_channels * block.kernel**2 + 1) * block.out_channels
    mid = block.mid_channels
    params = mid * (block.kernel**2 + 1) + (mid + 1) * block.out_channels
    if _expands(block):
        params += (block.in_channels + 1) * mid
    if block.se:
        squeezed = make_divisible(mid / 4)
        params += (mid + 1) * squeezed + (squeezed + 1) * mid
    return params


def block_weight_bytes(block: Block) -> int:
    """Bytes of the block's parameters at its precision (biases included at the same width)."""
    return block_params(block) * block.bits // 8


def block_peak_activation_bytes(block: Block) -> int:
    """Most bytes of feature maps alive at once inside the block, its input and output included.

    Lifetime analysis of the layers in order: a layer's input and output are alive together, and the
    block's input stays alive to its end where a skip connection needs it.
    """
    item = block.bits // 8
    entry = block.in_channels * block.in_size**2
    exit_ = block.out_channels * block.out_size**2
    if block.type != "expanded_conv":
        return (entry + exit_) * item
    held = entry if block.skip else 0
    wide_in = block.mid_channels * block.in_size**2
    wide_out = block.mid_channels * block.out_size**2
    steps = [held + wide_in + wide_out, held + wide_out + exit_]
    if _expands(block):
        steps.append(entry + wide_in)
    if block.se:
        steps.append(held + 2 * wide_out + block.mid_channels)  # maps times gates
    if block.skip:
        steps.append(held + 2 * exit_)
    return max(steps) * item


def cost(blocks: Iterable[Block]) -> Cost:
    """Sum (and, for activations, greatest) over a network's blocks."""
    blocks = list(blocks)
    return Cost(
        macs=sum(map(block_macs, blocks)),
        params=sum(map(block_params, blocks)),
        weight_bytes=sum(map(block_weight_bytes, blocks)),
        peak_activation_bytes=max(map(block_peak_activation_bytes, blocks)),
    )


def _expands(block: Block) -> bool:
    """Whether the block has a 1x1 expansion; with ratio 1 it is left out, as in MobileNetV2 and OFA."""
    return block.mid_channels != block.in_channels
