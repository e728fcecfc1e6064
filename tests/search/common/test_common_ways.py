"""The one subnet for several devices that each run it several ways: the best by listing, over every assignment."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.validation import Rows
from ofa_edge.errors import InfeasibleBudget, UsageError
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.search.budget import Budget
from ofa_edge.search.common.together import Wanted, choose_together
from ofa_edge.search.common.ways import Option, choose_together_of
from ofa_edge.search.models import CostModels
from ofa_edge.search.ways import Way
from tests.search.doubles import SMALL, DrawnLatency, DrawnScores, keeps, listed

RUNS = (RunsOn(), RunsOn("litert"), RunsOn("litert", 2))


@pytest.fixture(scope="module")
def accuracy():
    archs = [SMALL.sample(np.random.default_rng(i)) for i in range(200)]
    odds = np.array([DrawnScores(1).score(arch) for arch in archs]) - 0.5
    right = np.rint(1000 / (1 + np.exp(-odds))).astype(int)
    return AdditiveAccuracy.fit_measured(Rows.of(SMALL, archs, right, [1000] * len(archs)))


@pytest.fixture(scope="module")
def shares(accuracy):
    return np.array([accuracy.estimate(subnet.arch).value for subnet in listed(SMALL)])


def option(member, i, latency, budget, drop=0.0, resolutions=SMALL.resolutions):
    digest = f"{member}{i}" * 32
    wanted = Wanted(f"member {member}", CostModels(SMALL, latency, resolutions), budget, {"latency-table": digest})
    return Option(Way(f"{RUNS[i]}", f"table-{member}-{i}", RUNS[i], drop, digest), wanted)


def shared(resolutions):
    if not resolutions:
        raise UsageError("they share no resolution")
    return tuple(resolutions)


def together(members, accuracy, **more):
    return choose_together_of(members, accuracy, resolutions=shared, **more)


@given(
    seed=st.integers(0, 30),
    share=st.lists(st.floats(0, 0.5), min_size=3, max_size=3),
    counts=st.lists(st.integers(1, 3), min_size=2, max_size=3),
    drops=st.lists(st.sampled_from([0.0, 0.0, 0.003, 0.01]), min_size=9, max_size=9),
    width=st.sampled_from([0.0, 0.08]),
    macs=st.booleans(),
)
# Found by chance: the first member's second way keeps its budget by the subnet's own interval alone.
@example(seed=24, share=[0.5] * 3, counts=[2, 1, 1], drops=[0.003, 0, 0] * 2 + [0.0] * 3, width=0.08, macs=False)
@settings(max_examples=6)
def test_no_subnet_is_worth_more_under_any_assignment(accuracy, shares, seed, share, counts, drops, width, macs):
    """Listed with the margin, which no subnet's own interval is wider than: a way that only the narrower interval of
    the subnet found admits may still be the one it is run, and then it is worth no less."""
    most = int(np.median([subnet.cost.macs for subnet in listed(SMALL)])) if macs else None
    members, fits, lost = [], [], []
    for m, count in enumerate(counts):
        latencies = [DrawnLatency(seed + 100 * m + 1000 * i, width=width) for i in range(count)]
        times = np.array([[one.value(s.blocks) * (1 + width) for s in listed(SMALL)] for one in latencies])
        limit = float(np.quantile(times, share[m], method="lower")) * (1 + 1e-7)
        budget = Budget(latency_ms=limit, macs=most if m == 0 else None)
        own = drops[3 * m : 3 * m + count]
        members.append([option(m, i, one, budget, own[i]) for i, one in enumerate(latencies)])
        keeping = np.array([keeps(s.cost, budget) for s in listed(SMALL)])
        fits.append((times <= limit) & keeping)
        lost.append(own)
    best = -np.inf
    for ways in itertools.product(*(range(count) for count in counts)):
        kept = np.all([own[i] for own, i in zip(fits, ways, strict=True)], axis=0)
        if kept.any():
            best = max(best, shares[kept].max() - max(own[i] for own, i in zip(lost, ways, strict=True)))
    if best == -np.inf:
        with pytest.raises(InfeasibleBudget):
            together(members, accuracy)
        return
    found, ways = together(members, accuracy)
    arch = found[0].selection.arch
    row = next(i for i, subnet in enumerate(listed(SMALL)) if subnet.arch == arch)
    worth = min(chosen.selection.top1.value for chosen in found)
    assert worth >= best - 2e-9
    listed_ways = all(fits[m][way][row] for m, way in enumerate(ways))
    assert not listed_ways or worth == pytest.approx(best, abs=2e-9)
    for m, (chosen, way) in enumerate(zip(found, ways, strict=True)):
        selection = chosen.selection
        assert selection.arch == arch
        assert selection.proven_optimal
        high = selection.latency_ms.high
        assert (selection.latency_ms.value if high is None else high) <= members[m][way].wanted.budget.latency_ms
        assert keeps(selection.cost, members[m][way].wanted.budget)
        assert selection.runs_on == RUNS[way]
        assert selection.inputs["latency-table"] == f"{m}{way}" * 32
        value = members[m][way].wanted.models.latency.value(SMALL.blocks(arch))
        assert selection.latency_ms.value == pytest.approx(value, abs=1e-8)
        assert selection.top1.value == pytest.approx(shares[row] - lost[m][way], abs=2e-9)
        assert selection.top1.value <= selection.bound + 1e-9


def test_one_way_each_is_what_choosing_together_gives(accuracy):
    latencies = [DrawnLatency(1, width=0.05), DrawnLatency(2)]
    budgets = [Budget(latency_ms=float(np.median([x.value(s.blocks) for s in listed(SMALL)]))) for x in latencies]
    members = [[option(i, 0, *pair)] for i, pair in enumerate(zip(latencies, budgets, strict=True))]
    plain = choose_together([options[0].wanted for options in members], accuracy, resolutions=SMALL.resolutions)
    found, ways = together(members, accuracy)
    assert ways == [0, 0]
    for one, other in zip(plain, found, strict=True):
        mine, theirs = one.selection.as_json(), other.selection.as_json()
        assert theirs.pop("runs") == RUNS[0].as_json()
        assert mine == theirs
        assert [x.arch for x in one.alternatives] == [x.arch for x in other.alternatives]


def test_a_member_is_run_the_fastest_way_that_keeps_its_budget(accuracy):
    """Both ways keep the loose budget; the assignment of the tight one does not bind it."""
    slow, fast = DrawnLatency(1, offset_ms=1.0), DrawnLatency(1, offset_ms=0.25)
    members = [
        [option(m, i, latency, Budget(latency_ms=1e3)) for i, latency in enumerate((slow, fast))] for m in (0, 1)
    ]
    assert together(members, accuracy)[1] == [1, 1]


def test_modes_may_run_different_ways(accuracy):
    """What is quick costs accuracy: only the budget that needs it pays."""
    slow, fast = DrawnLatency(1, offset_ms=10.0), DrawnLatency(1, offset_ms=0.0)
    members = [
        [option(m, 0, slow, Budget(latency_ms=ms)), option(m, 1, fast, Budget(latency_ms=ms), 0.01)]
        for m, ms in enumerate((1e3, 9.0))
    ]
    found, ways = together(members, accuracy)
    assert ways == [0, 1]
    full, low = (chosen.selection for chosen in found)
    assert full.top1.value - low.top1.value == pytest.approx(0.01, abs=2e-9)
    assert full.bound - low.bound == pytest.approx(0.01, abs=2e-9)


def test_ways_that_share_no_resolution_are_passed_over(accuracy):
    quick = DrawnLatency(1, offset_ms=0.0)
    first = [option(0, 0, quick, Budget(latency_ms=1e3), resolutions=(17,))]
    second = [
        option(1, 0, quick, Budget(latency_ms=1e3), resolutions=(32,)),
        option(1, 1, DrawnLatency(2), Budget(latency_ms=1e3), resolutions=(17, 32)),
    ]
    found, ways = together([first, second], accuracy)
    assert ways == [0, 1]
    assert found[0].selection.arch.resolution == 17
    with pytest.raises(UsageError, match="share no resolution"):
        together([first, second[:1]], accuracy)


def test_a_refusal_names_the_way_that_is_nearest(accuracy):
    latencies = [DrawnLatency(1, offset_ms=30.0), DrawnLatency(1, offset_ms=20.0)]
    budget = Budget(latency_ms=10.0)
    members = [[option(m, i, latency, budget) for i, latency in enumerate(latencies)] for m in (0, 1)]
    members[1] = [option(1, 0, DrawnLatency(2, offset_ms=0.0), Budget(latency_ms=1e3))]
    with pytest.raises(InfeasibleBudget) as caught:
        together(members, accuracy)
    (one,) = caught.value.details["infeasible"]
    assert (one["member"], one["table"], one["runs"]["runtime"]) == ("member 0", "table-0-1", "litert")
    enough = Budget(**one["needed"])
    members[0] = [option(0, i, latency, enough) for i, latency in enumerate(latencies)]
    assert together(members, accuracy)[1][0] == 1
