"""The exact front of a whole space: no subnet is both faster and better than one on it.

In: a Space, a latency that is a sum over blocks, a score that is a sum over stages, the resolutions, and side
limits. Out: a `Front`: every subnet that is optimal for some latency budget, at all resolutions at once.

How: at one resolution a subnet's latency and score are sums over its stages, so a partial subnet that another
partial of the same stages beats in both can be dropped without losing a point of the front. Stages are enumerated
whole and joined one by one from both ends, pruning after each join. Limits on MACs and weight bytes are further
sums, and peak activation a maximum: where such a limit can still bind it is one more column of the pruning, so
fronts under side limits are exact too.

Rules kept: exact for the model that is given; latency is rounded to picoseconds and the score to 1e-12, so sums
are integers and ties are real. Of subnets equal in latency and score the one with the lower resolution stays, then
the one that comes first in `Stage.choices()` order, stage by stage (shallower, smaller); under side limits a tie
may fall to another subnet, but always to the same. No Python loop over subnets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.search.budget import Budget
from ofa_edge.search.pareto import Ints, nondominated
from ofa_edge.space.arch import Arch, BlockChoice, Space
from ofa_edge.space.arrays import StageArrays
from ofa_edge.space.block import Block
from ofa_edge.space.cost import block_macs, block_peak_activation_bytes, block_weight_bytes
from ofa_edge.space.spaces import SPACES

Floats = NDArray[np.float64]

# Columns of all costs here. Scores are negated, so that every column is to be minimised; PEAK joins by maximum.
LATENCY, LOSS, MACS, BYTES, PEAK = range(5)
_SUMS = [LATENCY, LOSS, MACS, BYTES]
PER_MS = 10**9
PER_SCORE = 10**12

# Latency of a block that cannot run: more than any sum of real ones (33 years), and eight of them still fit int64.
_FAILED = 1 << 60

# Rows of one join that are in memory at once (40 bytes each and as much again for sorting).
_ROWS = 1 << 17
_MOST_CHOICES = 1 << 20


class BlockLatencies(Protocol):
    """latency(arch) = offset_ms + sum of block_ms over its blocks, in ms; infinite for a block that cannot run."""

    @property
    def offset_ms(self) -> float: ...

    def block_ms(self, block: Block) -> float: ...


class StageScores(Protocol):
    """score(arch) = offset(resolution) + sum of stage_scores over its stages; higher is better."""

    def offset(self, resolution: int) -> float: ...

    def stage_scores(self, stage_index: int, values: StageArrays) -> Floats: ...


@dataclass(frozen=True, slots=True, eq=False)
class Front:
    """Optimal subnets, fastest first; latency and score both rise strictly.

    Attributes:
        resolution: (n,) input size of each point, in pixels.
        rows: (n, stages) number of each stage's choice in `Stage.choices()`.
        costs: (n, 5) integers with the columns of this module; use the properties.
    """

    space: Space
    resolution: Ints
    rows: Ints
    costs: Ints

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def latency_ms(self) -> Floats:
        """Model values, (n,)."""
        return np.asarray(self.costs[:, LATENCY] / PER_MS)

    @property
    def score(self) -> Floats:
        """(n,)"""
        return np.asarray(-self.costs[:, LOSS] / PER_SCORE)

    def arch(self, index: int) -> Arch:
        """The subnet of one point."""
        stages = (
            StageArrays.all(stage).choice(int(row))
            for stage, row in zip(self.space.stages, self.rows[index], strict=True)
        )
        return Arch(int(self.resolution[index]), tuple(stages))


def exact_front(
    space: Space,
    latency: BlockLatencies,
    score: StageScores,
    resolutions: Sequence[int],
    budget: Budget | None = None,
) -> Front:
    """The front of (latency, score) over all subnets at these resolutions.

    Args:
        budget: its limits on macs, size and memory hold for every point; its latency is not applied, since the
            front has the best subnet for each latency. Empty if no subnet keeps the side limits, or none can run.

    Raises:
        UsageError: the space cannot be searched exactly (see `searchable`), or no resolution is given.
    """
    _check(space)
    if not resolutions:
        raise UsageError("there is no resolution to search at", hint="give tables that share one")
    values = [StageArrays.all(stage) for stage in space.stages]
    columns = [LATENCY, LOSS, *_limited(budget, side_only=True)]
    scores = [_whole(score.stage_scores(s, v), PER_SCORE) for s, v in enumerate(values)]
    parts = []
    for resolution in sorted(set(resolutions)):
        tables = _tables(space, latency, values, resolution)
        for table, loss in zip(tables[1:], scores, strict=True):
            table[:, LOSS] = -loss
        tables[0][:, LOSS] = -_whole(np.array([score.offset(resolution)]), PER_SCORE)
        rows = _merge(tables, columns, budget)
        parts.append((np.full(len(rows), resolution), rows, _totals(tables, rows)))
    resolution_, rows_, costs = (np.concatenate(column) for column in zip(*parts, strict=True))
    keep = nondominated(costs[:, [LATENCY, LOSS]])
    keep = keep[np.argsort(costs[keep, LATENCY], kind="stable")]
    return Front(space, resolution_[keep], rows_[keep], costs[keep])


def nearest(
    space: Space, latency: BlockLatencies, resolutions: Sequence[int], budget: Budget, margin: float = 0.0
) -> tuple[Arch, float]:
    """The subnet that fits the least enlarged budget, and by what factor all limits had to grow for it (exact).

    Args:
        margin: latency counts (1 + margin) times.

    Raises:
        UsageError: the space cannot be searched exactly (see `searchable`).
        BadFile: no subnet can run at all.
    """
    _check(space)
    values = [StageArrays.all(stage) for stage in space.stages]
    best: tuple[float, Arch] | None = None
    for resolution in sorted(set(resolutions)):
        tables = _tables(space, latency, values, resolution)
        rows = _merge(tables, _limited(budget), None)
        if len(rows) == 0:
            continue
        factors = np.max(_shares(_totals(tables, rows), budget, margin), axis=1)
        i = int(np.argmin(factors))
        if best is None or factors[i] < best[0]:
            stages = tuple(v.choice(int(row)) for v, row in zip(values, rows[i], strict=True))
            best = float(factors[i]), Arch(resolution, stages)
    if best is None:
        raise BadFile(
            "every subnet needs a block that failed on the device", hint="measure again: `ofa-edge profile --resume`"
        )
    return best[1], best[0]


def _shares(costs: Ints, budget: Budget, margin: float) -> Floats:
    """What part of each limit a subnet uses: (n, limits)."""
    shares = []
    if budget.latency_ms is not None:
        shares.append(costs[:, LATENCY] / PER_MS * (1 + margin) / budget.latency_ms)
    if budget.macs is not None:
        shares.append(costs[:, MACS] / budget.macs)
    if budget.size_bytes is not None:
        shares.append(costs[:, BYTES] / budget.size_bytes)
    if budget.memory_bytes is not None:
        shares.append((costs[:, BYTES] + costs[:, PEAK]) / budget.memory_bytes)
    return np.stack(shares, axis=1)


def _limited(budget: Budget | None, *, side_only: bool = False) -> list[int]:
    """The columns that a budget limits."""
    if budget is None:
        return []
    limits = {
        LATENCY: None if side_only else budget.latency_ms,
        MACS: budget.macs,
        BYTES: budget.size_bytes or budget.memory_bytes,
        PEAK: budget.memory_bytes,
    }
    return [column for column, limit in limits.items() if limit is not None]


# -- costs of the choices -----------------------------------------------------------------------
def searchable(space: Space) -> bool:
    """Whether costs are a sum over stages that do not depend on each other, with expand ratios that index a table."""
    whole = all(isinstance(expand, int) for stage in space.stages for expand in stage.expands)
    return whole and not space.elastic_width and len(space.stem.depths) == 1


def _check(space: Space) -> None:
    if not searchable(space):
        names = ", ".join(name for name, known in SPACES.items() if searchable(known))
        raise UsageError(
            f"{space.name} cannot be searched exactly: that needs fixed widths, a fixed stem and whole expand ratios,"
            f" as {names} have",
            hint="use --strategy table or --strategy random",
        )
    for s, stage in enumerate(space.stages):
        if stage.count() > _MOST_CHOICES:
            raise UsageError(
                f"stage {s} of {space.name} has {stage.count():,} choices; the exact search enumerates at most"
                f" {_MOST_CHOICES:,}",
                hint="use --strategy table or --strategy random",
            )


def _whole(values: Any, scale: int) -> Ints:
    return np.rint(np.asarray(values, dtype=np.float64) * scale).astype(np.int64)


def _block_costs(latency: BlockLatencies, block: Block) -> list[int]:
    ms = latency.block_ms(block)
    return [
        round(ms * PER_MS) if ms < _FAILED / PER_MS else _FAILED,
        0,
        block_macs(block),
        block_weight_bytes(block),
        block_peak_activation_bytes(block),
    ]


def _tables(space: Space, latency: BlockLatencies, values: Sequence[StageArrays], resolution: int) -> list[Ints]:
    """Costs of the fixed blocks, (1, 5), then of every choice of each stage, (choices, 5); LOSS is left 0."""
    fixed = [layer.block for layer in space.layers(space.smallest(resolution)) if not layer.path.startswith("stages.")]
    rows = np.array([_block_costs(latency, block) for block in fixed])
    first = _total(rows[None])
    first[0, LATENCY] += round(latency.offset_ms * PER_MS)
    tables = [first]
    for s, (stage, size) in enumerate(zip(space.stages, space.stage_sizes(resolution), strict=False)):
        lookup = np.zeros((stage.max_depth, max(stage.kernels) + 1, int(max(stage.expands)) + 1, 5), dtype=np.int64)
        for i in range(stage.max_depth):
            in_size = size if i == 0 else -(-size // stage.stride)
            for kernel in stage.kernels:
                for expand in stage.expands:
                    block = space.stage_block(s, i, BlockChoice(kernel, expand), in_size)
                    lookup[i, kernel, int(expand)] = _block_costs(latency, block)
        tables.append(_total(values[s].gather(lookup)))
    return tables


def _total(blocks: Ints) -> Ints:
    """(n, blocks, 5) to (n, 5)."""
    total: Ints = blocks.sum(axis=1)
    total[:, PEAK] = blocks[:, :, PEAK].max(axis=1)
    return total


def _totals(tables: Sequence[Ints], rows: Ints) -> Ints:
    """Costs of whole subnets, (n, 5), from the numbers of their choices."""
    chosen = [np.broadcast_to(tables[0], (len(rows), 5))]
    chosen += [table[rows[:, s]] for s, table in enumerate(tables[1:])]
    return _total(np.stack(chosen, axis=1))


# -- joining ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Partial subnets: some neighbouring stages together.

    Attributes:
        costs: (n, 5), sums and, for PEAK, the maximum.
        rows: (n, stages of the part), in lexicographic order.
        least, most: (5,) bounds of each column over all choices of these stages, also those pruned.
    """

    costs: Ints
    rows: Ints
    least: Ints
    most: Ints


def _merge(tables: Sequence[Ints], columns: list[int], budget: Budget | None) -> Ints:
    """Non-dominated whole subnets at one resolution: (n, stages) numbers of choices; none where nothing can run.

    Grown from both ends, the smaller part first, so that the last and largest join is pruned by two columns.
    """
    parts = [_part(table, int(s > 0)) for s, table in enumerate(tables)]
    if any(len(part.rows) == 0 for part in parts):
        return np.empty((0, len(tables) - 1), dtype=np.int64)
    whole = _bounds(*parts)
    parts = [_pruned(part, whole, columns, budget) for part in parts]
    left, *middle, right = parts
    while middle:
        if len(left.rows) <= len(right.rows):
            left = _join(left, middle.pop(0), whole, columns, budget)
        else:
            right = _join(middle.pop(), right, whole, columns, budget)
    last = [column for column in columns if column in (LATENCY, LOSS)] if LOSS in columns else columns
    return _join(left, right, whole, last, budget).rows


def _part(table: Ints, stages: int) -> _Part:
    """The choices of a table that can run."""
    rows = np.flatnonzero(table[:, LATENCY] < _FAILED)
    costs = table[rows]
    if len(rows) == 0:
        return _Part(costs, rows[:, None], table[0], table[0])
    return _Part(costs, rows[:, None][:, :stages], costs.min(axis=0), costs.max(axis=0))


def _bounds(*parts: _Part) -> tuple[Ints, Ints]:
    """Least and most of each column over the parts together."""
    return _total(np.stack([p.least for p in parts])[None])[0], _total(np.stack([p.most for p in parts])[None])[0]


def _join(left: _Part, right: _Part, whole: tuple[Ints, Ints], columns: list[int], budget: Budget | None) -> _Part:
    """Every partial of `left` followed by every one of `right`, pruned; in slices, so that memory is bounded."""
    least, most = _bounds(left, right)
    step = max(1, _ROWS // max(1, len(right.rows)))
    slices = []
    for start in range(0, max(1, len(left.rows)), step):
        some = slice(start, start + step)
        costs = left.costs[some, None] + right.costs
        np.maximum(left.costs[some, None, PEAK], right.costs[:, PEAK], out=costs[:, :, PEAK])
        first, second = (index.ravel() for index in np.indices(costs.shape[:2]))
        costs = costs.reshape(-1, 5)
        keep = _keep(_Part(costs, first, least, most), whole, columns, budget)
        rows = np.concatenate([left.rows[some][first[keep]], right.rows[second[keep]]], axis=1)
        slices.append((costs[keep], rows))
    costs, rows = (np.concatenate(column) for column in zip(*slices, strict=True))
    joined = _Part(costs, rows, least, most)
    return joined if len(slices) == 1 else _pruned(joined, whole, columns, budget)


def _pruned(part: _Part, whole: tuple[Ints, Ints], columns: list[int], budget: Budget | None) -> _Part:
    keep = _keep(part, whole, columns, budget)
    return _Part(part.costs[keep], part.rows[keep], part.least, part.most)


def _keep(part: _Part, whole: tuple[Ints, Ints], columns: list[int], budget: Budget | None) -> Ints:
    """Which partials to go on with: their numbers, rising.

    With a budget, partials that break a limit even with the cheapest rest are dropped first. Then a cost so low that
    no rest could break the limit counts as being just that low: partials that differ only below it are equals. A
    limit that cannot bind makes its column constant that way, and the pruning is as cheap as without it.
    """
    if budget is None:
        return nondominated(part.costs[:, columns])
    rest_least, rest_most = whole[0] - part.least, whole[1] - part.most
    costs = part.costs.copy()
    np.maximum(costs[:, PEAK], whole[0][PEAK], out=costs[:, PEAK])
    fits = np.ones(len(costs), dtype=bool)
    harmless = [np.inf]
    if budget.size_bytes is not None:
        fits &= costs[:, BYTES] + rest_least[BYTES] <= budget.size_bytes
        harmless.append(budget.size_bytes)
    if budget.memory_bytes is not None:
        fits &= costs[:, BYTES] + rest_least[BYTES] + costs[:, PEAK] <= budget.memory_bytes
        harmless.append(budget.memory_bytes - whole[1][PEAK])
        np.maximum(costs[:, PEAK], budget.memory_bytes - whole[1][BYTES], out=costs[:, PEAK])
    if BYTES in columns:
        np.maximum(costs[:, BYTES], int(min(harmless)) - rest_most[BYTES], out=costs[:, BYTES])
    if budget.macs is not None:
        fits &= costs[:, MACS] + rest_least[MACS] <= budget.macs
        np.maximum(costs[:, MACS], budget.macs - rest_most[MACS], out=costs[:, MACS])
    alive = np.flatnonzero(fits)
    return alive[nondominated(costs[alive][:, columns])]
