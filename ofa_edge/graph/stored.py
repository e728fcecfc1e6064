"""What a subnet's numbers take: bytes of its weights in a model file, and of weights and activations while it runs.

In: a Block, a runtime, a precision. Out: `Stored`: whole bytes for each block, which add up over a network (of
activations the greatest counts). Rules kept: in single precision they are those of space/cost.py; in fp16 and int8 they
are what our writers write for a convolution and an operator, within one in a hundred of whole files, and what the
runtimes were measured to hold. docs/compiling.md has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from ofa_edge.graph import passes
from ofa_edge.space.block import Block
from ofa_edge.space.cost import (
    Cost,
    block_ops,
    block_params,
    block_peak_activation_bytes,
    block_weight_bytes,
    convolutions,
    cost,
)


class _Written(NamedTuple):
    """Bytes in a file: of a weight, of a channel that a convolution gives (bias; in int8 scales and zero points too),
    and of an operator beside them (in int8 ONNX with the conversions around it)."""

    weight: int
    channel: int
    operator: int


# An int8 ONNX file has of each channel a scale (4), a zero point (1), a bias (4), its scale (4) and zero point (4); a
# TFLite file a scale and a zero point of 8 bytes of weights and of biases each, and the bias.
_WRITTEN = {
    ("onnxruntime", "fp16"): _Written(2, 4, 450),
    ("onnxruntime", "int8"): _Written(1, 17, 1550),
    ("litert", "fp16"): _Written(2, 4, 500),
    ("litert", "int8"): _Written(1, 28, 500),
}
# An activation in int8 is a byte, but for those around a hard-swish, which both runtimes compute in float: a block of
# them alone took 1.7 times fp32's memory with ONNX Runtime, .43 times with LiteRT, where others took .3 times.
_SWISH = {"onnxruntime": 4, "litert": 2}


class Runs(Protocol):
    """What says how subnets run."""

    @property
    def runtime(self) -> str: ...

    @property
    def precision(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """How numbers are stored.

    Attributes:
        runtime, precision: as Conditions have them; of a runtime that we write no files for the greatest figures are
            taken, of another precision than fp16 and int8 those of fp32.
    """

    runtime: str = "onnxruntime"
    precision: str = "fp32"

    @classmethod
    def of(cls, runs: Runs | None) -> Stored:
        """As subnets run so (Conditions, RunsOn); in single precision where nobody says how."""
        return PLAIN if runs is None else cls(runs.runtime, runs.precision)

    @property
    def plain(self) -> bool:
        """Whether everything is in single precision."""
        return self.precision not in ("fp16", "int8")

    def file_bytes(self, block: Block) -> int:
        """Of the block's weights in the file."""
        if self.plain:
            return block_weight_bytes(block)
        found = convolutions(block)
        weights, channels, operators = (
            sum(c.weights for c in found),
            sum(c.out_channels for c in found),
            block_ops(block),
        )
        known = [self.runtime] if (self.runtime, self.precision) in _WRITTEN else ["onnxruntime", "litert"]
        return max(self._written(runtime, block, weights, channels, operators) for runtime in known)

    def _written(self, runtime: str, block: Block, weights: int, channels: int, operators: int) -> int:
        written = _WRITTEN[runtime, self.precision]
        more = passes.parts(block.kernel, runtime) - 1 if block.type == "expanded_conv" else 0
        channels, operators = channels + more * block.mid_channels, operators + 2 * more
        return written.weight * weights + written.channel * channels + written.operator * operators

    def held_bytes(self, block: Block) -> int:
        """Of the block's weights once while it runs: both runtimes widen half precision when they take a file, and
        compute with int8 as it is."""
        return 4 * block_params(block) if self.precision == "fp16" else self.file_bytes(block)

    def peak_bytes(self, block: Block) -> int:
        """The greatest of the block's activations that are there together."""
        peak = block_peak_activation_bytes(block)
        if self.precision != "int8":
            return peak
        size = 1 if block.activation != "h_swish" else _SWISH.get(self.runtime, max(_SWISH.values()))
        return peak // (block.bits // 8) * size

    def cost(self, blocks: Sequence[Block]) -> Cost:
        """Of a network."""
        found = cost(blocks)
        if self.plain:
            return found
        written, held = sum(map(self.file_bytes, blocks)), sum(map(self.held_bytes, blocks))
        peak = max(map(self.peak_bytes, blocks))
        return replace(
            found, weight_bytes=written, peak_activation_bytes=peak, held_bytes=None if held == written else held
        )


PLAIN = Stored()

# Why figures of single precision are those of half precision, too.
HALF = (
    "weights alone are halved, and the runtime widens them when it loads the file (measured: .98 to 1.01 times fp32's "
    "latency)"
)
