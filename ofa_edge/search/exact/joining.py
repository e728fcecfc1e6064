"""Partial subnets and their joining: the inside of every exact front.

In: tables of choices with integer costs, as links of the chain of stem, stages and head. Out: whole subnets that no
other beats in the columns asked for, within limits. Rules kept: what is dropped is beaten by something that is kept and
joins with all that it joins with, or breaks a limit with even the cheapest rest; no Python loop over subnets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ofa_edge.search.costs import COLUMNS, FAILED, HELD, LATENCY, LOSS, PEAK, total
from ofa_edge.search.exact.pareto import Ints, nondominated
from ofa_edge.search.limits import Limits

# A column beside the costs, of partials that are to stay above a score (cuts.py): what they lose, less what a subnet
# may lose; above 0 no subnet with them is wanted.
CUT = len(COLUMNS)

# Rows of one join that are in memory at once (56 bytes each and as much again for sorting).
_ROWS = 1 << 17


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Partial subnets: some neighbouring links of the chain of stem, stages and head.

    Attributes:
        first, last: (n,) numbers of the width before and after; neighbours join where these are equal.
        costs: (n, COLUMNS), or with CUT beside them; sums and, for PEAK, the maximum.
        rows: (n, k) as in Front; where widths are fixed, in lexicographic order.
        least, most: (COLUMNS,) bounds of each column over all choices of these links, also those pruned.
    """

    first: Ints
    last: Ints
    costs: Ints
    rows: Ints
    least: Ints
    most: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def some(self, keep: Any) -> Part:
        """Those rows."""
        return Part(self.first[keep], self.last[keep], self.costs[keep], self.rows[keep], self.least, self.most)

    def beside(self, column: Ints) -> Part:
        """With one more column of costs (n,)."""
        costs = np.concatenate([self.costs, column[:, None]], axis=1)
        return replace(self, costs=costs, least=costs[0], most=costs[0])


def link(table: Ints, named: Callable[..., tuple[Ints, Ints, list[Ints]]]) -> Part:
    """A table (..., COLUMNS) as a part with a row for each entry.

    Args:
        named: of the entry's indices, its first, last and rows.
    """
    first, last, rows = named(*(index.ravel() for index in np.indices(table.shape[:-1])))
    costs = table.reshape(-1, table.shape[-1])
    columns = np.stack(rows, axis=1) if rows else np.empty((len(costs), 0), dtype=np.int64)
    return Part(first, last, costs, columns, costs[0], costs[0])


def running(part: Part) -> Part:
    """The choices that can run, with bounds over them."""
    found = part.some(part.costs[:, LATENCY] < FAILED)
    return replace(found, least=found.costs.min(axis=0), most=found.costs.max(axis=0)) if len(found) else found


def cut_down(parts: Sequence[Part]) -> list[Part]:
    """Without the choices whose CUT is above 0 with the least of all others."""
    if not all(map(len, parts)):
        return list(parts)
    least = sum(int(part.least[CUT]) for part in parts)
    keep = [part.some(part.costs[:, CUT] + (least - part.least[CUT]) <= 0) for part in parts]
    return [running(part) for part in keep]


def merge(parts: Sequence[Part], columns: list[int], limits: Limits | None) -> Part:
    """Non-dominated whole subnets at one resolution; none where nothing can run.

    Grown from both ends, the smaller part first, so that the last and largest join is pruned by two columns.
    """
    whole = bounds(*parts)
    left, *middle, right = (_pruned(part, whole, columns, limits) for part in parts)
    while middle:
        if len(left) <= len(right):
            left = _join(left, middle.pop(0), whole, columns, limits)
        else:
            right = _join(middle.pop(), right, whole, columns, limits)
    last = [column for column in columns if column in (LATENCY, LOSS)] if LOSS in columns else columns
    return _join(left, right, whole, last, limits)


def bounds(*parts: Part) -> tuple[Ints, Ints]:
    """Least and most of each column over the parts together."""
    return total(np.stack([p.least for p in parts]), axis=0), total(np.stack([p.most for p in parts]), axis=0)


def _join(left: Part, right: Part, whole: tuple[Ints, Ints], columns: list[int], limits: Limits | None) -> Part:
    """Every partial of `left` followed by every one of `right` that begins with the width it ends with, pruned; in
    slices, so that memory is bounded."""
    least, most = bounds(left, right)
    slices = []
    for width in np.unique(left.last):
        before, after = left.some(left.last == width), right.some(right.first == width)
        step = max(1, _ROWS // max(1, len(after)))
        for start in range(0, len(before) if len(after) else 0, step):
            some = before.some(slice(start, start + step))
            if limits is None and CUT not in range(some.costs.shape[1]):
                slices.append(_front_of_pairs(some, after, least, most, columns))
            else:
                slices.append(_pruned(_pairs(some, after, least, most), whole, columns, limits))
    if len(slices) == 1:
        return slices[0]
    if not slices:
        return _pairs(left.some(slice(0)), right.some(slice(0)), least, most)
    first, last, costs, rows = (
        np.concatenate(column) for column in zip(*((p.first, p.last, p.costs, p.rows) for p in slices), strict=True)
    )
    return _pruned(Part(first, last, costs, rows, least, most), whole, columns, limits)


def _pairs(left: Part, right: Part, least: Ints, most: Ints) -> Part:
    i, j = (index.ravel() for index in np.indices((len(left), len(right))))
    return _some_pairs(left, right, i, j, least, most)


def _some_pairs(left: Part, right: Part, i: Ints, j: Ints, least: Ints, most: Ints) -> Part:
    """Rows `i` of the left followed by rows `j` of the right."""
    costs = left.costs[i] + right.costs[j]
    np.maximum(left.costs[i, PEAK], right.costs[j, PEAK], out=costs[:, PEAK])
    rows = np.concatenate([left.rows[i], right.rows[j]], axis=1)
    return Part(left.first[i], right.last[j], costs, rows, least, most)


def _front_of_pairs(left: Part, right: Part, least: Ints, most: Ints, columns: Sequence[int]) -> Part:
    """The non-dominated of all pairs, without limits: only the columns compared are added up for all."""
    added = []
    for column in columns:
        join = np.maximum if column == PEAK else np.add
        added.append(join(left.costs[:, None, column], right.costs[:, column]).ravel())
    first, last = np.repeat(left.first, len(right)), np.tile(right.last, len(left))
    keep = _front_among(first, last, np.stack(added).T)
    i, j = np.divmod(keep, len(right))
    return _some_pairs(left, right, i, j, least, most)


def _pruned(part: Part, whole: tuple[Ints, Ints], columns: list[int], limits: Limits | None) -> Part:
    return part.some(_keep(part, whole, columns, limits))


def _keep(part: Part, whole: tuple[Ints, Ints], columns: list[int], limits: Limits | None) -> Ints:
    """Which partials to go on with: their numbers, rising.

    With limits, partials that break a limit even with the cheapest rest are dropped first. Then a cost so low that
    no rest could break the limit counts as being just that low: partials that differ only below it are equals. A
    limit that cannot bind makes its column constant that way, and the pruning is as cheap as without it.
    """
    if limits is None and part.costs.shape[1] == len(COLUMNS):
        return _front_of(part, np.arange(len(part)), part.costs, columns)
    rest_least, rest_most = whole[0] - part.least, whole[1] - part.most
    costs = part.costs.copy()
    np.maximum(costs[:, PEAK], whole[0][PEAK], out=costs[:, PEAK])
    limits = limits or Limits()
    fits = np.ones(len(costs), dtype=bool)
    if costs.shape[1] > CUT:
        fits &= costs[:, CUT] + rest_least[CUT] <= 0
    harmless = dict(limits.sums)
    for column, limit in limits.sums.items():
        fits &= costs[:, column] + rest_least[column] <= limit
    if limits.memory is not None:
        fits &= costs[:, HELD] + rest_least[HELD] + costs[:, PEAK] <= limits.memory
        harmless[HELD] = limits.memory - int(whole[1][PEAK])
        np.maximum(costs[:, PEAK], limits.memory - whole[1][HELD], out=costs[:, PEAK])
    for column, limit in harmless.items():
        if column != LATENCY:
            np.maximum(costs[:, column], limit - rest_most[column], out=costs[:, column])
    alive = np.flatnonzero(fits)
    return _front_of(part, alive, costs, columns)


def _front_of(part: Part, alive: Ints, costs: Ints, columns: list[int]) -> Ints:
    """The non-dominated of these partials."""
    return alive[_front_among(part.first[alive], part.last[alive], costs[alive][:, columns])]


def _front_among(first: Ints, last: Ints, costs: Ints) -> Ints:
    """Numbers, rising, of the non-dominated rows (n, columns), each compared with those of the same widths at both
    ends."""
    if not first.any() and not last.any():
        return nondominated(costs)
    ends = first * (int(last.max(initial=0)) + 1) + last
    groups = [np.flatnonzero(ends == end) for end in np.unique(ends)]
    kept = [group[nondominated(costs[group])] for group in groups]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *kept]))
