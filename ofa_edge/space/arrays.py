"""The values of one elastic stage as arrays, for work on all of them at once.

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
    """n choices of one stage.

    Attributes:
        depth: (n,)
        code: (n, max_depth) of each place: 0 where it is inactive, else 1 + its number among kernels x expands, expands
            varying fastest.
    """

    stage: Stage
    depth: IntArray
    code: IntArray

    def __len__(self) -> int:
        return len(self.depth)

    @classmethod
    def all(cls, stage: Stage) -> StageArrays:
        """Every value of the stage, in the order of `stage.choices()`."""
        per_block = len(stage.kernels) * len(stage.expands)
        parts = []
        for depth in stage.depths:
            code = np.zeros((per_block**depth, stage.max_depth), dtype=np.int64)
            code[:, :depth] = np.indices((per_block,) * depth).reshape(depth, -1).T + 1
            parts.append(code)
        depths = np.repeat(stage.depths, [len(part) for part in parts]).astype(np.int64)
        return cls(stage, depths, np.concatenate(parts))

    @classmethod
    def of(cls, stage: Stage, choices: Sequence[StageChoice]) -> StageArrays:
        """The given choices, one row each."""
        blocks = [BlockChoice(k, e) for k in stage.kernels for e in stage.expands]
        codes = {block: code for code, block in enumerate(blocks, 1)}
        code = np.zeros((len(choices), stage.max_depth), dtype=np.int64)
        for row, choice in enumerate(choices):
            code[row, : len(choice)] = [codes[block] for block in choice]
        return cls(stage, np.array([len(choice) for choice in choices], dtype=np.int64), code)

    @property
    def kernel(self) -> IntArray:
        """(n, max_depth), 0 at inactive places."""
        return self._values(np.repeat(self.stage.kernels, len(self.stage.expands)))

    @property
    def expand(self) -> NDArray[Any]:
        """(n, max_depth), 0 at inactive places; integers where all of the stage's ratios are whole."""
        return self._values(np.tile(self.stage.expands, len(self.stage.kernels)))

    def choice(self, row: int) -> StageChoice:
        """One row as a stage choice."""
        expands = len(self.stage.expands)
        numbers = (int(code) - 1 for code in self.code[row, : int(self.depth[row])])
        return tuple(BlockChoice(self.stage.kernels[n // expands], self.stage.expands[n % expands]) for n in numbers)

    def _values(self, by_number: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([np.zeros(1, by_number.dtype), by_number])[self.code]
