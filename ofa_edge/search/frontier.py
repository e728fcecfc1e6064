"""The exact front of a whole space: no subnet is both faster and better than one on it.

In: a Space, a latency that is a sum over blocks, a score that is a sum over stages, the resolutions, and side
limits. Out: a `Front`: every subnet that is optimal for some latency budget, at all resolutions at once.

How: at one resolution a subnet's latency and score are sums over stem, stages and head, so a partial subnet that
another partial of the same stages beats in both can be dropped without losing a point of the front. Stages are
enumerated whole and joined one by one from both ends, pruning after each join. Elastic widths couple neighbouring
stages: there a partial is compared with those of the same widths at both ends only. Limits on MACs and weight bytes are
further sums, and peak activation a maximum: where such a limit can still bind it is one more column of the pruning, so
fronts under side limits are exact too.

Rules kept: exact for the model that is given; latency is rounded to picoseconds and the score to 1e-12, so sums
are integers and ties are real. Of subnets equal in latency and score the one with the lower resolution stays, then
the one that comes first in `Stage.choices()` order, stage by stage (shallower, smaller); under side limits and among
elastic widths a tie may fall to another subnet, but always to the same. No Python loop over subnets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.search.budget import Budget
from ofa_edge.search.costs import BYTES, FAILED, LATENCY, LOSS, MACS, PEAK, PER_MS, BlockLatencies, Costs, Widths, total
from ofa_edge.search.pareto import Ints, nondominated
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.arrays import StageArrays

Floats = NDArray[np.float64]

PER_SCORE = 10**12

# Rows of one join that are in memory at once (40 bytes each and as much again for sorting).
_ROWS = 1 << 17
_MOST_CHOICES = 1 << 20


class StageScores(Protocol):
    """score(arch) = offset(resolution) + sum of stage_scores over its stages + shared_scores; higher is better."""

    def offset(self, resolution: int) -> float: ...

    def stage_scores(self, stage_index: int, values: StageArrays) -> Floats: ...

    def width_scores(self, place: int) -> Floats:
        """What each of `Space.width_choices[place]` adds; asked only of spaces with elastic widths."""
        ...

    def stem_depth_scores(self) -> Floats:
        """What each of the stem's depths adds; asked only where there are several."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Front:
    """Optimal subnets, fastest first; latency and score both rise strictly.

    Attributes:
        resolution: (n,) input size of each point, in pixels.
        rows: (n, 2 + 2 x stages + 1): numbers of the stem's middle width, the width after it and its depth, then for
            each stage of its choice in `Stage.choices()` and of the width after it.
        costs: (n, 5) integers with the columns of costs.py; use the properties.
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
        return _arch(self.space, int(self.resolution[index]), self.rows[index])


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
        UsageError: a stage of the space has too many choices to enumerate, or no resolution is given.
    """
    _check(space)
    if not resolutions:
        raise UsageError("there is no resolution to search at", hint="give tables that share one")
    values = [StageArrays.all(stage) for stage in space.stages]
    columns = [LATENCY, LOSS, *_limited(budget, side_only=True)]
    widths = Widths.of(space)
    losses = _losses(space, widths, score, values)
    parts = []
    for resolution in sorted(set(resolutions)):
        of_head = -_whole(np.full(widths.around[-1], score.offset(resolution)), PER_SCORE)
        chain = _chain(Costs.of(space, latency, resolution), values, [*losses, of_head])
        found = _merge(chain, columns, budget)
        parts.append((np.full(len(found.rows), resolution), found.rows, found.costs))
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
        UsageError: as `exact_front`.
        BadFile: no subnet can run at all.
    """
    _check(space)
    values = [StageArrays.all(stage) for stage in space.stages]
    best: tuple[float, Arch] | None = None
    for resolution in sorted(set(resolutions)):
        found = _merge(_chain(Costs.of(space, latency, resolution), values), _limited(budget), None)
        if len(found.rows) == 0:
            continue
        factors = np.max(_shares(found.costs, budget, margin), axis=1)
        i = int(np.argmin(factors))
        if best is None or factors[i] < best[0]:
            best = float(factors[i]), _arch(space, resolution, found.rows[i])
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


def _check(space: Space) -> None:
    for s, stage in enumerate(space.stages):
        if stage.count() > _MOST_CHOICES:
            raise UsageError(
                f"stage {s} of {space.name} has {stage.count():,} choices; the exact search enumerates at most"
                f" {_MOST_CHOICES:,}",
                hint="use --strategy table or --strategy random",
            )


def _whole(values: Any, scale: int) -> Ints:
    return np.rint(np.asarray(values, dtype=np.float64) * scale).astype(np.int64)


def _arch(space: Space, resolution: int, row: Ints) -> Arch:
    middle, before, depth, *rest = map(int, row)
    stages = tuple(StageArrays.all(stage).choice(n) for stage, n in zip(space.stages, rest[::2], strict=True))
    numbers = (middle, before, *rest[1::2])
    widths = tuple(choices[n] for choices, n in zip(space.width_choices, numbers, strict=False))
    return Arch(resolution, stages, widths, space.stem.depths[depth])


# -- parts --------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Partial subnets: some neighbouring links of the chain of stem, stages and head.

    Attributes:
        first, last: (n,) numbers of the width before and after; neighbours join where these are equal.
        costs: (n, 5), sums and, for PEAK, the maximum.
        rows: (n, k) as in Front; where widths are fixed, in lexicographic order.
        least, most: (5,) bounds of each column over all choices of these links, also those pruned.
    """

    first: Ints
    last: Ints
    costs: Ints
    rows: Ints
    least: Ints
    most: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def some(self, keep: Any) -> _Part:
        """Those rows."""
        return _Part(self.first[keep], self.last[keep], self.costs[keep], self.rows[keep], self.least, self.most)


def _chain(costs: Costs, values: Sequence[StageArrays], losses: Sequence[Ints] | None = None) -> list[_Part]:
    """Stem, stages and head as parts; LOSS is 0 where no losses are given (see `_losses`)."""
    links = [_link(costs.stem, lambda m, a, d: (0 * a, a, [m, a, d]))]
    links += [_link(costs.of_stage(s, v), lambda b, a, n: (b, a, [n, a])) for s, v in enumerate(values)]
    links.append(_link(costs.head, lambda b: (b, 0 * b, [])))
    if losses is not None:
        for part, loss in zip(links, losses, strict=True):
            part.costs[:, LOSS] = loss
    return [_running(part) for part in links]


def _link(table: Ints, named: Callable[..., tuple[Ints, Ints, list[Ints]]]) -> _Part:
    """A table (..., 5) as a part with a row for each entry.

    Args:
        named: of the entry's indices, its first, last and rows.
    """
    first, last, rows = named(*(index.ravel() for index in np.indices(table.shape[:-1])))
    costs = table.reshape(-1, table.shape[-1])
    columns = np.stack(rows, axis=1) if rows else np.empty((len(costs), 0), dtype=np.int64)
    return _Part(first, last, costs, columns, costs[0], costs[0])


def _running(part: _Part) -> _Part:
    """The choices that can run, with bounds over them."""
    found = part.some(part.costs[:, LATENCY] < FAILED)
    return replace(found, least=found.costs.min(axis=0), most=found.costs.max(axis=0)) if len(found) else found


def _losses(space: Space, widths: Widths, score: StageScores, values: Sequence[StageArrays]) -> list[Ints]:
    """What stem and stages add to LOSS, in the order of `_chain`'s entries."""
    of_width = [np.zeros(n) for n in (widths.middle, *widths.around)]
    if space.elastic_width:
        of_width = [score.width_scores(place) for place in range(len(of_width))]
    depths = space.stem.depths
    of_depth = score.stem_depth_scores() if len(depths) > 1 else np.zeros(1)
    tables = [of_width[0][:, None, None] + of_width[1][:, None] + of_depth]
    for s, stage_values in enumerate(values):
        alike = np.zeros(widths.around[s])[:, None, None]  # what the width before adds was counted there
        tables.append(alike + of_width[s + 2][:, None] + score.stage_scores(s, stage_values))
    return [-_whole(table.ravel(), PER_SCORE) for table in tables]


# -- joining ------------------------------------------------------------------------------------
def _merge(parts: Sequence[_Part], columns: list[int], budget: Budget | None) -> _Part:
    """Non-dominated whole subnets at one resolution; none where nothing can run.

    Grown from both ends, the smaller part first, so that the last and largest join is pruned by two columns.
    """
    whole = _bounds(*parts)
    left, *middle, right = (_pruned(part, whole, columns, budget) for part in parts)
    while middle:
        if len(left) <= len(right):
            left = _join(left, middle.pop(0), whole, columns, budget)
        else:
            right = _join(middle.pop(), right, whole, columns, budget)
    last = [column for column in columns if column in (LATENCY, LOSS)] if LOSS in columns else columns
    return _join(left, right, whole, last, budget)


def _bounds(*parts: _Part) -> tuple[Ints, Ints]:
    """Least and most of each column over the parts together."""
    return total(np.stack([p.least for p in parts]), axis=0), total(np.stack([p.most for p in parts]), axis=0)


def _join(left: _Part, right: _Part, whole: tuple[Ints, Ints], columns: list[int], budget: Budget | None) -> _Part:
    """Every partial of `left` followed by every one of `right` that begins with the width it ends with, pruned; in
    slices, so that memory is bounded."""
    least, most = _bounds(left, right)
    slices = []
    for width in np.unique(left.last):
        before, after = left.some(left.last == width), right.some(right.first == width)
        step = max(1, _ROWS // max(1, len(after)))
        for start in range(0, len(before) if len(after) else 0, step):
            pairs = _pairs(before.some(slice(start, start + step)), after, least, most)
            slices.append(_pruned(pairs, whole, columns, budget))
    if len(slices) == 1:
        return slices[0]
    if not slices:
        return _pairs(left.some(slice(0)), right.some(slice(0)), least, most)
    first, last, costs, rows = (
        np.concatenate(column) for column in zip(*((p.first, p.last, p.costs, p.rows) for p in slices), strict=True)
    )
    return _pruned(_Part(first, last, costs, rows, least, most), whole, columns, budget)


def _pairs(left: _Part, right: _Part, least: Ints, most: Ints) -> _Part:
    costs = left.costs[:, None] + right.costs
    np.maximum(left.costs[:, None, PEAK], right.costs[:, PEAK], out=costs[:, :, PEAK])
    i, j = (index.ravel() for index in np.indices(costs.shape[:2]))
    rows = np.concatenate([left.rows[i], right.rows[j]], axis=1)
    return _Part(left.first[i], right.last[j], costs.reshape(-1, costs.shape[2]), rows, least, most)


def _pruned(part: _Part, whole: tuple[Ints, Ints], columns: list[int], budget: Budget | None) -> _Part:
    return part.some(_keep(part, whole, columns, budget))


def _keep(part: _Part, whole: tuple[Ints, Ints], columns: list[int], budget: Budget | None) -> Ints:
    """Which partials to go on with: their numbers, rising.

    With a budget, partials that break a limit even with the cheapest rest are dropped first. Then a cost so low that
    no rest could break the limit counts as being just that low: partials that differ only below it are equals. A
    limit that cannot bind makes its column constant that way, and the pruning is as cheap as without it.
    """
    if budget is None:
        return _front_of(part, np.arange(len(part)), part.costs, columns)
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
    return _front_of(part, alive, costs, columns)


def _front_of(part: _Part, alive: Ints, costs: Ints, columns: list[int]) -> Ints:
    """The non-dominated of these partials, each compared with those of the same widths at both ends."""
    ends = part.first[alive] * (int(part.last.max(initial=0)) + 1) + part.last[alive]
    groups = [alive[ends == end] for end in np.unique(ends)]
    kept = [group[nondominated(costs[group][:, columns])] for group in groups]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *kept]))
