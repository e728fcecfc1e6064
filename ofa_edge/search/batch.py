"""Costs of many archs at once.

In: a Space, a latency that is a sum over blocks, resolutions, archs as arrays. Out: integer costs as in costs.py, or
milliseconds. Rule kept: the same sums as the exact search makes, to the last unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_edge.search.costs import COLUMNS, FAILED, LATENCY, PEAK, PER_MS, BlockLatencies, Costs, Floats
from ofa_edge.search.pareto import Ints
from ofa_edge.space.arch import Space
from ofa_edge.space.population import ArchArrays


class BatchCosts:
    """Sums of tables for archs of a space at these resolutions."""

    def __init__(self, space: Space, latency: BlockLatencies, resolutions: Sequence[int]):
        self.space = space
        self.resolutions = tuple(sorted(set(resolutions)))
        found = [Costs.of(space, latency, r) for r in self.resolutions]
        self._stem = _columns([costs.stem for costs in found])
        self._head = _columns([costs.head for costs in found])
        self._stages = [_columns([costs.stages[s] for costs in found]) for s in range(len(space.stages))]

    def rows(self, archs: ArchArrays) -> Ints:
        """(n, COLUMNS) of archs at these resolutions; LOSS is 0. LATENCY is at least costs.FAILED where an arch holds a
        block that cannot run."""
        return np.stack([self._column(archs, column) for column in COLUMNS], axis=1)

    def latency_ms(self, archs: ArchArrays) -> Floats:
        """(n,) model values; beyond any real one where an arch holds a block that cannot run."""
        found: Floats = self._column(archs, LATENCY) / PER_MS
        return found

    def _column(self, archs: ArchArrays, column: int) -> Ints:
        size = np.searchsorted(self.resolutions, archs.resolution)
        if self.space.elastic_width:
            middle, *around = archs.widths.T
        else:
            fixed = np.zeros(len(archs), dtype=np.int64)
            middle, around = fixed, [fixed] * (len(archs.codes) + 1)
        join = np.maximum if column == PEAK else np.add
        over = np.max if column == PEAK else np.sum
        total = self._stem[column][size, middle, around[0], archs.stem_depth]
        for s, table in enumerate(self._stages):
            places = np.arange(archs.codes[s].shape[1])
            at = (index[:, None] for index in (size, around[s], around[s + 1]))
            total = join(total, over(table[column][(*at, places, archs.codes[s])], axis=1))
            if column == LATENCY:
                total = np.minimum(total, FAILED)  # eight of them fit, a whole network's might not
        return np.asarray(join(total, self._head[column][size, around[-1]]))


def _columns(tables: Sequence[Ints]) -> list[Ints]:
    """Tables (..., COLUMNS) of all resolutions as one contiguous array (resolutions, ...) a column."""
    stacked = np.stack(tables)
    return [np.ascontiguousarray(stacked[..., column]) for column in COLUMNS]
