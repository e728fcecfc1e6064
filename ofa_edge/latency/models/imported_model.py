"""The latency model of an imported table: sums of what its files say, each resolution by its own file.

In: a LatencyTable with `given` rows. Out: a LatencyModel. Rules kept: a whole network is the sum of its own
resolution's figures, as the tools that made these files add them up, with no interval; a block alone (which a search
adds up) is the mean over the resolutions it occurs at, and `margin` holds what that can differ by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np

from ofa_edge.latency import plan
from ofa_edge.latency.models.model import Estimate, LatencyModel
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.block import Block

_SAMPLE = 400


class ImportedModel(LatencyModel):
    """A LatencyModel whose sums are each resolution's own."""

    # What is to be added to a block's time in networks of a resolution, ms.
    _own: dict[int, dict[str, float]]

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._own = {}

    @classmethod
    def from_table(cls, table: LatencyTable) -> Self:
        """As LatencyModel.from_table."""
        model = super().from_table(table)
        assert isinstance(model, cls)
        median = table.blocks["median"].to_dict()
        given = table.given
        for key, resolution, mean in zip(given["key"], given["resolution"], given["mean"], strict=True):
            if key in median:
                model._own.setdefault(int(resolution), {})[key] = mean - median[key]
        return model

    def estimate(self, blocks: Sequence[Block], confidence: float = 0.95) -> Estimate:
        found = super().estimate(blocks, confidence)
        change = self._change(blocks)
        ends = (None if end is None else end + change for end in (found.low, found.high))
        return Estimate(found.value + change, *ends)

    def _change(self, blocks: Sequence[Block]) -> float:
        """What the blocks take more at their network's own resolution than in the mean over resolutions, ms."""
        own = self._own.get(blocks[0].in_size, {}) if blocks else {}
        return self.fit.coefficient("scale") * math.fsum(own.get(block.key, 0.0) for block in blocks)

    def margin(self, confidence: float = 0.95) -> float:
        """As LatencyModel.margin, and the most that a network of a fixed random sample takes longer than the sum of
        its blocks' times."""
        return (1 + super().margin(confidence)) * self._longer - 1

    @cached_property
    def _longer(self) -> float:
        """How much longer than the sum of its blocks' times a network of the sample takes at most."""
        rng = np.random.default_rng(0)
        ratios = [1.0]
        for arch in plan.spread_sample(self.space, self.resolutions, _SAMPLE, rng):
            blocks = self.space.blocks(arch)
            value = super().estimate(blocks).value if self._runs(blocks) else math.inf
            if math.isfinite(value):
                ratios.append(1 + self._change(blocks) / value)
        return max(ratios)

    def _runs(self, blocks: Sequence[Block]) -> bool:
        return not any(block.key in self.times.failed for block in blocks)
