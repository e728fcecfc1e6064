"""What a subnet costs, counted from its Blocks alone: MACs, parameters, weight bytes, activation memory.

The counts of `Cost` are those of the deployed network: batch norm folded into the convolution before it, which
therefore has a bias; a multiply-accumulate counts once; biases, activations and pooling count nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ofa_edge.space.block import Block, make_divisible

# Counted once each: searches and plans ask for those of a space's few hundred or thousand blocks again and again.
_MOST_BLOCKS = 1 << 16


@dataclass(frozen=True, slots=True)
class Cost:
    """MACs and parameters are counts; weights and activations are bytes.

    Attributes:
        weight_bytes: in a model file.
        held_bytes: of the weights while the network runs, where that is not what they are in the file.
    """

    macs: int
    params: int
    weight_bytes: int
    peak_activation_bytes: int
    held_bytes: int | None = None

    @property
    def memory_bytes(self) -> int:
        """Weights and the greatest activations together."""
        return self.peak_activation_bytes + (self.weight_bytes if self.held_bytes is None else self.held_bytes)


class Convolution(NamedTuple):
    """A convolution (or the classifier) of a block."""

    out_channels: int
    weights: int
    area: int


def convolutions(block: Block) -> list[Convolution]:
    """Of a block, in order."""
    area_in, area_out = block.in_size**2, block.out_size**2
    before, mid, after, square = block.in_channels, block.mid_channels, block.out_channels, block.kernel**2
    if block.type in ("AvgPool2D", "MaxPool2D"):
        return []
    if block.type == "bottleneck":
        convolutions = [
            Convolution(mid, before * mid, area_in),
            Convolution(mid, mid * mid * square, area_out),
            Convolution(after, mid * after, area_out),
        ]
        if not block.skip:
            convolutions.append(Convolution(after, before * after, area_out))
        return convolutions
    if block.type != "expanded_conv":
        return [Convolution(after, before * after * square, area_out)]
    convolutions = [Convolution(mid, before * mid, area_in)] if _expands(block) else []
    convolutions += [Convolution(mid, mid * square, area_out), Convolution(after, mid * after, area_out)]
    if block.se:
        squeezed = make_divisible(mid / 4)
        convolutions += [Convolution(squeezed, mid * squeezed, 1), Convolution(mid, mid * squeezed, 1)]
    return convolutions


@lru_cache(maxsize=_MOST_BLOCKS)
def block_macs(block: Block) -> int:
    """Multiply-accumulates of one block."""
    return sum(conv.weights * conv.area for conv in convolutions(block))


@lru_cache(maxsize=_MOST_BLOCKS)
def block_params(block: Block) -> int:
    """Weights and biases of one block with batch norm folded."""
    return sum(conv.weights + conv.out_channels for conv in convolutions(block))


def block_weight_bytes(block: Block) -> int:
    """Bytes of the block's parameters at its precision (biases included at the same width)."""
    return block_params(block) * block.bits // 8


@lru_cache(maxsize=_MOST_BLOCKS)
def block_ops(block: Block) -> int:
    """Operators that the block is in a graph, each with its activation fused: what a runtime launches at the least."""
    count = len(convolutions(block))
    if block.type in ("AvgPool2D", "MaxPool2D"):
        return 1
    if block.type == "bottleneck":
        return count + 1 + (not block.skip and block.stride > 1)  # the addition, the pooling beside it
    return count + 2 * block.se + block.skip  # the mean and the scaling of an SE, the addition


def block_peak_activation_bytes(block: Block) -> int:
    """Most bytes of feature maps alive at once inside the block, its input and output included.

    Lifetime analysis of the layers in order: a layer's inputs and output are alive together, and the block's input
    stays alive to the last layer that reads it: to the addition where there is a skip connection, else to the
    projection beside a bottleneck, which runs after its three convolutions.
    """
    steps = {"expanded_conv": _expanded_conv_steps, "bottleneck": _bottleneck_steps}.get(block.type)
    entry, exit_ = _entry(block), _exit(block)
    plain = entry + (2 * exit_ if block.skip else exit_)
    return max(steps(block) if steps else [plain]) * (block.bits // 8)


def _expanded_conv_steps(block: Block) -> list[int]:
    """Values alive at each layer."""
    entry, exit_ = _entry(block), _exit(block)
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
    return steps


def _bottleneck_steps(block: Block) -> list[int]:
    """Values alive at each layer; the input is among them until all that reads it has run."""
    entry, exit_ = _entry(block), _exit(block)
    narrow_in = block.mid_channels * block.in_size**2
    narrow_out = block.mid_channels * block.out_size**2
    steps = [entry + narrow_in + narrow_out, entry + narrow_out + exit_]
    if block.skip:
        return [*steps, entry + 2 * exit_]
    pooled = block.in_channels * block.out_size**2
    if block.stride > 1:
        steps.append(exit_ + entry + pooled)
    return [*steps, exit_ + pooled + exit_, 3 * exit_]


def _entry(block: Block) -> int:
    return block.in_channels * block.in_size**2


def _exit(block: Block) -> int:
    return block.out_channels * block.out_size**2


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
