"""The values of one elastic stage as integer arrays, for work on all of them at once.

In: a Stage, or stage choices. Out: arrays with one row per choice. Rules kept: the rows of `StageArrays.all`
are `Stage.choices()` in its order (shallow first), and inactive places hold 0, so equal choices are equal rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_edge.space.arch import BlockChoice, Stage, StageChoice

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class StageArrays:
    """n choices of one stage: `depth` (n,), `kernel` and `expand` (n, max_depth) with 0 at inactive places."""

    depth: IntArray
    kernel: IntArray
    expand: IntArray

    def __len__(self) -> int:
        return len(self.depth)

    @classmethod
    def all(cls, stage: Stage) -> StageArrays:
        """Every value of the stage, in the order of `stage.choices()`."""
        kernels, expands = np.array(stage.kernels), np.array(stage.expands)
        per_block = len(kernels) * len(expands)
        parts = []
        for depth in stage.depths:
            digits = np.indices((per_block,) * depth).reshape(depth, -1).T
            part = np.zeros((len(digits), 2, stage.max_depth), dtype=np.int64)
            part[:, 0, :depth] = kernels[digits // len(expands)]
            part[:, 1, :depth] = expands[digits % len(expands)]
            parts.append(part)
        values = np.concatenate(parts)
        return cls(np.count_nonzero(values[:, 0], axis=1).astype(np.int64), values[:, 0], values[:, 1])

    @classmethod
    def of(cls, stage: Stage, choices: Sequence[StageChoice]) -> StageArrays:
        """The given choices, one row each."""
        values = np.zeros((len(choices), 2, stage.max_depth), dtype=np.int64)
        for row, choice in zip(values, choices, strict=True):
            row[:, : len(choice)] = np.array(choice).T
        return cls(np.array([len(choice) for choice in choices], dtype=np.int64), values[:, 0], values[:, 1])

    def choice(self, row: int) -> StageChoice:
        """One row as a stage choice."""
        depth = int(self.depth[row])
        return tuple(BlockChoice(int(self.kernel[row, i]), int(self.expand[row, i])) for i in range(depth))

    def gather(self, table: NDArray[Any]) -> NDArray[Any]:
        """`table[place, kernel, expand]` of every active place, 0 elsewhere: (n, max_depth).

        `table` is indexed by the values themselves, so its shape is (max_depth, greatest kernel + 1,
        greatest expand + 1), and its entries at kernel 0 and expand 0 must be 0.
        """
        found: NDArray[Any] = table[np.arange(self.kernel.shape[1]), self.kernel, self.expand]
        return found
