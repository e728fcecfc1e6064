"""Many archs as arrays: what works on a whole population at once.

In: archs, or a generator to draw with. Out: `ArchArrays`, one row an arch. Rules kept: inactive places hold 0, so equal
archs are equal rows; drawing is as `Space.sample` draws, each axis uniformly and independently, though not the same
archs for the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_edge.space.arch import Arch, BlockChoice, Space, Stage
from ofa_edge.space.arrays import StageArrays

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class ArchArrays:
    """n archs of one space.

    Attributes:
        resolution: (n,) in pixels.
        depth: (n, stages) blocks of each stage.
        codes: of each stage (n, max_depth), as StageArrays.code.
        widths: (n, elastic widths) numbers in `Space.width_choices`.
        stem_depth: (n,) numbers in the stem's `depths`.
    """

    space: Space
    resolution: Ints
    depth: Ints
    codes: tuple[Ints, ...]
    widths: Ints
    stem_depth: Ints

    def __len__(self) -> int:
        return len(self.resolution)

    @classmethod
    def of(cls, space: Space, archs: Sequence[Arch]) -> ArchArrays:
        """The given archs, which are in the space."""
        stages = [StageArrays.of(stage, [arch.stages[s] for arch in archs]) for s, stage in enumerate(space.stages)]
        numbers = [[c.index(w) for c, w in zip(space.width_choices, arch.widths, strict=True)] for arch in archs]
        depths = [space.stem.depths.index(arch.stem_depth) for arch in archs]
        return cls(
            space,
            np.array([arch.resolution for arch in archs], dtype=np.int64),
            np.stack([stage.depth for stage in stages], axis=1),
            tuple(stage.code for stage in stages),
            np.array(numbers, dtype=np.int64).reshape(len(archs), len(space.width_choices)),
            np.array(depths, dtype=np.int64),
        )

    @classmethod
    def sample(cls, space: Space, rng: np.random.Generator, count: int, resolutions: Sequence[int]) -> ArchArrays:
        """Draw `count` archs at these resolutions."""
        codes, depths = [], []
        for stage in space.stages:
            depth = rng.choice(stage.depths, count)
            drawn = rng.integers(1, len(stage.kernels) * len(stage.expands) + 1, (count, stage.max_depth))
            drawn[np.arange(stage.max_depth) >= depth[:, None]] = 0
            codes.append(drawn)
            depths.append(depth)
        widths = [rng.integers(0, len(choices), count) for choices in space.width_choices]
        return cls(
            space,
            rng.choice(np.asarray(resolutions, dtype=np.int64), count),
            np.stack(depths, axis=1).astype(np.int64),
            tuple(codes),
            np.array(widths, dtype=np.int64).reshape(len(widths), count).T,
            rng.integers(0, len(space.stem.depths), count),
        )

    def stage(self, s: int) -> StageArrays:
        """The choices of one stage."""
        return StageArrays(self.space.stages[s], self.depth[:, s], self.codes[s])

    def at(self, resolution: Any) -> ArchArrays:
        """The same subnets at another input size, or each at its own: one number or (n,)."""
        sizes = np.broadcast_to(np.asarray(resolution, dtype=np.int64), self.resolution.shape)
        return replace(self, resolution=sizes)

    def number(self, s: int, first: int, last: int) -> Ints:
        """(n,) the codes at places first..last - 1 of a stage as the digits of one number; the first counts most."""
        codes, base = self.codes[s], code_count(self.space.stages[s])
        found: Ints = codes[:, first].copy()
        for place in range(first + 1, last):
            found *= base
            found += codes[:, place]
        return found

    def take(self, rows: Any) -> ArchArrays:
        """Those rows: numbers, a mask or a slice."""
        codes = tuple(code[rows] for code in self.codes)
        return ArchArrays(
            self.space, self.resolution[rows], self.depth[rows], codes, self.widths[rows], self.stem_depth[rows]
        )

    def arch(self, row: int) -> Arch:
        """One row as an arch."""
        return self.take([row]).archs()[0]

    def archs(self) -> list[Arch]:
        """All rows as archs."""
        space, stages = self.space, []
        for s, stage in enumerate(space.stages):
            blocks = [BlockChoice(kernel, expand) for kernel in stage.kernels for expand in stage.expands]
            rows = zip(self.codes[s].tolist(), self.depth[:, s].tolist(), strict=True)
            stages.append([tuple(blocks[code - 1] for code in codes[:depth]) for codes, depth in rows])
        widths = [
            tuple(choices[n] for choices, n in zip(space.width_choices, row, strict=True))
            for row in self.widths.tolist()
        ]
        depths = [space.stem.depths[n] for n in self.stem_depth.tolist()]
        return list(map(Arch, self.resolution.tolist(), zip(*stages, strict=True), widths, depths))

    def matrix(self) -> Ints:
        """(n, columns) all axes side by side: equal archs are equal rows."""
        return np.concatenate([self.resolution[:, None], *self.codes, self.widths, self.stem_depth[:, None]], axis=1)


def code_count(stage: Stage) -> int:
    """How many values a code of this stage has; 0, an inactive place, is one of them."""
    return len(stage.kernels) * len(stage.expands) + 1


def concatenate(parts: Sequence[ArchArrays]) -> ArchArrays:
    """The rows of several populations of one space, in order."""
    stages = range(len(parts[0].codes))
    return ArchArrays(
        parts[0].space,
        np.concatenate([part.resolution for part in parts]),
        np.concatenate([part.depth for part in parts]),
        tuple(np.concatenate([part.codes[s] for part in parts]) for s in stages),
        np.concatenate([part.widths for part in parts]),
        np.concatenate([part.stem_depth for part in parts]),
    )
