"""Random search keeps the budget, promises no optimum, and never beats the search that is exact."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.validation import Rows
from ofa_edge.errors import InfeasibleBudget, UsageError
from ofa_edge.graph.stored import Stored
from ofa_edge.search.batch import BatchCosts
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import choose
from ofa_edge.search.models import CostModels
from ofa_edge.search.sampled.within import choose_random, fits_within
from ofa_edge.search.selection import Selection
from ofa_edge.space.cost import cost
from ofa_edge.space.population import ArchArrays
from tests.search.doubles import REDUCED, SMALL, DrawnLatency, keeps
from tests.search.test_choose import INPUTS, counts

LATENCY = DrawnLatency(7)
MODELS = CostModels(SMALL, LATENCY, SMALL.resolutions)


@pytest.fixture(scope="module")
def accuracy():
    archs = [SMALL.sample(np.random.default_rng(i)) for i in range(200)]
    return AdditiveAccuracy.fit_measured(Rows.of(SMALL, archs, counts(1, archs), [1000] * len(archs)))


def drawn(accuracy, budget, samples, **more):
    return choose_random(MODELS, accuracy, budget, inputs=INPUTS, samples=samples, **more)


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
    exact = choose(MODELS, accuracy, budget, inputs=INPUTS)
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


def test_a_budget_that_nothing_fits_is_refused_with_the_exact_searchs_certificate(accuracy):
    budget, errors = Budget(latency_ms=0.7, macs=10), []
    for search in (choose_random, choose):
        more = {"samples": 50} if search is choose_random else {}
        with pytest.raises(InfeasibleBudget) as caught:
            search(MODELS, accuracy, budget, inputs=INPUTS, **more)
        errors.append((caught.value.message, caught.value.hint, caught.value.details))
    assert errors[0] == errors[1]
    assert {"needed", "nearest", "limits"} <= errors[0][2].keys()


def test_a_budget_that_only_drawing_does_not_find_a_subnet_for_is_not_called_infeasible(accuracy):
    """As when one in a billion fits: nothing that is drawn keeps the limits, though the smallest subnet does."""
    from ofa_edge.space.sampling import ATTEMPTS

    least = min(cost(SMALL.blocks(SMALL.smallest(r))).macs for r in SMALL.resolutions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchCosts, "keep", lambda self, archs, limits: np.zeros(len(archs), dtype=bool))
        with pytest.raises(InfeasibleBudget, match=f"none of {ATTEMPTS:,} drawn .* though some do") as caught:
            drawn(accuracy, Budget(macs=least), 50)
    assert "--strategy exact" in caught.value.hint


def test_the_predicate_is_the_budget():
    archs = [SMALL.sample(np.random.default_rng(i)) for i in range(100)]
    limits = sorted(cost(SMALL.blocks(arch)).macs for arch in archs)
    budget = Budget(macs=limits[50], size_bytes=10**9)
    fits = fits_within(SMALL, budget)
    assert [fits(arch) for arch in archs] == [keeps(cost(SMALL.blocks(arch)), budget) for arch in archs]
    assert sum(map(fits, archs)) >= 51
    int8 = Stored("onnxruntime", "int8")
    budget = Budget(size_bytes=sorted(int8.cost(SMALL.blocks(arch)).weight_bytes for arch in archs)[50])
    for latency in (None, LATENCY):
        fits = fits_within(SMALL, budget, latency, stored=int8)
        assert [fits(arch) for arch in archs] == [keeps(int8.cost(SMALL.blocks(arch)), budget) for arch in archs]
    with pytest.raises(UsageError, match="needs a latency table"):
        fits_within(SMALL, Budget(latency_ms=1.0))


def test_drawing_ends_where_hits_are_rare():
    """About one draw in 250 fits: it ends with those it found, and says how many they were."""
    archs = ArchArrays.sample(REDUCED, np.random.default_rng(0), 4000, REDUCED.resolutions)
    ms = BatchCosts(REDUCED, LATENCY, REDUCED.resolutions).latency_ms(archs)
    budget = Budget(latency_ms=float(np.quantile(ms, 0.004)))
    rows = [REDUCED.sample(np.random.default_rng(i)) for i in range(60)]
    model = AdditiveAccuracy.fit_measured(Rows.of(REDUCED, rows, [500 + 3 * sum(a.depths) for a in rows], [1000] * 60))
    models = CostModels(REDUCED, LATENCY, REDUCED.resolutions)
    found = choose_random(models, model, budget, inputs=INPUTS, samples=500, seed=2).selection
    drawn_, different = map(int, re.search(r"of (\d+) subnets drawn at random, (\d+) of them", found.model).groups())
    assert 0 < different <= drawn_ < 500
    assert found.latency_ms.value <= budget.latency_ms


def test_what_is_drawn_does_not_break_the_budget_by_its_own_interval(accuracy):
    """The margin of this model is no bound for half of the subnets."""

    class Wider(DrawnLatency):
        def margin(self, confidence=0.95):
            return self.width / 2

    latency, budget = Wider(7, width=0.3), a_budget(0.3)
    models = CostModels(SMALL, latency, SMALL.resolutions)
    found = choose_random(models, accuracy, budget, inputs=INPUTS, samples=100, seed=2, top=20)
    fits = fits_within(SMALL, budget, latency)
    assert all(fits(candidate.arch) for candidate in (found.selection, *found.alternatives))
    drawn_ = drawn(accuracy, budget, 100, seed=2)
    assert found.selection.top1.value <= drawn_.selection.bound
    with pytest.raises(UsageError, match="energy"):
        drawn(accuracy, Budget(energy_mj=1.0), 10)
