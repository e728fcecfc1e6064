"""The one subnet for several devices: the best by listing, said for each device, refused with what would do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.validation import Rows
from ofa_edge.errors import InfeasibleBudget
from ofa_edge.graph.stored import Stored
from ofa_edge.latency.models.model import Estimate
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import choose
from ofa_edge.search.common.together import Wanted, choose_together
from ofa_edge.search.models import CostModels
from ofa_edge.space.block import Block
from tests.search.doubles import SMALL, DrawnLatency, DrawnScores, keeps, listed


@pytest.fixture(scope="module")
def accuracy():
    archs = [SMALL.sample(np.random.default_rng(i)) for i in range(200)]
    odds = np.array([DrawnScores(1).score(arch) for arch in archs]) - 0.5
    right = np.rint(1000 / (1 + np.exp(-odds))).astype(int)
    return AdditiveAccuracy.fit_measured(Rows.of(SMALL, archs, right, [1000] * len(archs)))


def wanted(latencies, budgets):
    names = (f"board {i}" for i in range(len(latencies)))
    return [
        Wanted(name, CostModels(SMALL, latency, SMALL.resolutions), budget, {"latency-table": str(i) * 64})
        for i, (name, latency, budget) in enumerate(zip(names, latencies, budgets, strict=True))
    ]


def together(asked, accuracy, **more):
    return choose_together(asked, accuracy, resolutions=SMALL.resolutions, **more)


@given(
    seed=st.integers(0, 50),
    shares=st.lists(st.floats(0, 1), min_size=2, max_size=3),
    width=st.sampled_from([0.0, 0.08]),
    macs=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_no_listed_subnet_that_keeps_every_budget_is_better(accuracy, seed, shares, width, macs):
    latencies = [DrawnLatency(seed + 100 * d, width=width) for d in range(len(shares))]
    times = np.array([[one.value(subnet.blocks) * (1 + width) for subnet in listed(SMALL)] for one in latencies])
    limits = [
        float(np.quantile(own, share, method="lower")) * (1 + 1e-7) for own, share in zip(times, shares, strict=True)
    ]
    budgets = [Budget(latency_ms=ms) for ms in limits]
    if macs:
        budgets[-1] = Budget(latency_ms=limits[-1], macs=int(np.median([s.cost.macs for s in listed(SMALL)])))
    fits = (times <= np.array(limits)[:, None]).all(axis=0)
    fits &= np.array([keeps(subnet.cost, budgets[-1]) for subnet in listed(SMALL)])
    asked = wanted(latencies, budgets)
    if not fits.any():
        with pytest.raises(InfeasibleBudget):
            together(asked, accuracy)
        return
    best = max(accuracy.top1(accuracy.score(s.arch)) for s, fit in zip(listed(SMALL), fits, strict=True) if fit)
    found = together(asked, accuracy, top=2)
    first = found[0].selection
    assert {one.selection.arch for one in found} == {first.arch}
    assert first.arch in [subnet.arch for subnet, fit in zip(listed(SMALL), fits, strict=True) if fit]
    assert first.top1.value == first.bound == pytest.approx(best, abs=1e-6)
    assert first.proven_optimal
    for one, asked_for in zip(found, asked, strict=True):
        assert one.selection.budget == asked_for.budget
        assert one.selection.inputs == asked_for.inputs
        own = asked_for.models.latency.estimate(SMALL.blocks(first.arch))
        assert one.selection.latency_ms.value == pytest.approx(own.value, abs=1e-8)
        assert [other.arch for other in one.alternatives] == [other.arch for other in found[0].alternatives]


def test_one_device_alone_gets_what_choose_gives(accuracy):
    latency, budget = DrawnLatency(3, width=0.05), Budget(latency_ms=8.0, memory_bytes=120_000)
    (found,) = together(wanted([latency], [budget]), accuracy)
    alone = choose(CostModels(SMALL, latency, SMALL.resolutions), accuracy, budget, inputs={})
    assert found.selection.top1 == alone.selection.top1
    assert found.selection.bound == alone.selection.bound


def test_modes_of_one_device_are_held_together(accuracy):
    """Each mode may limit something else: the subnet keeps the tightest of all."""
    latency = DrawnLatency(3)
    budgets = [Budget(latency_ms=9.0), Budget(latency_ms=8.0), Budget(macs=600_000)]
    found = together(wanted([latency] * 3, budgets), accuracy)
    models = CostModels(SMALL, latency, SMALL.resolutions)
    both = choose(models, accuracy, Budget(latency_ms=8.0, macs=600_000), inputs={})
    assert found[0].selection.top1 == both.selection.top1
    assert all(said in found[0].selection.model for said in ("board 0: latency=9ms", "board 2: macs=600000", "960"))


def test_devices_that_store_numbers_otherwise_are_limited_by_their_own_bytes(accuracy):
    """One runs int8, one fp32: a limit on memory is another one for each."""
    stored = (Stored("litert", "int8"), Stored())
    costs = {subnet.arch: [one.cost(subnet.blocks) for one in stored] for subnet in listed(SMALL)}
    limits = [sorted(c[i].memory_bytes for c in costs.values())[len(costs) // (3 - i)] for i in (0, 1)]
    asked = [
        Wanted(f"board {i}", CostModels(SMALL, DrawnLatency(i), SMALL.resolutions, stored=stored[i]), budget, {})
        for i, budget in enumerate(Budget(memory_bytes=limit, latency_ms=50.0) for limit in limits)
    ]
    fitting = [a for a, c in costs.items() if all(c[i].memory_bytes <= limits[i] for i in (0, 1))]
    found = together(asked, accuracy)
    best = max(accuracy.estimate(arch).value for arch in fitting)
    for one, i in zip(found, (0, 1), strict=True):
        assert one.selection.top1.value == pytest.approx(best, abs=1e-6)
        assert one.selection.cost == costs[one.selection.arch][i]


def test_the_same_inputs_choose_the_same_bytes(accuracy):
    asked = wanted([DrawnLatency(1, width=0.05), DrawnLatency(2)], [Budget(latency_ms=8.0), Budget(latency_ms=7.5)])
    first, second = ([one.selection.to_bytes() for one in together(asked, accuracy)] for _ in range(2))
    assert first == second


@dataclass(frozen=True)
class OneWide(DrawnLatency):
    """A model whose margin is no bound: the interval of one subnet is wider than it says."""

    wide: tuple[Block, ...] = ()

    def estimate(self, blocks, confidence=0.95):
        value = self.value(blocks)
        return Estimate(value, value, value * (1.5 if blocks == self.wide else 1.0))


def test_the_subnets_own_interval_has_the_last_word(accuracy):
    budgets = [Budget(latency_ms=8.0)] * 2
    plain = together(wanted([OneWide(3), DrawnLatency(4)], budgets), accuracy)
    wide = OneWide(3, wide=SMALL.blocks(plain[0].selection.arch))
    found = together(wanted([wide, DrawnLatency(4)], budgets), accuracy)[0].selection
    assert plain[0].selection.proven_optimal
    assert found.arch == plain[0].alternatives[0].arch
    assert not found.proven_optimal
    assert found.bound == plain[0].selection.top1.value


def test_a_budget_that_no_subnet_keeps_alone_is_named(accuracy):
    asked = wanted([DrawnLatency(1), DrawnLatency(2)], [Budget(latency_ms=9.0), Budget(latency_ms=0.1)])
    with pytest.raises(InfeasibleBudget) as caught:
        together(asked, accuracy)
    error = caught.value
    assert error.message.startswith("board 1: no subnet of small fits latency=0.1ms")
    assert "board 0" not in error.message
    (one,) = error.details["infeasible"]
    assert one["member"] == "board 1"
    assert choose(CostModels(SMALL, DrawnLatency(2), SMALL.resolutions), accuracy, Budget(**one["needed"]), inputs={})


def test_budgets_that_only_contradict_each_other_say_what_one_subnet_keeps(accuracy):
    """What is fastest on one device is not on the other: each limit is kept by some subnet, both by none."""
    latencies = [DrawnLatency(1), DrawnLatency(3)]
    least = [min(one.value(subnet.blocks) for subnet in listed(SMALL)) for one in latencies]
    asked = wanted(latencies, [Budget(latency_ms=ms * 1.001) for ms in least])
    with pytest.raises(InfeasibleBudget, match="each budget is kept by some subnet of small, but none") as caught:
        together(asked, accuracy)
    details = caught.value.details
    assert details["factor"] > 1
    assert "leave --common out" in caught.value.hint
    needed = [Budget(**one["needed"]) for one in details["infeasible"]]
    found = together(wanted(latencies, needed), accuracy)
    assert all(one.selection.latency_ms.value <= budget.latency_ms for one, budget in zip(found, needed, strict=True))
