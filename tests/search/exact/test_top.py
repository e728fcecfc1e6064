"""The top of the front under limits is what listing gives, with thresholds high and low, and says when it is all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.search.budget import Budget
from ofa_edge.search.costs import CostTables
from ofa_edge.search.exact.frontier import exact_front
from ofa_edge.search.exact.milp import optimum
from ofa_edge.search.exact.top import best_front
from ofa_edge.search.limits import Limits
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import OFA_LITE0, SPACES
from tests.search.budgets import SEEDS, budgets, fitting, nothing_runs
from tests.search.doubles import (
    COUPLED,
    REDUCED,
    SMALL,
    DrawnEnergy,
    DrawnLatency,
    PlacedScores,
    front_by_listing,
)


@pytest.mark.parametrize("space", [SMALL, COUPLED], ids=lambda space: space.name)
@given(seed=SEEDS, core=st.integers(2, 24), count=st.sampled_from([1, 3, 40]), data=st.data())
@settings(max_examples=10)
def test_equals_listing_under_any_limits(space, seed, core, count, data):
    latency = DrawnLatency(seed, failed=data.draw(st.sampled_from([0.0, 0.02])))
    energy, scores = DrawnEnergy(seed), PlacedScores(seed, space=space)
    if nothing_runs(space, latency):
        return
    budget = data.draw(budgets(space, latency, energy))
    kept = fitting(space, latency, energy, budget)
    points = front_by_listing([(latency.value(s.blocks), scores.score(s.arch), s.arch) for s in kept])
    front, whole = best_front(
        space, CostTables(space, latency, energy), scores, space.resolutions, Limits.of(budget), count=count, core=core
    )
    found = list(zip(front.latency_ms.tolist(), front.score.tolist(), strict=True))
    expected = [point[:2] for point in points]
    assert len(found) == len(expected) if whole else len(found) >= count
    assert found == [pytest.approx(point, rel=0, abs=1e-8) for point in expected[len(expected) - len(found) :]]
    for i in range(len(front)):
        subnet = next(subnet for subnet in kept if subnet.arch == front.arch(i))
        assert latency.value(subnet.blocks) == pytest.approx(found[i][0], abs=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_the_top_of_148176_subnets_is_the_fronts(seed):
    latency, scores = DrawnLatency(seed), PlacedScores(seed, space=REDUCED)
    middle = cost(REDUCED.blocks(REDUCED.sample(np.random.default_rng(seed))))
    memory = middle.weight_bytes + middle.peak_activation_bytes
    whole = exact_front(REDUCED, latency, scores, REDUCED.resolutions, Budget(memory_bytes=memory, macs=middle.macs))
    limit = float(np.median(whole.latency_ms)) + 1e-9
    limits = Limits.of(Budget(latency_ms=limit, memory_bytes=memory, macs=middle.macs))
    front, all_of_it = best_front(REDUCED, latency, scores, REDUCED.resolutions, limits, count=2, core=10)
    assert not all_of_it
    assert len(front) >= 2
    expected = whole.score[whole.latency_ms <= limit][-len(front) :]
    assert front.score.tolist() == expected.tolist()


@pytest.mark.parametrize(("name", "resolutions"), [("ofa-lite0", OFA_LITE0.resolutions), ("ofa-resnet50d", (128, 160))])
def test_on_real_spaces_it_is_what_the_integer_program_finds(name, resolutions):
    space = SPACES[name]
    latency, scores, energy = DrawnLatency(5), PlacedScores(5, space=space), DrawnEnergy(5)
    arch = space.sample(np.random.default_rng(3), resolutions[1])
    blocks = space.blocks(arch)
    used = cost(blocks)
    limits = Limits.of(
        Budget(
            latency_ms=latency.value(blocks),
            memory_bytes=used.weight_bytes + used.peak_activation_bytes,
            macs=used.macs,
            energy_mj=energy.value(blocks) * 1.01,
        )
    )
    front, _ = best_front(space, CostTables(space, latency, energy), scores, resolutions, limits)
    program = optimum(space, CostTables(space, latency, energy), scores, resolutions, limits)
    assert program.proven_optimal
    assert front.score[-1] == pytest.approx(program.score, abs=1e-10)
    assert limits.kept(front.costs).all()
    assert front.score[-1] >= scores.score(arch) - 1e-10
