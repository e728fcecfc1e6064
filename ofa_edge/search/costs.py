"""What the choices of a space cost at one resolution, as tables: what every search adds up.

In: a Space, a resolution, a latency (and an energy, where a device's is known) that is a sum over blocks. Out:
`Costs`: a row of COLUMNS for every choice of the stem, for every choice of every place of a stage, and for the head. A
subnet's latency, MACs, weight bytes and energy are the sums of its rows, its peak activation the greatest. Where widths
are elastic a block's row depends on the width before it and the width after it, so tables have an axis for each (of
length 1 where widths are fixed).

Rules kept: integers (latency in picoseconds, energy in nanojoules), so that sums are exact and ties are real; a block
that cannot run costs `FAILED`, which is more than any network that can.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ofa_edge.graph.stored import PLAIN, Stored
from ofa_edge.search.exact.pareto import Ints
from ofa_edge.space.arch import BlockChoice, Space
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.block import Block, Layer
from ofa_edge.space.cost import block_macs

Floats = NDArray[np.float64]
Numbers = TypeVar("Numbers", Ints, Floats)

# Columns of all costs here; PEAK joins by maximum, the others are sums. The tables leave LOSS, the negated score, 0.
# ENERGY is 0 without a model of it. BYTES are of weights in the file, HELD of weights while a subnet runs.
COLUMNS = LATENCY, LOSS, MACS, BYTES, PEAK, ENERGY, HELD = range(7)
PER_MS = 10**9
PER_MJ = 10**6

Row = Callable[[Block], list[int]]

# Latency of a block that cannot run: more than any sum of real ones (33 years), and eight of them still fit int64.
FAILED = 1 << 60


class BlockLatencies(Protocol):
    """latency(arch) = offset_ms + sum of block_ms over its blocks, in ms; infinite for a block that cannot run."""

    @property
    def offset_ms(self) -> float: ...

    def block_ms(self, block: Block) -> float: ...


class BlockEnergies(Protocol):
    """energy(arch) of one run = offset_mj + sum of block_mj over its blocks, in mJ."""

    @property
    def offset_mj(self) -> float: ...

    def block_mj(self, block: Block) -> float: ...


@dataclass(frozen=True, slots=True)
class Widths:
    """How many values each elastic width of a space has: of the stem's middle, before the first stage, after each.

    All 1 where widths are fixed. An index counts in `Space.width_choices`.
    """

    middle: int
    around: tuple[int, ...]

    @classmethod
    def of(cls, space: Space) -> Widths:
        if not space.elastic_width:
            return cls(1, (1,) * (len(space.stages) + 1))
        middle, *around = map(len, space.width_choices)
        return cls(middle, tuple(around))


@dataclass(frozen=True, eq=False)
class Costs:
    """Costs at one resolution, in integers.

    Attributes:
        stem: (middle width, width after, stem depth, COLUMNS); holds the models' offsets.
        stages: for each stage (width before, width after, place, code, COLUMNS), with `code` as in StageArrays, so that
            code 0, an inactive place, costs nothing.
        head: (width before, COLUMNS).
    """

    space: Space
    resolution: int
    stem: Ints
    stages: tuple[Ints, ...]
    head: Ints

    @classmethod
    def of(cls, tables: CostTables, row: Row, resolution: int) -> Costs:
        """Args: row: what a block costs."""
        space = tables.space

        stem = _stem(space, row, resolution)
        stem[..., LATENCY] += round(tables.offset_ms * PER_MS)
        stem[..., ENERGY] += 0 if tables.energy is None else round(tables.energy.offset_mj * PER_MJ)
        stages = tuple(_stage(space, row, s, resolution) for s in range(len(space.stages)))
        return cls(space, resolution, stem, stages, _head(space, row, resolution))

    def of_stage(self, s: int, values: StageArrays) -> Ints:
        """Costs of choices of one stage: (width before, width after, n, COLUMNS)."""
        table = self.stages[s]
        places = np.arange(table.shape[2])
        return total(table[:, :, places, values.code], axis=3)

    def least(self) -> Floats:
        """(COLUMNS,) what no subnet is below, whatever it chooses."""
        parts = [self.stem.reshape(-1, len(COLUMNS)).min(axis=0).astype(np.float64)]
        for stage, table in zip(self.space.stages, self.stages, strict=True):
            places = table[:, :, :, 1:].min(axis=(0, 1, 3)).astype(np.float64)
            parts.append(np.min([total(places[:depth], axis=0) for depth in stage.depths], axis=0))
        return total(np.stack([*parts, self.head.min(axis=0)]), axis=0)


class CostTables:
    """A latency with all that a search adds up beside it; passed where a latency is, costs are made once for each
    resolution, also for several searches with the same models.

    Args:
        energy: what a limit on energy needs.
        stored: how numbers are stored, for limits on size and memory.
    """

    def __init__(
        self, space: Space, latency: BlockLatencies, energy: BlockEnergies | None = None, stored: Stored = PLAIN
    ):
        self.space = space
        self.latency = latency
        self.energy = energy
        self.stored = stored
        self._rows: dict[Block, list[int]] = {}
        self._costs: dict[int, Costs] = {}

    @classmethod
    def of(cls, space: Space, latency: BlockLatencies) -> CostTables:
        """The latency, if it is one; else of it alone."""
        return latency if isinstance(latency, cls) else cls(space, latency)

    @property
    def offset_ms(self) -> float:
        return self.latency.offset_ms

    def block_ms(self, block: Block) -> float:
        return self.latency.block_ms(block)

    def at(self, resolution: int) -> Costs:
        """All costs at one resolution."""
        if resolution not in self._costs:
            self._costs[resolution] = Costs.of(self, self._row, resolution)
        return self._costs[resolution]

    def _row(self, block: Block) -> list[int]:
        if block not in self._rows:
            ms, stored = self.latency.block_ms(block), self.stored
            runs = ms < FAILED / PER_MS
            self._rows[block] = [
                round(ms * PER_MS) if runs else FAILED,
                0,
                block_macs(block),
                stored.file_bytes(block),
                stored.peak_bytes(block),
                round(self.energy.block_mj(block) * PER_MJ) if runs and self.energy is not None else 0,
                stored.held_bytes(block),
            ]
        return self._rows[block]


def total(rows: Numbers, axis: int) -> Numbers:
    """Rows joined along an axis: the sum, and for PEAK the greatest."""
    found: Numbers = rows.sum(axis=axis)
    found[..., PEAK] = rows[..., PEAK].max(axis=axis)
    return found


# -- the tables ---------------------------------------------------------------------------------
def _stem(space: Space, row: Row, resolution: int) -> Ints:
    widths = space.stem.width_choices or ((0,), (0,))
    depths = space.stem.depths
    found = np.zeros((len(widths[0]), len(widths[1]), len(depths), len(COLUMNS)), dtype=np.int64)
    for m, a, d in np.ndindex(found.shape[:3]):
        found[m, a, d] = _sum(row, space.stem.layers(resolution, (widths[0][m], widths[1][a]), depths[d]))
    return found


def _stage(space: Space, row: Row, s: int, resolution: int) -> Ints:
    stage, size = space.stages[s], space.stage_sizes(resolution)[s]
    choices = [BlockChoice(kernel, expand) for kernel in stage.kernels for expand in stage.expands]
    before, after = Widths.of(space).around[s : s + 2]
    table = np.zeros((before, after, stage.max_depth, len(choices) + 1, len(COLUMNS)), dtype=np.int64)
    for b, a, i in itertools.product(range(before), range(after), range(min(stage.max_depth, 2))):
        in_size = size if i == 0 else -(-size // stage.stride)
        around = _around(space, s, b, a)
        for code, choice in enumerate(choices, 1):
            table[b, a, i, code] = row(space.stage_block(s, i, choice, in_size, around))
    table[:, :, 2:] = table[:, :, 1:2]  # the third block of a stage is as the second
    return table


def _head(space: Space, row: Row, resolution: int) -> Ints:
    last, size = space.stages[-1], space.stage_sizes(resolution)[-1]
    widths = last.width_choices if space.elastic_width else (last.out_channels,)
    return np.array([_sum(row, space.head.layers(width, size, space.classes)) for width in widths], dtype=np.int64)


def _around(space: Space, s: int, before: int, after: int) -> tuple[int, ...]:
    """An arch's `widths` with these before and after stage `s`; () where widths are fixed."""
    if not space.elastic_width:
        return ()
    widths = [choices[0] for choices in space.width_choices]
    widths[s + 1], widths[s + 2] = space.width_choices[s + 1][before], space.width_choices[s + 2][after]
    return tuple(widths)


def _sum(row: Row, layers: Sequence[Layer]) -> Ints:
    return total(np.array([row(layer.block) for layer in layers], dtype=np.int64), axis=0)
