"""Blocks: the unit that is measured, summed and built.

In: the shapes and choices of one layer group. Out: a value with a versioned key that is complete,
so two blocks with equal keys run the same code on the same shapes and may share one measurement.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ofa_edge.errors import BadFile

KEY_VERSION = "b1"

TYPES = ("Conv", "expanded_conv", "Conv_1", "AvgPool2D", "Conv_2", "Logits", "bottleneck", "MaxPool2D")
ACTIVATIONS = ("none", "relu", "relu6", "h_swish")

# One spelling a number: ASCII digits, no leading zeros, at most seven.
_N = "0|[1-9][0-9]{0,6}"
_KEY = re.compile(
    rf"b1:(?P<type>\w+):in(?P<in_channels>{_N})x(?P<in_size>{_N}):mid(?P<mid_channels>{_N})"
    rf":out(?P<out_channels>{_N}):k(?P<kernel>{_N}):s(?P<stride>[1-9][0-9]{{0,6}}):skip(?P<skip>[01]):se(?P<se>[01])"
    rf":(?P<activation>\w+):(?P<bits>{_N})bit"
)


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round a channel count to a multiple of `divisor`, never below 90 % of it (MobileNetV2's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True, slots=True)
class Block:
    """A concrete layer group.

    Sizes are the side of a square feature map in pixels; channel counts are numbers of feature
    maps. `mid_channels` is the width of the depthwise convolution, or of a bottleneck's 3x3 one (0 for
    groups without one). A bottleneck without `skip` has a projection beside it: average pooling by the
    stride, then a 1x1 convolution (ResNet-D, He et al., CVPR 2019).
    """

    type: str
    in_channels: int
    in_size: int
    out_channels: int
    mid_channels: int = 0
    kernel: int = 1
    stride: int = 1
    skip: bool = False
    se: bool = False
    activation: str = "none"
    bits: int = 32

    @property
    def out_size(self) -> int:
        """Side of the output map: 'same' padding of an odd kernel, or 1 after pooling."""
        if self.type in ("AvgPool2D", "Logits"):
            return 1
        return -(-self.in_size // self.stride)

    @property
    def key(self) -> str:
        """Versioned and complete; `Block.from_key` reads it back."""
        return (
            f"{KEY_VERSION}:{self.type}:in{self.in_channels}x{self.in_size}:mid{self.mid_channels}"
            f":out{self.out_channels}:k{self.kernel}:s{self.stride}:skip{self.skip:d}:se{self.se:d}"
            f":{self.activation}:{self.bits}bit"
        )

    @property
    def weights_key(self) -> str:
        """The key without the input size: blocks that agree in it can share one weight file."""
        return replace(self, in_size=0).key

    @classmethod
    def from_key(cls, key: str) -> Block:
        """Read a key back.

        Raises:
            BadFile: the text is not a block key of a known version.
        """
        match = _KEY.fullmatch(key)
        if match is None or match["type"] not in TYPES or match["activation"] not in ACTIVATIONS:
            raise BadFile(
                f"{key[:120]!r} is not a block key of this version ({KEY_VERSION})",
                hint="use a table written by `ofa-edge profile`, or import it with `ofa-edge table import`",
            )
        fields = match.groupdict()
        numbers = {
            name: int(fields[name])
            for name in ("in_channels", "in_size", "mid_channels", "out_channels", "kernel", "stride", "bits")
        }
        return cls(
            type=fields["type"],
            activation=fields["activation"],
            skip=fields["skip"] == "1",
            se=fields["se"] == "1",
            **numbers,
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """A Block in its place: `path` is the prefix of its arrays in a checkpoint, '' for a block alone."""

    path: str
    block: Block
