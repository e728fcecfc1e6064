"""Random search keeps the budget, promises no optimum, and never beats the search that is exact."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.errors import InfeasibleBudget, UsageError
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import choose
from ofa_edge.search.selection import Selection
from ofa_edge.search.within import choose_random, fits_within
from ofa_edge.space.cost import cost
from tests.search.doubles import SMALL, DrawnLatency, keeps
from tests.search.test_choose import INPUTS, counts

LATENCY = DrawnLatency(7)


@pytest.fixture(scope="module")
def accuracy():
    archs = [SMALL.sample(np.random.default_rng(i)) for i in range(200)]
    return AdditiveAccuracy.fit_rows(SMALL, archs, counts(1, archs), [1000] * len(archs))


def drawn(accuracy, budget, samples, **more):
    return choose_random(
        SMALL, LATENCY, accuracy, budget, resolutions=SMALL.resolutions, inputs=INPUTS, samples=samples, **more
    )


def a_budget(share=0.5):
    archs = [SMALL.sample(np.random.default_rng(i)) for i in range(200)]
    uppers = [LATENCY.estimate(SMALL.blocks(arch)) for arch in archs]
    return Budget(latency_ms=float(np.quantile([e.value if e.high is None else e.high for e in uppers], share)))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_best_of_what_was_drawn_within_the_budget(accuracy, share):
    budget = a_budget(share)
    found = drawn(accuracy, budget, 60, seed=4, top=3)
    fits = fits_within(SMALL, budget, LATENCY)
    candidates = [found.selection, *found.alternatives]
    assert all(fits(candidate.arch) for candidate in candidates)
    values = [candidate.top1.value for candidate in candidates]
    assert values == sorted(values, reverse=True)
    assert len({candidate.arch for candidate in candidates}) == len(candidates) == 4
    exact = choose(SMALL, LATENCY, accuracy, budget, resolutions=SMALL.resolutions, inputs=INPUTS)
    assert found.selection.top1.value <= exact.selection.top1.value <= found.selection.bound
    assert found.selection == drawn(accuracy, budget, 60, seed=4).selection
    more = drawn(accuracy, budget, 240, seed=4).selection
    assert more.top1.value >= found.selection.top1.value, "more draws begin with the fewer"


def test_it_says_what_it_is_and_proves_nothing(accuracy):
    found = drawn(accuracy, a_budget(), 50, seed=1).selection
    assert (found.strategy, found.proven_optimal, found.seed) == ("random", False, 1)
    assert "of 50 subnets drawn at random" in found.model
    assert "predicted" in found.model
    assert Selection.from_bytes(found.to_bytes(), "lock", SMALL) == found


def test_a_budget_that_nothing_fits_ends(accuracy):
    with pytest.raises(InfeasibleBudget, match="not even the smallest"):
        drawn(accuracy, Budget(macs=10), 50)


def test_the_predicate_is_the_budget():
    archs = [SMALL.sample(np.random.default_rng(i)) for i in range(100)]
    limits = sorted(cost(SMALL.blocks(arch)).macs for arch in archs)
    budget = Budget(macs=limits[50], size_bytes=10**9)
    fits = fits_within(SMALL, budget)
    assert [fits(arch) for arch in archs] == [keeps(cost(SMALL.blocks(arch)), budget) for arch in archs]
    assert sum(map(fits, archs)) >= 51
    with pytest.raises(UsageError, match="needs a latency table"):
        fits_within(SMALL, Budget(latency_ms=1.0))
