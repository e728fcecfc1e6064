"""Models for searching in tests: sums of drawn numbers, and the space they are checked on by listing it.

The numbers are multiples of a power of two, so sums are exact in floating point and ties are frequent where the
step is coarse.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np

from ofa_edge.latency.models.model import Estimate
from ofa_edge.search.budget import Budget
from ofa_edge.space.arch import Arch, Preprocess, Space, Stage
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.block import Block
from ofa_edge.space.cost import Cost, cost
from ofa_edge.space.ends import Head, MobileStem
from ofa_edge.space.spaces import resnet_d

# Every kind of place: strided, plain, widening, SE, expand 1, one-choice stages.
SMALL = Space(
    name="small",
    resolutions=(17, 32),
    stem=MobileStem(8, "relu6", 8, "relu6"),
    stages=(
        Stage(16, 2, (1, 2), (3, 5), (3, 6), "relu6"),
        Stage(16, 1, (2,), (3,), (1, 4), "h_swish", se=True),
        Stage(24, 2, (1, 2), (5, 7), (4,), "relu"),
    ),
    head=Head(64, "relu6"),
    classes=5,
    preprocess=Preprocess(mean=127.0, std=128.0, crop=0.875),
    bn_eps=1e-3,
)

# 148,176 subnets.
REDUCED = Space(
    name="reduced",
    resolutions=(32, 48),
    stem=MobileStem(16, "relu6", 8, "relu6"),
    stages=tuple(Stage(width, 2, (1, 2), (3, 5), (3, 4, 6), "relu6") for width in (16, 24, 32)),
    head=Head(64, "relu6"),
    classes=5,
    preprocess=Preprocess(mean=127.0, std=128.0, crop=0.875),
    bn_eps=1e-3,
)

# Elastic widths couple its stages, expand ratios are no whole numbers, the stem has a depth: 2,304 subnets.
COUPLED = replace(
    resnet_d("coupled", (0.25, 0.5)),
    resolutions=(32, 48),
    stages=tuple(
        replace(stage, depths=(1, 2), expands=(0.2, 0.35)) for stage in resnet_d("coupled", (0.25, 0.5)).stages[:2]
    ),
)


@lru_cache(maxsize=1 << 16)
def drawn(seed: int, what: str, step: float) -> float:
    """A number in 0..1, a multiple of `step`, that depends on the seed and the name only."""
    return round(zlib.crc32(f"{seed} {what}".encode()) / 2**32 / step) * step


@dataclass(frozen=True)
class DrawnLatency:
    """Blocks take drawn times; `failed` is the share of them that cannot run.

    The interval of a subnet is at most `width` times its value wide on either side, and narrower for many.
    """

    seed: int
    step: float = 2**-20
    offset_ms: float = 0.5
    width: float = 0.0
    failed: float = 0.0

    @lru_cache(maxsize=1 << 16)  # noqa: B019 (a model is a small value)
    def block_ms(self, block: Block) -> float:
        if drawn(self.seed, f"fails {block.key}", 2**-20) < self.failed:
            return math.inf
        return drawn(self.seed, block.key, self.step) + self.step

    def value(self, blocks: Sequence[Block]) -> float:
        return self.offset_ms + sum(self.block_ms(block) for block in blocks)

    def estimate(self, blocks: Sequence[Block], confidence: float = 0.95) -> Estimate:
        value = self.value(blocks)
        if self.width == 0:
            return Estimate(value)
        half = value * self.width * drawn(self.seed, blocks[-4].key, 2**-10)
        return Estimate(value, value - half, value + half)

    def margin(self, confidence: float = 0.95) -> float:
        return self.width


@dataclass(frozen=True)
class DrawnScores:
    """Every choice of a stage has a drawn score, and so has every resolution, elastic width and depth of a stem."""

    seed: int
    step: float = 2**-20
    space: Space = SMALL

    def offset(self, resolution: int) -> float:
        return drawn(self.seed, f"r{resolution}", self.step)

    def stage_scores(self, stage_index: int, values: StageArrays) -> np.ndarray:
        return np.array([self.choice_score(stage_index, values.choice(i)) for i in range(len(values))])

    def choice_score(self, stage_index: int, choice: object) -> float:
        return drawn(self.seed, f"{stage_index} {choice}", self.step)

    def width_scores(self, place: int) -> np.ndarray:
        return np.array([self._shared(f"w{place}", i) for i in range(len(self.space.width_choices[place]))])

    def stem_depth_scores(self) -> np.ndarray:
        return np.array([self._shared("stem", i) for i in range(len(self.space.stem.depths))])

    def score(self, arch: Arch) -> float:
        widths = zip(self.space.width_choices, arch.widths, strict=True)
        shared = [self._shared(f"w{place}", choices.index(width)) for place, (choices, width) in enumerate(widths)]
        if len(self.space.stem.depths) > 1:
            shared.append(self._shared("stem", self.space.stem.depths.index(arch.stem_depth)))
        stages = (self.choice_score(s, c) for s, c in enumerate(arch.stages))
        return self.offset(arch.resolution) + sum(stages) + sum(shared)

    def _shared(self, what: str, index: int) -> float:
        return drawn(self.seed, f"{what} {index}", self.step)


@dataclass(frozen=True)
class PlacedScores(DrawnScores):
    """As AdditiveAccuracy's: at a fixed depth of a stage a sum over its places."""

    def choice_score(self, stage_index: int, choice: tuple[object, ...]) -> float:
        of_depth = f"{stage_index} {len(choice)}"
        places = (drawn(self.seed, f"{of_depth} {i} {block}", self.step) for i, block in enumerate(choice))
        return drawn(self.seed, of_depth, self.step) + sum(places)


@dataclass(frozen=True)
class DrawnEnergy:
    """Blocks take drawn whole microjoules; a network's interval is `width` times its value wide on either side."""

    seed: int
    step: float = 1e-3
    offset_mj: float = 0.25
    width: float = 0.0

    @lru_cache(maxsize=1 << 16)  # noqa: B019 (a model is a small value)
    def block_mj(self, block: Block) -> float:
        return drawn(self.seed, f"energy {block.key}", self.step) + self.step

    def value(self, blocks: Sequence[Block]) -> float:
        return self.offset_mj + sum(map(self.block_mj, blocks))

    def estimate(self, blocks: Sequence[Block], confidence: float = 0.95) -> Estimate:
        value = self.value(blocks)
        return Estimate(value, value * (1 - self.width), value * (1 + self.width)) if self.width else Estimate(value)

    def margin(self, confidence: float = 0.95) -> float:
        return self.width


@dataclass(frozen=True)
class Listed:
    """One subnet of a listed space."""

    arch: Arch
    blocks: tuple[Block, ...]
    cost: Cost


@cache
def listed(space: Space) -> tuple[Listed, ...]:
    """All subnets: by resolution, then stage by stage in the order of the axes, shallow first."""
    found = []
    for resolution in space.resolutions:
        stages = itertools.product(*(stage.choices() for stage in space.stages))
        shared = [(w, d) for w in itertools.product(*space.width_choices) for d in space.stem.depths]
        for choices, (widths, depth) in itertools.product(stages, shared):
            arch = Arch(resolution, choices, widths, depth)
            blocks = space.blocks(arch)
            found.append(Listed(arch, blocks, cost(blocks)))
    return tuple(found)


def listed_by_stage(space: Space, latency: DrawnLatency, scores: DrawnScores) -> list[tuple[float, float, Cost, Arch]]:
    """(latency, score, cost, arch) of all subnets, in the order of `listed`; quicker, as each choice is summed once."""
    found = []
    for resolution in space.resolutions:
        fixed = [x.block for x in space.layers(space.smallest(resolution)) if not x.path.startswith("stages.")]
        stages = [[(latency.value(fixed), scores.offset(resolution), cost(fixed), None)]]
        for s, (stage, size) in enumerate(zip(space.stages, space.stage_sizes(resolution), strict=False)):
            stages.append([])
            for choice in stage.choices():
                sizes = (size, -(-size // stage.stride))
                blocks = [space.stage_block(s, i, c, sizes[i > 0]) for i, c in enumerate(choice)]
                time = sum(map(latency.block_ms, blocks))
                stages[-1].append((time, scores.choice_score(s, choice), cost(blocks), choice))
        for parts in itertools.product(*stages):
            total = Cost(
                macs=sum(part[2].macs for part in parts),
                params=sum(part[2].params for part in parts),
                weight_bytes=sum(part[2].weight_bytes for part in parts),
                peak_activation_bytes=max(part[2].peak_activation_bytes for part in parts),
            )
            arch = Arch(resolution, tuple(part[3] for part in parts[1:]))
            found.append((sum(part[0] for part in parts), sum(part[1] for part in parts), total, arch))
    return found


def keeps(cost: Cost, budget: Budget | None) -> bool:
    """Whether the limits on macs, size and memory hold."""
    if budget is None:
        return True
    limits = (
        (cost.macs, budget.macs),
        (cost.weight_bytes, budget.size_bytes),
        (cost.weight_bytes + cost.peak_activation_bytes, budget.memory_bytes),
    )
    return all(limit is None or use <= limit for use, limit in limits)


def front_by_listing(
    points: Sequence[tuple[float, float, Arch]],
) -> list[tuple[float, float, Arch]]:
    """(latency, score, arch) that no other point beats, fastest first; of equals the first."""
    front: list[tuple[float, float, Arch]] = []
    for latency, score, arch in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((latency, score, arch))
    return front
