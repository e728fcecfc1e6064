"""Costs and predicted accuracies of many archs at once.

In: a Space, a latency that is a sum over blocks, an accuracy predictor, resolutions, archs as arrays. Out: integer
costs as in costs.py, milliseconds, shares, or which archs keep limits. Rules kept: the same sums as the exact search
makes, to the last unit (they are added up as floats that hold whole numbers, which is exact up to 2^53: 2.5 hours in
ps); between measured resolutions predictors are interpolated in FLOPs (accuracy/interpolation.py), but for the
additive one, whose search needs a sum (accuracy/predictor.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ofa_edge.accuracy.interpolation import interpolate_all
from ofa_edge.accuracy.predictor import AdditiveAccuracy, Top1
from ofa_edge.accuracy.ridge import LINKS
from ofa_edge.search.candidate import DIGITS
from ofa_edge.search.costs import (
    COLUMNS,
    FAILED,
    LATENCY,
    LOSS,
    MACS,
    PEAK,
    PER_MS,
    BlockLatencies,
    Costs,
    CostTables,
    Floats,
)
from ofa_edge.search.exact.pareto import Ints
from ofa_edge.search.exact.scores import PlaceScores
from ofa_edge.search.limits import Limits
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.block import Block
from ofa_edge.space.population import ArchArrays, code_count

if TYPE_CHECKING:
    from ofa_edge.accuracy.family import AccuracyPredictor

# Archs added up at once, and values of one table: both stay in the cache.
_ROWS = 1 << 13
_VALUES = 1 << 18


class BatchCosts:
    """Sums of tables for archs of a space at these resolutions."""

    def __init__(
        self,
        space: Space,
        latency: BlockLatencies,
        resolutions: Sequence[int],
    ):
        self.space = space
        self.resolutions = tuple(sorted(set(resolutions)))
        self._costs = [*map(CostTables.of(space, latency).at, self.resolutions)]
        self._column = cache(self._made)

    def rows(self, archs: ArchArrays, columns: Sequence[int] = COLUMNS) -> Ints:
        """(n, COLUMNS) of archs at these resolutions; LOSS is 0, and so is what is not among `columns`. LATENCY is
        costs.FAILED where an arch holds a block that cannot run."""
        found = np.zeros((len(archs), len(COLUMNS)), dtype=np.int64)
        for column in columns:
            if column != LOSS:
                found[:, column] = np.minimum(self._sums(archs, column), FAILED)
        return found

    def latency_ms(self, archs: ArchArrays) -> Floats:
        """(n,) model values; infinite where an arch holds a block that cannot run."""
        return self._sums(archs, LATENCY) / PER_MS

    def keep(self, archs: ArchArrays, limits: Limits) -> NDArray[np.bool_]:
        """(n,) which archs can run and keep all limits."""
        rows = self.rows(archs, sorted({LATENCY, *limits.columns}))
        return limits.kept(rows) & (rows[:, LATENCY] < FAILED)

    def _sums(self, archs: ArchArrays, column: int) -> Floats:
        size = np.searchsorted(self.resolutions, archs.resolution)
        found = np.empty(len(archs))
        for first in range(0, len(archs), _ROWS):
            some = slice(first, first + _ROWS)
            found[some] = self._column(column).sums(archs.take(some), size[some])
        return found

    def _made(self, column: int) -> _Column:
        return _Column.of(self.space, self._costs, column)


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """One cost of all resolutions, as flat tables of whole numbers; infinite where a block cannot run.

    Attributes:
        widths: how many values the middle width has, and those around the stages.
        stem: (sizes x middle widths x widths after x stem depths,)
        stages: runs of places: stage, first place, end, (sizes x widths before x widths after x codes of the run,).
        head: (sizes x widths before,)
    """

    peak: bool
    widths: tuple[int, ...]
    stem_depths: int
    stem: Floats
    stages: tuple[tuple[int, int, int, Floats], ...]
    head: Floats

    @classmethod
    def of(cls, space: Space, costs: Sequence[Costs], column: int) -> _Column:
        stem = _floats([c.stem[..., column] for c in costs])
        runs = []
        for s, stage in enumerate(space.stages):
            table = _floats([c.stages[s][..., column] for c in costs])
            first = 0
            while first < stage.max_depth:
                run, end = table[..., first, :], first + 1
                while end < stage.max_depth and run.size * code_count(stage) <= _VALUES:
                    before, after = run[..., :, None], table[..., end, None, :]
                    run = np.maximum(before, after) if column == PEAK else before + after
                    run, end = run.reshape(*run.shape[:-2], -1), end + 1
                runs.append((s, first, end, np.ascontiguousarray(run).ravel()))
                first = end
        around = stem.shape[1], *(c.shape[0] for c in (*costs[0].stages, costs[0].head))
        head = _floats([c.head[..., column] for c in costs])
        return cls(column == PEAK, around, stem.shape[3], stem.ravel(), tuple(runs), head.ravel())

    def sums(self, archs: ArchArrays, size: Ints) -> Floats:
        """(n,), or the greatest where these are peaks; `size` are numbers of resolutions."""
        join = np.maximum if self.peak else np.add
        middle, *around = archs.widths.T if archs.space.elastic_width else (0,) * len(self.widths)
        count = self.widths[1:]
        at = ((size * self.widths[0] + middle) * count[0] + around[0]) * self.stem_depths + archs.stem_depth
        total, term = self.stem.take(at), np.empty(len(size))
        for s, first, end, table in self.stages:
            at = (size * count[s] + around[s]) * count[s + 1] + around[s + 1]
            at *= code_count(archs.space.stages[s]) ** (end - first)
            at += archs.number(s, first, end)
            table.take(at, out=term, mode="clip")  # no number is beyond its table; the default would copy
            join(total, term, out=total)
        join(total, self.head.take(size * count[-1] + around[-1]), out=total)
        return total


def _floats(tables: Sequence[Ints]) -> Floats:
    """Tables of all resolutions as one (resolutions, ...)."""
    stacked = np.stack(tables)
    return np.where(stacked >= FAILED // 2, np.inf, stacked)  # an offset may be negative


# -- accuracy -----------------------------------------------------------------------------------
class BatchAccuracy:
    """Predicted top-1 of archs at these resolutions, which lie within those measured."""

    def __init__(self, predictor: AccuracyPredictor, resolutions: Sequence[int]):
        self.predictor = predictor
        self._scores: PlaceScores | None = None
        self._grid = np.array(predictor.resolutions)
        if isinstance(predictor, AdditiveAccuracy):
            self._scores = PlaceScores.of(predictor.space, predictor, resolutions)
            self._inverse = LINKS[predictor.quality.link].inverse
        elif not set(resolutions) <= set(predictor.resolutions):
            sizes = {*resolutions, *predictor.resolutions}
            self._macs = BatchCosts(predictor.space, NoLatency(), sorted(sizes))

    def top1(self, archs: ArchArrays) -> Floats:
        """(n,) shares."""
        if self._scores is not None:
            shares: Floats = self._inverse(self._scores.scores(archs))
            return shares
        after = np.searchsorted(self._grid, archs.resolution)
        off = np.flatnonzero(self._grid[after] != archs.resolution)
        if len(off) == 0:
            return self.predictor.predict_arrays(archs)
        before = after.copy()
        before[off] -= 1
        found = self.predictor.predict_arrays(archs.at(self._grid[before]))
        between = archs.take(off)
        low, high = between.at(self._grid[before[off]]), between.at(self._grid[after[off]])
        macs, least, most = (self._macs.rows(some, [MACS])[:, MACS] for some in (between, low, high))
        found[off] += (self.predictor.predict_arrays(high) - found[off]) * (macs - least) / (most - least)
        return found


@dataclass(frozen=True, slots=True)
class NoLatency:
    """Latencies of searches that ask for none."""

    offset_ms: float = 0.0

    def block_ms(self, block: Block) -> float:
        return 0.0


def estimates(predictor: AccuracyPredictor, archs: Sequence[Arch], confidence: float = 0.95) -> list[Top1]:
    """Predictions with intervals, as `BatchAccuracy` predicts them."""
    if isinstance(predictor, AdditiveAccuracy):
        return [predictor.estimate(arch, confidence) for arch in archs]
    bounds = interpolate_all(
        predictor.space, archs, predictor.resolutions, lambda on_grid: predictor.intervals(on_grid, confidence)
    )
    return [Top1(*map(float, row)) for row in bounds]


def greatest(predictor: AccuracyPredictor, resolutions: Sequence[int]) -> float | None:
    """A share that no prediction exceeds, whatever a subnet costs; None where none is known."""
    if isinstance(predictor, AdditiveAccuracy):
        return round(predictor.top1(predictor.greatest_score(resolutions)), DIGITS)
    return None
