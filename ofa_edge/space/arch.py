"""Spaces and the archs in them: what a subnet is, without weights.

In: a space as data (spaces.py). Out: archs (drawn, checked, compared), the Blocks of an arch, and
exact counts. Rules kept: an arch holds one value per active axis and nothing for skipped blocks, so
equal subnets are equal values; the depth of a stage is the number of choices it holds; an elastic
width is the number of channels itself, so two multipliers that round to one width are one value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ofa_edge import preprocess
from ofa_edge.errors import UsageError
from ofa_edge.space.block import Block, Layer, make_divisible
from ofa_edge.space.ends import Head, MobileStem, ResNetStem

_N = TypeVar("_N", int, float)


class BlockChoice(NamedTuple):
    """The elastic choices of one block: kernel side, and expand ratio (mid channels to in channels, or to out
    channels in a bottleneck)."""

    kernel: int
    expand: float


StageChoice = tuple[BlockChoice, ...]


@dataclass(frozen=True, slots=True)
class Arch:
    """One subnet.

    Attributes:
        resolution: side of the input in pixels.
        stages: for each elastic stage the choices of its active blocks.
        widths: output channels where they are elastic: the stem's middle, the stem, each stage; else ().
        stem_depth: how many of the stem's optional blocks run.
    """

    resolution: int
    stages: tuple[StageChoice, ...]
    widths: tuple[int, ...] = ()
    stem_depth: int = 0

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(len(stage) for stage in self.stages)

    def at(self, resolution: int) -> Arch:
        """The same subnet at another input size; `at(0)` is what its sizes have in common."""
        return replace(self, resolution=resolution)


@dataclass(frozen=True, slots=True)
class Stage:
    """An elastic stage: blocks of one output width, the first of which carries the stride.

    Attributes:
        out_channels: output channels, the greatest of `widths` where these are elastic.
        depths: numbers of blocks it may have.
        widths: output channels it may have, () where they are fixed. Equal entries are one value; they are kept since
            OFA's dicts count them (codecs.py).
        block: 'expanded_conv' (inverted bottleneck with a depthwise convolution) or 'bottleneck' (ResNet's).
    """

    out_channels: int
    stride: int
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    expands: tuple[float, ...]
    activation: str
    se: bool = False
    widths: tuple[int, ...] = ()
    block: str = "expanded_conv"

    @property
    def max_depth(self) -> int:
        return max(self.depths)

    @property
    def width_choices(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.widths)) or (self.out_channels,)

    def choices(self) -> Iterator[StageChoice]:
        """All values of this stage's blocks, shallow first."""
        blocks = [BlockChoice(k, e) for k in self.kernels for e in self.expands]
        for depth in self.depths:
            yield from itertools.product(blocks, repeat=depth)

    def count(self) -> int:
        return sum((len(self.kernels) * len(self.expands)) ** depth for depth in self.depths)

    def mid_channels(self, in_channels: int, out_channels: int, expand: float) -> int:
        """Width inside a block, rounded as the reference implementation of Once-for-All does."""
        base = out_channels if self.block == "bottleneck" else in_channels
        return make_divisible(round(base * expand))


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How pixels become the network's input: (x * 255 - mean) / std on RGB in 0..255, after a resize of the short
    side to resolution / crop and a centre crop. Mean and deviation are one number, or one a channel."""

    mean: float | tuple[float, float, float]
    std: float | tuple[float, float, float]
    crop: float

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """Images (..., H, W, 3) in 0..255 as float32, still channels last."""
        return preprocess.scale(pixels, self.mean, self.std)

    def as_json(self) -> dict[str, Any]:
        """As manifests and table headers write it."""
        values = {"mean": self.mean, "std": self.std}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()} | {"crop": self.crop}


@dataclass(frozen=True, slots=True)
class Space:
    """All subnets one supernet holds, as data: stem, elastic stages, head."""

    name: str
    resolutions: tuple[int, ...]
    stem: MobileStem | ResNetStem
    stages: tuple[Stage, ...]
    head: Head
    classes: int
    preprocess: Preprocess
    bn_eps: float = 1e-5

    # -- blocks ---------------------------------------------------------------------------------
    def layers(self, arch: Arch) -> tuple[Layer, ...]:
        """The arch's blocks in order, each with the path of its arrays.

        Raises:
            UsageError: the arch is not in this space.
        """
        self.check(arch)
        layers, around = self.stem.layers(arch.resolution, arch.widths[:2], arch.stem_depth), self._around(arch.widths)
        for s, choice in enumerate(arch.stages):
            for i, block_choice in enumerate(choice):
                size = layers[-1].block.out_size
                block = self._block(s, i, block_choice, size, around[s], around[s + 1])
                layers.append(Layer(f"stages.{s}.{i}", block))
        last = layers[-1].block
        layers += self.head.layers(last.out_channels, last.out_size, self.classes)
        return tuple(layers)

    def stage_block(
        self, stage_index: int, block_index: int, choice: BlockChoice, in_size: int, widths: Sequence[int] = ()
    ) -> Block:
        """The Block at one place of an elastic stage, for a choice, an input size in pixels and an arch's `widths`
        (the greatest where left out)."""
        around = self._around(widths or tuple(map(max, self.width_choices)))
        return self._block(stage_index, block_index, choice, in_size, around[stage_index], around[stage_index + 1])

    def _around(self, widths: Sequence[int]) -> Sequence[int]:
        """Output channels of the stem and of each stage, for an arch's widths."""
        return widths[1:] or [self.stem.out_channels[0], *(stage.out_channels for stage in self.stages)]

    def _block(self, s: int, i: int, choice: BlockChoice, in_size: int, before: int, width: int) -> Block:
        stage = self.stages[s]
        in_channels = width if i else before
        stride = 1 if i else stage.stride
        # A ResNet stage's first block always has its projection, as in the reference implementation.
        skip = stride == 1 and in_channels == width and (i > 0 or stage.block != "bottleneck")
        return Block(
            stage.block,
            in_channels,
            in_size,
            width,
            mid_channels=stage.mid_channels(in_channels, width, choice.expand),
            kernel=choice.kernel,
            stride=stride,
            skip=skip,
            se=stage.se,
            activation=stage.activation,
        )

    def stage_sizes(self, resolution: int) -> tuple[int, ...]:
        """Input size in pixels of each elastic stage, then of the head."""
        sizes = [self.stem.out_size(resolution)]
        for stage in self.stages:
            sizes.append(-(-sizes[-1] // stage.stride))
        return tuple(sizes)

    def blocks(self, arch: Arch) -> tuple[Block, ...]:
        return tuple(layer.block for layer in self.layers(arch))

    def rows(self, resolution: int) -> list[Block]:
        """The different blocks of all subnets at one resolution, which are the rows OFA's tables have for it."""
        stem = [
            layer.block
            for widths in itertools.product(*self.stem.width_choices)
            for layer in self.stem.layers(resolution, widths, max(self.stem.depths))
        ]
        sizes = self.stage_sizes(resolution)
        head = [
            layer.block
            for width in self.stages[-1].width_choices
            for layer in self.head.layers(width, sizes[-1], self.classes)
        ]
        rows = [*stem, *head]
        widths_before = self.stem.out_channels
        for s, stage in enumerate(self.stages):
            for i in range(min(stage.max_depth, 2)):  # the third block of a stage is as the second
                rows += [
                    self._block(s, i, BlockChoice(k, e), sizes[s + 1] if i else sizes[s], before, width)
                    for before in (widths_before if i == 0 else widths_before[:1])
                    for width in stage.width_choices
                    for k in stage.kernels
                    for e in stage.expands
                ]
            widths_before = stage.width_choices
        return list(dict.fromkeys(rows))

    def distinct_blocks(self, resolutions: Sequence[int]) -> list[Block]:
        """The different blocks of all subnets at these resolutions, in a fixed order."""
        return list(dict.fromkeys(block for r in resolutions for block in self.rows(r)))

    # -- axes -----------------------------------------------------------------------------------
    @property
    def elastic_width(self) -> bool:
        """Whether archs say how wide the stem and the stages are."""
        return bool(self.width_choices)

    @property
    def width_choices(self) -> tuple[tuple[int, ...], ...]:
        """What each entry of an arch's `widths` may be; () where widths are fixed."""
        if not self.stem.width_choices:
            return ()
        return (*self.stem.width_choices, *(stage.width_choices for stage in self.stages))

    def top(
        self,
        *,
        depths: int | None = None,
        kernels: int | None = None,
        expands: int | None = None,
        widths: int | None = None,
    ) -> Space:
        """The sub-space with only the so many greatest values of an axis (all where None): what a phase of
        progressive shrinking trains. Its archs are archs of this space."""
        stages = tuple(
            replace(
                stage,
                depths=_greatest(stage.depths, depths),
                kernels=_greatest(stage.kernels, kernels),
                expands=_greatest(stage.expands, expands),
                widths=_greatest(stage.widths, widths),
            )
            for stage in self.stages
        )
        stem = self.stem
        if isinstance(stem, ResNetStem):
            stem = replace(
                stem,
                mid_widths=_greatest(stem.mid_widths, widths),
                out_widths=_greatest(stem.out_widths, widths),
                depths=_greatest(stem.depths, depths),
            )
        return replace(self, stem=stem, stages=stages)

    def with_classes(self, classes: int) -> Space:
        """The same space with another number of classes."""
        return replace(self, classes=classes)

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
        if len(arch.widths) != len(self.width_choices):
            raise UsageError(
                f"the arch has {len(arch.widths)} elastic widths, space {self.name} has {len(self.width_choices)}"
            )
        for place, (width, choices) in enumerate(zip(arch.widths, self.width_choices, strict=True)):
            if width not in choices:
                raise UsageError(f"width {place}: {width} channels is not one of {list(choices)}")
        if arch.stem_depth not in self.stem.depths:
            raise UsageError(f"stem depth {arch.stem_depth} is not one of {list(self.stem.depths)}")

    def largest(self, resolution: int | None = None) -> Arch:
        """The subnet with every axis at its greatest value."""
        return Arch(
            resolution or max(self.resolutions),
            tuple((BlockChoice(max(s.kernels), max(s.expands)),) * s.max_depth for s in self.stages),
            tuple(map(max, self.width_choices)),
            max(self.stem.depths),
        )

    def smallest(self, resolution: int | None = None) -> Arch:
        """The subnet with every axis at its least value."""
        return Arch(
            resolution or min(self.resolutions),
            tuple((BlockChoice(min(s.kernels), min(s.expands)),) * min(s.depths) for s in self.stages),
            tuple(map(min, self.width_choices)),
            min(self.stem.depths),
        )

    def sample(self, rng: np.random.Generator, resolution: int | None = None) -> Arch:
        """Draw an arch as OFA does: each axis uniformly and independently (so not uniform over subnets)."""
        stages = []
        for stage in self.stages:
            depth = int(rng.choice(stage.depths))
            stages.append(
                tuple(
                    BlockChoice(int(rng.choice(stage.kernels)), rng.choice(stage.expands).item()) for _ in range(depth)
                )
            )
        widths = tuple(int(rng.choice(choices)) for choices in self.width_choices)
        stem_depth = int(rng.choice(self.stem.depths)) if len(self.stem.depths) > 1 else self.stem.depths[0]
        return Arch(resolution or int(rng.choice(self.resolutions)), tuple(stages), widths, stem_depth)

    def count(self) -> int:
        """Exact number of subnets at one resolution."""
        widths = math.prod(len(choices) for choices in self.width_choices)
        return math.prod(stage.count() for stage in self.stages) * widths * len(self.stem.depths)


def _greatest(values: tuple[_N, ...], count: int | None) -> tuple[_N, ...]:
    return values if count is None else tuple(sorted(values)[-count:])
