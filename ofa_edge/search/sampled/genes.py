"""Archs as rows of independent choices: what evolution changes, crosses and mixes.

In: a Space and resolutions. Out: `Genes`: matrices with a row an arch and a column a gene, and the ArchArrays they
stand for. Rules kept: a gene is the number of a value of one axis; a block that is skipped keeps its genes, as the
20-entry lists of Once-for-All do, so that it comes back as it was when its stage grows again; a block's kernel and
expand ratio are two genes of one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ofa_edge.space.arch import Space
from ofa_edge.space.population import ArchArrays, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Genes:
    """The genes of a space: resolution, each stage's depth, kernels and expand ratios, widths, the stem's depth.

    Attributes:
        resolutions: rising.
        values: (genes,) how many values each has.
        group: (genes,) what each belongs to: a block, or itself alone.
    """

    space: Space
    resolutions: tuple[int, ...]
    values: Ints
    group: Ints

    @classmethod
    def of(cls, space: Space, resolutions: Sequence[int]) -> Genes:
        sizes = tuple(sorted(set(resolutions)))
        values = [len(sizes), *(len(stage.depths) for stage in space.stages)]
        group = list(range(len(values)))
        for stage in space.stages:
            blocks = [group[-1] + 1 + i for i in range(stage.max_depth)]
            values += [len(stage.kernels)] * stage.max_depth + [len(stage.expands)] * stage.max_depth
            group += [*blocks, *blocks]
        alone = [*map(len, space.width_choices), len(space.stem.depths)]
        group += [group[-1] + 1 + i for i in range(len(alone))]
        return cls(space, sizes, np.array([*values, *alone]), np.array(group))

    def __len__(self) -> int:
        return len(self.values)

    # -- archs ----------------------------------------------------------------------------------
    def archs(self, rows: Ints) -> ArchArrays:
        """What rows (n, genes) stand for."""
        space, at = self.space, 1 + len(self.space.stages)
        depths, codes = [], []
        for s, stage in enumerate(space.stages):
            places = stage.max_depth
            depth = np.asarray(stage.depths)[rows[:, 1 + s]]
            code = rows[:, at : at + places] * len(stage.expands) + rows[:, at + places : at + 2 * places] + 1
            code[np.arange(places) >= depth[:, None]] = 0
            depths.append(depth)
            codes.append(code)
            at += 2 * places
        sizes = np.asarray(self.resolutions)[rows[:, 0]]
        return ArchArrays(space, sizes, np.stack(depths, axis=1), tuple(codes), rows[:, at:-1], rows[:, -1])

    def rows(self, archs: ArchArrays) -> Ints:
        """Rows (n, genes) that stand for archs at these resolutions; skipped blocks have the first values."""
        found = np.zeros((len(archs), len(self)), dtype=np.int64)
        found[:, 0] = np.searchsorted(self.resolutions, archs.resolution)
        at = 1 + len(self.space.stages)
        for s, stage in enumerate(self.space.stages):
            places = stage.max_depth
            found[:, 1 + s] = (archs.depth[:, s, None] == np.asarray(stage.depths)).argmax(axis=1)
            kernels, expands = np.divmod(np.maximum(archs.codes[s] - 1, 0), len(stage.expands))
            found[:, at : at + places], found[:, at + places : at + 2 * places] = kernels, expands
            at += 2 * places
        found[:, at:-1], found[:, -1] = archs.widths, archs.stem_depth
        return found

    # -- operators ------------------------------------------------------------------------------
    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """(count, genes), each uniformly and independently."""
        found: Ints = rng.integers(0, self.values, (count, len(self)))
        return found

    def mutated(self, rng: np.random.Generator, rows: Ints, probability: float) -> Ints:
        """Each group drawn anew with this probability; what is drawn may be what was there."""
        changed = self._drawn_groups(rng, len(rows)) < probability
        found: Ints = np.where(changed, self.draw(rng, len(rows)), rows)
        return found

    def crossed(self, rng: np.random.Generator, first: Ints, second: Ints, *, whole: bool) -> Ints:
        """Each gene (each group if `whole`) from either parent with equal chance."""
        drawn = self._drawn_groups(rng, len(first)) if whole else rng.random(first.shape)
        found: Ints = np.where(drawn < 0.5, first, second)
        return found

    def _drawn_groups(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """A number in 0..1 for each group, (count, genes)."""
        return rng.random((count, int(self.group[-1]) + 1))[:, self.group]


def keys(archs: ArchArrays) -> Ints:
    """(n,) one number an arch: equal for equal archs, and as good as never for others (64 bits)."""
    matrix = archs.matrix()
    found: Ints = matrix @ _factors(matrix.shape[1])
    return found


@cache
def _factors(count: int) -> Ints:
    """Odd numbers of 63 bits; products and sums of them wrap around."""
    drawn: Ints = np.random.default_rng(0).integers(-(1 << 62), 1 << 62, count) * 2 + 1
    return drawn
