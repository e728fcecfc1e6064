"""Spaces and the archs in them: what a subnet is, without weights.

In: a space as data (spaces.py). Out: archs (drawn, checked, compared), the Blocks of an arch, and
exact counts. Rules kept: an arch holds one value per active axis and nothing for skipped blocks, so
equal subnets are equal values; the depth of a stage is the number of choices it holds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ofa_edge.errors import UsageError
from ofa_edge.space.block import Block, make_divisible


class BlockChoice(NamedTuple):
    """The elastic choices of one block: depthwise kernel side, and expand ratio mid/in channels."""

    kernel: int
    expand: int


StageChoice = tuple[BlockChoice, ...]


@dataclass(frozen=True, slots=True)
class Arch:
    """One subnet: input resolution in pixels, and for each elastic stage the choices of its active blocks."""

    resolution: int
    stages: tuple[StageChoice, ...]

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(len(stage) for stage in self.stages)


@dataclass(frozen=True, slots=True)
class Stage:
    """An elastic stage: blocks of one output width, the first of which carries the stride."""

    out_channels: int
    stride: int
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    expands: tuple[int, ...]
    activation: str
    se: bool = False

    @property
    def max_depth(self) -> int:
        return max(self.depths)

    def choices(self) -> Iterator[StageChoice]:
        """All values of this stage, shallow first."""
        blocks = [BlockChoice(k, e) for k in self.kernels for e in self.expands]
        for depth in self.depths:
            yield from itertools.product(blocks, repeat=depth)

    def count(self) -> int:
        return sum((len(self.kernels) * len(self.expands)) ** depth for depth in self.depths)


@dataclass(frozen=True, slots=True)
class Layer:
    """A Block in its place: `path` is the prefix of its arrays in a checkpoint, '' for a block alone."""

    path: str
    block: Block


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How pixels become the network's input: (x * 255 - mean) / std on RGB in 0..255, after a resize of the
    short side to resolution / crop and a centre crop."""

    mean: float
    std: float
    crop: float


@dataclass(frozen=True, slots=True)
class Space:
    """All subnets one supernet holds, as data.

    The network is: stem convolution (3x3, stride 2), one fixed depthwise-separable block, the elastic
    `stages`, a 1x1 convolution, global average pooling and the classifier.
    """

    name: str
    resolutions: tuple[int, ...]
    stem_channels: int
    first_channels: int
    activation: str
    stages: tuple[Stage, ...]
    head_channels: int
    classes: int
    preprocess: Preprocess
    bn_eps: float = 1e-3

    # -- blocks ---------------------------------------------------------------------------------
    def layers(self, arch: Arch) -> tuple[Layer, ...]:
        """The arch's blocks in order, each with the path of its arrays.

        Raises:
            UsageError: the arch is not in this space.
        """
        self.check(arch)
        act = self.activation
        size = arch.resolution
        layers = [Layer("stem", Block("Conv", 3, size, self.stem_channels, kernel=3, stride=2, activation=act))]
        size = layers[-1].block.out_size
        first = Block(
            "expanded_conv",
            self.stem_channels,
            size,
            self.first_channels,
            mid_channels=self.stem_channels,
            kernel=3,
            skip=self.stem_channels == self.first_channels,
            activation=act,
        )
        layers.append(Layer("first", first))
        width = self.first_channels
        for s, (stage, choice) in enumerate(zip(self.stages, arch.stages, strict=True)):
            for i, block_choice in enumerate(choice):
                block = self.stage_block(s, i, block_choice, size)
                layers.append(Layer(f"stages.{s}.{i}", block))
                size = block.out_size
            width = stage.out_channels
        head = Block("Conv_1", width, size, self.head_channels, activation=act)
        layers += [
            Layer("head", head),
            Layer("pool", Block("AvgPool2D", self.head_channels, size, self.head_channels)),
            Layer("logits", Block("Logits", self.head_channels, 1, self.classes)),
        ]
        return tuple(layers)

    def stage_block(self, stage_index: int, block_index: int, choice: BlockChoice, in_size: int) -> Block:
        """The Block at one place of an elastic stage, for a choice and an input size in pixels."""
        stage = self.stages[stage_index]
        first = block_index == 0
        before = self.stages[stage_index - 1].out_channels if stage_index else self.first_channels
        in_channels = before if first else stage.out_channels
        stride = stage.stride if first else 1
        return Block(
            "expanded_conv",
            in_channels,
            in_size,
            stage.out_channels,
            mid_channels=make_divisible(in_channels * choice.expand),
            kernel=choice.kernel,
            stride=stride,
            skip=stride == 1 and in_channels == stage.out_channels,
            se=stage.se,
            activation=stage.activation,
        )

    def stage_sizes(self, resolution: int) -> tuple[int, ...]:
        """Input size in pixels of each elastic stage, then of the head."""
        sizes = [-(-resolution // 2)]
        for stage in self.stages:
            sizes.append(-(-sizes[-1] // stage.stride))
        return tuple(sizes)

    def blocks(self, arch: Arch) -> tuple[Block, ...]:
        return tuple(layer.block for layer in self.layers(arch))

    def rows(self, resolution: int) -> list[Block]:
        """Every row an OFA-style table has for one resolution: each place once per choice, repeats included."""
        fixed = self.blocks(self.smallest(resolution))
        rows = [*fixed[:2], *fixed[-3:]]
        for s, (stage, size) in enumerate(zip(self.stages, self.stage_sizes(resolution), strict=False)):
            for i in range(stage.max_depth):
                in_size = size if i == 0 else -(-size // stage.stride)
                rows += [
                    self.stage_block(s, i, BlockChoice(k, e), in_size) for k in stage.kernels for e in stage.expands
                ]
        return rows

    def distinct_blocks(self, resolutions: Sequence[int]) -> list[Block]:
        """The different blocks of all subnets at these resolutions, in a fixed order."""
        return list(dict.fromkeys(block for r in resolutions for block in self.rows(r)))

    # -- archs ----------------------------------------------------------------------------------
    def check(self, arch: Arch) -> None:
        """Raises UsageError, naming the axis, where `arch` is not in this space."""
        if arch.resolution not in self.resolutions:
            raise UsageError(
                f"resolution {arch.resolution} is not in space {self.name}",
                hint=f"use one of {', '.join(map(str, self.resolutions))}",
            )
        if len(arch.stages) != len(self.stages):
            raise UsageError(f"the arch has {len(arch.stages)} stages, space {self.name} has {len(self.stages)}")
        for s, (stage, choice) in enumerate(zip(self.stages, arch.stages, strict=True)):
            if len(choice) not in stage.depths:
                raise UsageError(f"stage {s}: depth {len(choice)} is not one of {list(stage.depths)}")
            for i, (kernel, expand) in enumerate(choice):
                if kernel not in stage.kernels:
                    raise UsageError(f"stage {s} block {i}: kernel {kernel} is not one of {list(stage.kernels)}")
                if expand not in stage.expands:
                    raise UsageError(f"stage {s} block {i}: expand {expand} is not one of {list(stage.expands)}")

    def largest(self, resolution: int | None = None) -> Arch:
        """The subnet with every axis at its greatest value."""
        return Arch(
            resolution or max(self.resolutions),
            tuple((BlockChoice(max(s.kernels), max(s.expands)),) * s.max_depth for s in self.stages),
        )

    def smallest(self, resolution: int | None = None) -> Arch:
        """The subnet with every axis at its least value."""
        return Arch(
            resolution or min(self.resolutions),
            tuple((BlockChoice(min(s.kernels), min(s.expands)),) * min(s.depths) for s in self.stages),
        )

    def sample(self, rng: np.random.Generator, resolution: int | None = None) -> Arch:
        """Draw an arch as OFA does: each axis uniformly and independently (so not uniform over subnets)."""
        stages = []
        for stage in self.stages:
            depth = int(rng.choice(stage.depths))
            stages.append(
                tuple(BlockChoice(int(rng.choice(stage.kernels)), int(rng.choice(stage.expands))) for _ in range(depth))
            )
        return Arch(resolution or int(rng.choice(self.resolutions)), tuple(stages))

    def count(self) -> int:
        """Exact number of subnets at one resolution."""
        return math.prod(stage.count() for stage in self.stages)
