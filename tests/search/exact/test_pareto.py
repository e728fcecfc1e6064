"""The pruning keeps exactly the rows that no other row beats, and of equal rows the first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.search.exact.pareto import nondominated


def by_comparing_all(costs: np.ndarray) -> list[int]:
    kept = []
    for i, row in enumerate(costs):
        beaten = any((other <= row).all() and ((other < row).any() or j < i) for j, other in enumerate(costs) if j != i)
        if not beaten:
            kept.append(i)
    return kept


@given(columns=st.integers(1, 5), count=st.integers(0, 60), levels=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_equals_comparing_every_pair(columns, count, levels, seed):
    costs = np.random.default_rng(seed).integers(-levels, levels, (count, columns))
    assert nondominated(costs).tolist() == by_comparing_all(costs)


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_holds_across_blocks_of_many_rows(columns):
    """More rows, kept and dropped, than are compared at once."""
    costs = np.random.default_rng(columns).integers(0, 400, (6000, columns))
    costs[:, -1] = 400 * columns - costs[:, :-1].sum(axis=1) + np.random.default_rng(0).integers(0, 3, 6000)
    kept = nondominated(costs)
    assert len(kept) > 100 if columns == 2 else len(kept) > 2100
    front = costs[kept]
    for row in costs[np.setdiff1d(np.arange(6000), kept)]:
        assert (front <= row).all(axis=1).any()
    for i, row in enumerate(front):
        assert not ((front <= row).all(axis=1) & (np.arange(len(front)) != i)).any()


def test_the_rows_of_one_constant_column_are_one():
    assert nondominated(np.array([[3, 7], [3, 7], [3, 7]])).tolist() == [0]
    assert nondominated(np.empty((0, 3), dtype=np.int64)).tolist() == []
