"""The values of one elastic stage as arrays, for work on all of them at once.

In: a Stage, or stage choices. Out: arrays with one row per choice. Rules kept: the rows of `StageArrays.all`
are `Stage.choices()` in its order (shallow first), and inactive places hold 0, so equal choices are equal rows;
expand ratios are integers where all of the stage's are whole.
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
    expand: NDArray[Any]

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
            part = cls._empty(stage, len(digits))
            part.depth[:] = depth
            part.kernel[:, :depth] = kernels[digits // len(expands)]
            part.expand[:, :depth] = expands[digits % len(expands)]
            parts.append(part)
        columns = zip(*((part.depth, part.kernel, part.expand) for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    @classmethod
    def of(cls, stage: Stage, choices: Sequence[StageChoice]) -> StageArrays:
        """The given choices, one row each."""
        found = cls._empty(stage, len(choices))
        for row, choice in enumerate(choices):
            found.depth[row] = len(choice)
            found.kernel[row, : len(choice)] = [block.kernel for block in choice]
            found.expand[row, : len(choice)] = [block.expand for block in choice]
        return found

    @classmethod
    def _empty(cls, stage: Stage, count: int) -> StageArrays:
        shape = (count, stage.max_depth)
        kind = np.int64 if all(isinstance(expand, int) for expand in stage.expands) else np.float64
        return cls(np.zeros(count, np.int64), np.zeros(shape, np.int64), np.zeros(shape, kind))

    def choice(self, row: int) -> StageChoice:
        """One row as a stage choice."""
        depth = int(self.depth[row])
        return tuple(BlockChoice(int(self.kernel[row, i]), self.expand[row, i].item()) for i in range(depth))

    def gather(self, table: NDArray[Any]) -> NDArray[Any]:
        """`table[place, kernel, expand]` of every active place, 0 elsewhere: (n, max_depth).

        `table` is indexed by the values themselves, which must be whole, so its shape is (max_depth, greatest
        kernel + 1, greatest expand + 1), and its entries at kernel 0 and expand 0 must be 0.
        """
        found: NDArray[Any] = table[np.arange(self.kernel.shape[1]), self.kernel, self.expand]
        return found
