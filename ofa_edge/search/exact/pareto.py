"""Rows of integers that no other row beats: the one pruning step of every front.

In: (n, columns) int64 costs, all to be minimised. Out: the row numbers of the non-dominated rows, rising. Rules
kept: a row is dropped if another is no greater in every column and smaller in one, or equal and earlier; integers
make sums exact, so which rows are equal does not depend on the order of additions. No Python loop over rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# Rows compared with each other at once, and rows kept that they are compared with at once; about the L2 cache.
_BLOCK = 512
_KEPT = 2048
# Two columns of more rows than this are thinned before they are sorted, by the best of so many buckets.
_THINNED = 4096
_BUCKETS = 1024


def nondominated(costs: Ints) -> Ints:
    """Row numbers, rising, of the rows that are on the front; of equal rows the first."""
    if costs.shape[1] == 2 and len(costs) > 1:
        return _two(costs[:, 0], costs[:, 1])
    costs = costs[:, np.ptp(costs, axis=0) > 0] if len(costs) > 1 else costs[:, :0]
    if costs.shape[1] == 0:
        return np.arange(min(1, len(costs)))
    if costs.shape[1] == 1:
        return np.array([np.argmin(costs[:, 0])])
    if costs.shape[1] == 2:
        return _two(costs[:, 0], costs[:, 1])
    return _many(costs)


def _two(a: Ints, b: Ints) -> Ints:
    """Sorted by `a`, the front is where `b` reaches a new minimum; of rows with equal `a` the last such."""
    if len(a) > _THINNED:
        some = _thinned(a, b)
        return np.asarray(some[_sorted_two(a[some], b[some])])
    return _sorted_two(a, b)


def _thinned(a: Ints, b: Ints) -> Ints:
    """Rows, rising, of which those are left out that a row of a lower bucket of `a` beats."""
    low = int(a.min())
    bucket = (a - low) // ((int(a.max()) - low) // _BUCKETS + 1)
    least = np.full(_BUCKETS + 1, np.iinfo(np.int64).max)
    np.minimum.at(least[1:], bucket, b)
    return np.flatnonzero(b < np.minimum.accumulate(least)[bucket])


def _sorted_two(a: Ints, b: Ints) -> Ints:
    order = np.argsort(a, kind="stable")
    falling = b[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = falling[1:] < np.minimum.accumulate(falling)[:-1]
    order = order[new]
    last = np.ones(len(order), dtype=bool)
    last[:-1] = a[order][1:] != a[order][:-1]
    return np.sort(order[last])


def _many(costs: Ints) -> Ints:
    """Strongest rows first, in blocks, each compared with the rows kept so far.

    The order is by the sum of a row's ranks in each column: whoever dominates a row, or equals it and comes
    earlier, stands before it, and the rows most likely to dominate stand first.
    """
    ranks = [np.unique(column, return_inverse=True)[1] for column in costs.T]
    order = np.argsort(np.sum(ranks, axis=0), kind="stable")
    columns = np.ascontiguousarray(np.stack(ranks)[:, order].astype(np.int32))
    kept = np.empty(0, dtype=np.int64)
    for start in range(0, len(order), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(order)))
        for first in range(0, len(kept), _KEPT):
            beaten = _beats(columns[:, kept[first : first + _KEPT]], columns[:, block]).any(axis=0)
            block = block[~np.asarray(beaten)]
        among = np.triu(_beats(columns[:, block], columns[:, block]), k=1)
        block = block[~np.asarray(among.any(axis=0))]
        kept = np.concatenate([kept, block])
    return np.sort(order[kept])


def _beats(left: NDArray[np.int32], right: NDArray[np.int32]) -> NDArray[np.bool_]:
    """[i, j]: row i of `left` is no greater in any column than row j of `right`."""
    beats: NDArray[np.bool_] = np.less_equal(left[0][:, None], right[0])
    for a, b in zip(left[1:], right[1:], strict=True):
        beats &= np.less_equal(a[:, None], b)
    return beats
